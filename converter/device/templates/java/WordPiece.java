package {{ package }};

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

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

    private final Tables tables;

    /** Reads both streams and closes them; on Android, {@code context.getAssets().open("tokenizer.txt")}. */
    public WordPiece(InputStream tables, InputStream words) throws IOException {
        this.tables = new Tables(tables, words);
    }

    /** Ids for the model, cut to {@code maxLength}: the longer text first, or (onlySecond) the second alone. */
    public Encoded encode(String text, String second, int maxLength, boolean onlySecond) {
        List<Token> first = tokens(text);
        List<Token> other = second == null ? new ArrayList<Token>() : tokens(second);
        int[][] around = second == null ? tables.single : tables.pair;
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
        split(chars(text), false, made, chunk -> split(normalize(chunk), true, made, part -> words(part, made)));
        return made;
    }

    /**
     * The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
     * (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
     */
    public String normalize(String text) {
        StringBuilder made = new StringBuilder();
        Chars chars = normalize(chars(text));
        for (int i = 0; i < chars.size; i++) made.appendCodePoint(chars.c[i]);
        return made.toString();
    }

    /** The beginning of the text that has {@code maxLength} tokens at most, with the special ones around it. */
    public String shorten(String text, int maxLength) {
        int room = maxLength;
        for (int[] slot : tables.single) if (slot[0] < 0) room--;
        List<Token> all = tokens(text);
        if (all.size() <= room) return text;
        // Half of what one character became may be cut otherwise than the whole: then one token less.
        for (int keep = room; keep > 0; keep--) {
            String made = text.substring(0, all.get(keep - 1).end);
            if (tokens(made).size() <= room) return made;
        }
        return "";
    }

    /** The spelling of a token id. */
    public String spelling(int id) {
        return id >= 0 && id < tables.spellings.size() ? tables.spellings.get(id) : "";
    }

    /** Where the words that white space separates begin and end: {start, end}, in chars. */
    public List<int[]> wordSpans(String text) {
        List<int[]> made = new ArrayList<>();
        boolean inside = false;
        for (int i = 0; i < text.length(); i++) {
            // All white space lies in the first plane of Unicode: one char each.
            boolean space = Tables.in(tables.spaces, text.charAt(i));
            if (!space && !inside) made.add(new int[] {i, i});
            if (!space) made.get(made.size() - 1)[1] = i + 1;
            inside = !space;
        }
        return made;
    }

    private static Chars chars(String text) {
        Chars made = new Chars();
        for (int i = 0; i < text.length(); ) {
            int point = text.codePointAt(i);
            int next = i + Character.charCount(point);
            // Half a surrogate pair is no character.
            made.add(point >= 0xD800 && point < 0xE000 ? 0xFFFD : point, i, next);
            i = next;
        }
        return made;
    }

    /** Special tokens typed in the text: the leftmost first, the longest of those that begin there. */
    private void split(Chars chars, boolean normalized, List<Token> made, Rest rest) {
        int begin = 0;
        for (int i = 0; i < chars.size; ) {
            Tables.Special found = null;
            for (Tables.Special s : tables.specials) {
                boolean longer = found == null || s.content.length > found.content.length;
                if (s.normalized == normalized && longer && matches(chars, i, s.content)) found = s;
            }
            if (found == null) {
                i++;
                continue;
            }
            int start = i;
            int end = i + found.content.length;
            while (found.left && start > begin && Tables.in(tables.spaces, chars.c[start - 1])) start--;
            while (found.right && end < chars.size && Tables.in(tables.spaces, chars.c[end])) end++;
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
            if (Tables.in(tables.dropped, c)) continue;
            int[] other = tables.replaced.get(c);
            if (other != null) {
                for (int x : other) made.add(x, start, end);
            } else if (tables.hangul && c >= HANGUL && c < HANGUL_END) {
                int s = c - HANGUL;
                made.add(0x1100 + s / 588, start, end);
                made.add(0x1161 + s % 588 / 28, start, end);
                if (s % 28 != 0) made.add(0x11A7 + s % 28, start, end);
            } else if (Tables.in(tables.spaced, c)) {
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
            boolean space = Tables.in(tables.spaces, chars.c[i]);
            if (!space && !Tables.in(tables.alone, chars.c[i])) continue;
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
        for (int start = begin; start < end && end - begin <= tables.longestWord; ) {
            StringBuilder piece = new StringBuilder(start > begin ? tables.prefix : "");
            int stop = start;
            int id = -1;
            for (int k = start; k < end; k++) {
                Integer found = tables.vocabulary.get(piece.appendCodePoint(chars.c[k]).toString());
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
        made.add(new Token(tables.unknown, chars.start[begin], chars.end[end - 1]));
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
