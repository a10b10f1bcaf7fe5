package {{ package }};

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * WordPiece tokenizer: reads tokenizer.txt and vocab.txt, which were made from the model's own tokenizer. Nothing of the
 * system's Unicode data is used (it differs from phone to phone): what happens to every character stands in the tables.
 */
public final class WordPiece {
    private static final int HANGUL = 0xAC00;
    private static final int HANGUL_END = 0xD7A4;

    /** A token id, and where in the text (Java chars) it came from. */
    public static final class Token {
        public final int id;
        public final int start;
        public final int end;

        Token(int id, int start, int end) {
            this.id = id;
            this.start = start;
            this.end = end;
        }
    }

    private static final class Special {
        int id;
        boolean normalized;
        boolean left;
        boolean right;
        int[] content;
    }

    /** Code points, and the chars of the text that each was made from. */
    private static final class Chars {
        int[] c = new int[64];
        int[] start = new int[64];
        int[] end = new int[64];
        int size;

        void add(int point, int from, int to) {
            if (size == c.length) {
                c = Arrays.copyOf(c, 2 * size);
                start = Arrays.copyOf(start, 2 * size);
                end = Arrays.copyOf(end, 2 * size);
            }
            c[size] = point;
            start[size] = from;
            end[size++] = to;
        }

        Chars part(int from, int to) {
            Chars made = new Chars();
            for (int i = from; i < to; i++) made.add(c[i], start[i], end[i]);
            return made;
        }
    }

    private interface Rest {
        void take(Chars chars);
    }

    private final Map<String, Integer> vocabulary = new HashMap<>();
    private final Map<Integer, int[]> replaced = new HashMap<>();
    private final List<Special> specials = new ArrayList<>();
    private final List<String> spellings = new ArrayList<>();
    private int[][] single;
    private int[][] pair;
    private int[][] spaces;
    private int[][] alone;
    private int[][] dropped;
    private int[][] spaced;
    private String prefix;
    private int unknown;
    private int longestWord;
    private boolean hangul;

    /** Reads both streams and closes them; on Android, {@code context.getAssets().open("tokenizer.txt")}. */
    public WordPiece(InputStream tables, InputStream words) throws IOException {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(tables, StandardCharsets.UTF_8))) {
            String line = reader.readLine();
            if (!"plm-export-wordpiece\t1".equals(line)) throw new IOException("tokenizer.txt is of another format");
            while ((line = reader.readLine()) != null) read(line.split("\t", -1));
        }
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(words, StandardCharsets.UTF_8))) {
            for (String line; (line = reader.readLine()) != null; spellings.add(line)) {
                vocabulary.put(line, spellings.size());
            }
        }
    }

    /** Ids for the model, cut to {@code maxLength}: the longer text first, or (onlySecond) the second alone. */
    public Encoded encode(String text, String second, int maxLength, boolean onlySecond) {
        List<Token> first = tokens(text);
        List<Token> other = second == null ? new ArrayList<Token>() : tokens(second);
        int[][] around = second == null ? single : pair;
        int special = 0;
        for (int[] slot : around) if (slot[0] < 0) special++;
        int[] keep =
                kept(first.size(), other.size(), Math.max(0, maxLength - special), onlySecond && second != null);
        Encoded made = new Encoded(special + keep[0] + keep[1]);
        int at = 0;
        for (int[] slot : around) {
            int count = slot[0] < 0 ? 1 : keep[slot[0]];
            for (int i = 0; i < count; i++, at++) {
                Token token = slot[0] < 0 ? new Token(slot[1], 0, 0) : (slot[0] == 0 ? first : other).get(i);
                made.ids[at] = token.id;
                made.types[at] = slot[2];
                made.part[at] = slot[0];
                made.start[at] = token.start;
                made.end[at] = token.end;
            }
        }
        return made;
    }

    /** One text, without the special tokens around it. */
    public List<Token> tokens(String text) {
        final List<Token> made = new ArrayList<>();
        Chars raw = new Chars();
        for (int i = 0; i < text.length(); ) {
            int point = text.codePointAt(i);
            int next = i + Character.charCount(point);
            // Half a surrogate pair is no character.
            raw.add(point >= 0xD800 && point < 0xE000 ? 0xFFFD : point, i, next);
            i = next;
        }
        split(raw, false, made, chunk -> split(normalize(chunk), true, made, part -> words(part, made)));
        return made;
    }

    /** The spelling of a token id. */
    public String spelling(int id) {
        return id >= 0 && id < spellings.size() ? spellings.get(id) : "";
    }

    /** Where the words that white space separates begin and end: {start, end}, in chars. */
    public List<int[]> wordSpans(String text) {
        List<int[]> made = new ArrayList<>();
        boolean inside = false;
        for (int i = 0; i < text.length(); i++) {
            // All white space lies in the first plane of Unicode: one char each.
            boolean space = in(spaces, text.charAt(i));
            if (!space && !inside) made.add(new int[] {i, i});
            if (!space) made.get(made.size() - 1)[1] = i + 1;
            inside = !space;
        }
        return made;
    }

    private void read(String[] cells) {
        String value = cells[1];
        switch (cells[0]) {
            case "unknown": unknown = Integer.parseInt(value); break;
            case "prefix": prefix = value; break;
            case "longest_word": longestWord = Integer.parseInt(value); break;
            case "hangul": hangul = value.equals("1"); break;
            case "single": single = slots(value); break;
            case "pair": pair = slots(value); break;
            case "spaces": spaces = ranges(value); break;
            case "alone": alone = ranges(value); break;
            case "dropped": dropped = ranges(value); break;
            case "spaced": spaced = ranges(value); break;
            case "replace": replaced.put(Integer.parseInt(value, 16), hexes(cells[2])); break;
            case "special":
                Special made = new Special();
                made.id = Integer.parseInt(value);
                made.normalized = cells[2].charAt(0) == '1';
                made.left = cells[2].charAt(1) == '1';
                made.right = cells[2].charAt(2) == '1';
                made.content = unescape(cells[3]).codePoints().toArray();
                specials.add(made);
                break;
            default: // a table that a later version added
        }
    }

    /** Undoes the escapes of a table's cell. */
    public static String unescape(String cell) {
        StringBuilder made = new StringBuilder();
        for (int i = 0; i < cell.length(); i++) {
            char c = cell.charAt(i);
            if (c == '\\' && i + 1 < cell.length()) {
                c = cell.charAt(++i);
                c = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
            }
            made.append(c);
        }
        return made.toString();
    }

    private static String[] parts(String cell) {
        return cell.isEmpty() ? new String[0] : cell.split(" ");
    }

    private static int[] hexes(String cell) {
        String[] parts = parts(cell);
        int[] made = new int[parts.length];
        for (int i = 0; i < made.length; i++) made[i] = Integer.parseInt(parts[i], 16);
        return made;
    }

    private static int[][] ranges(String cell) {
        String[] parts = parts(cell);
        int[][] made = new int[2][parts.length];
        for (int i = 0; i < parts.length; i++) {
            int dash = parts[i].indexOf('-');
            made[0][i] = Integer.parseInt(parts[i].substring(0, dash), 16);
            made[1][i] = Integer.parseInt(parts[i].substring(dash + 1), 16);
        }
        return made;
    }

    private static int[][] slots(String cell) {
        String[] parts = parts(cell);
        int[][] made = new int[parts.length][];
        for (int i = 0; i < parts.length; i++) {
            String[] slot = parts[i].split(":");
            int which = slot[0].equals("A") ? 0 : slot[0].equals("B") ? 1 : -1;
            made[i] = new int[] {which, which < 0 ? Integer.parseInt(slot[0]) : 0, Integer.parseInt(slot[1])};
        }
        return made;
    }

    private static boolean in(int[][] ranges, int c) {
        int at = Arrays.binarySearch(ranges[0], c);
        int i = at >= 0 ? at : -at - 2;
        return i >= 0 && c <= ranges[1][i];
    }

    /** Special tokens typed in the text: the leftmost first, the longest of those that begin there. */
    private void split(Chars chars, boolean normalized, List<Token> made, Rest rest) {
        int begin = 0;
        for (int i = 0; i < chars.size; ) {
            Special found = null;
            for (Special s : specials) {
                boolean longer = found == null || s.content.length > found.content.length;
                if (s.normalized == normalized && longer && matches(chars, i, s.content)) found = s;
            }
            if (found == null) {
                i++;
                continue;
            }
            int start = i;
            int end = i + found.content.length;
            while (found.left && start > begin && in(spaces, chars.c[start - 1])) start--;
            while (found.right && end < chars.size && in(spaces, chars.c[end])) end++;
            if (start > begin) rest.take(chars.part(begin, start));
            made.add(new Token(found.id, chars.start[start], chars.end[end - 1]));
            begin = i = end;
        }
        if (begin < chars.size) rest.take(chars.part(begin, chars.size));
    }

    private static boolean matches(Chars chars, int at, int[] wanted) {
        if (wanted.length == 0 || at + wanted.length > chars.size) return false;
        for (int k = 0; k < wanted.length; k++) if (chars.c[at + k] != wanted[k]) return false;
        return true;
    }

    private Chars normalize(Chars chars) {
        Chars made = new Chars();
        for (int i = 0; i < chars.size; i++) {
            int c = chars.c[i];
            int start = chars.start[i];
            int end = chars.end[i];
            if (in(dropped, c)) continue;
            int[] other = replaced.get(c);
            if (other != null) {
                for (int x : other) made.add(x, start, end);
            } else if (hangul && c >= HANGUL && c < HANGUL_END) {
                int s = c - HANGUL;
                made.add(0x1100 + s / 588, start, end);
                made.add(0x1161 + s % 588 / 28, start, end);
                if (s % 28 != 0) made.add(0x11A7 + s % 28, start, end);
            } else if (in(spaced, c)) {
                made.add(' ', start, end);
                made.add(c, start, end);
                made.add(' ', start, end);
            } else {
                made.add(c, start, end);
            }
        }
        return made;
    }

    private void words(Chars chars, List<Token> made) {
        int begin = 0;
        for (int i = 0; i < chars.size; i++) {
            boolean space = in(spaces, chars.c[i]);
            if (!space && !in(alone, chars.c[i])) continue;
            pieces(chars, begin, i, made);
            if (!space) pieces(chars, i, i + 1, made);
            begin = i + 1;
        }
        pieces(chars, begin, chars.size, made);
    }

    /** The longest piece of the vocabulary first, again and again; a word that does not come out even is unknown. */
    private void pieces(Chars chars, int begin, int end, List<Token> made) {
        if (begin == end) return;
        int before = made.size();
        for (int start = begin; start < end && end - begin <= longestWord; ) {
            StringBuilder piece = new StringBuilder(start > begin ? prefix : "");
            int stop = start;
            int id = -1;
            for (int k = start; k < end; k++) {
                Integer found = vocabulary.get(piece.appendCodePoint(chars.c[k]).toString());
                if (found != null) {
                    id = found;
                    stop = k + 1;
                }
            }
            if (id < 0) break;
            made.add(new Token(id, chars.start[start], chars.end[stop - 1]));
            if (stop == end) return;
            start = stop;
        }
        made.subList(before, made.size()).clear();
        made.add(new Token(unknown, chars.start[begin], chars.end[end - 1]));
    }

    private static int[] kept(int first, int second, int room, boolean onlySecond) {
        if (first + second <= room) return new int[] {first, second};
        if (onlySecond && first < room) return new int[] {first, room - first};
        int low = Math.min(first, second);
        int high = low > room ? low : Math.max(low, room - low);
        if (low + high > room) {
            low = room / 2;
            high = low + room % 2;
        }
        return first > second ? new int[] {high, low} : new int[] {low, high};
    }
}
