package {{ package }};

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The model's tokenizer: reads tokenizer.txt and vocab.txt, which were made from the original. Nothing of the system's
 * Unicode data is used (it differs from phone to phone): what happens to every character stands in the tables.
 *
 * <p>Once made it does not change: it may be used from several threads at once.
 */
public final class Tokenizer {
    private interface Rest {
        void take(Chars chars);
    }

    private final Tables tables;
    private final int[][] single;
    private final int[][] pair;
    private final Tables.Ranges spaces;
    private final List<Normalizer> normalizer = new ArrayList<>();
    private final List<Splitter> splits = new ArrayList<>();
    private final Model model;
    private final Map<Integer, Tables.Special> specialsById = new HashMap<>();
    /** Special tokens by their first character, the longest first. */
    private final Map<Integer, List<Tables.Special>> specials = new HashMap<>();

    /** Reads both streams and closes them; on Android, {@code context.getAssets().open("tokenizer.txt")}. */
    public Tokenizer(InputStream tables, InputStream words) throws IOException {
        this.tables = new Tables(tables, words);
        single = this.tables.template("single");
        pair = this.tables.template("pair");
        spaces = new Tables.Ranges(this.tables.cell("spaces"));
        for (Tables.Step step : this.tables.normalizer) normalizer.add(Normalizer.of(step, spaces));
        for (Tables.Step step : this.tables.splits) splits.add(Splitter.of(step));
        model = Model.of(this.tables);
        this.tables.forgetRead();
        for (Tables.Special s : this.tables.specials) {
            specialsById.put(s.id, s);
            if (s.content.length == 0) continue;
            List<Tables.Special> alike = specials.get(s.content[0]);
            if (alike == null) specials.put(s.content[0], alike = new ArrayList<>());
            int at = 0;
            while (at < alike.size() && alike.get(at).content.length >= s.content.length) at++;
            alike.add(at, s);
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
        cutOut(Chars.of(text), false, made, chunk -> cutOut(normalize(chunk), true, made, part -> choose(part, made)));
        return made;
    }

    /** The text of ids, special tokens left out. */
    public String decode(int... ids) {
        TextStream stream = stream();
        StringBuilder made = new StringBuilder();
        for (int id : ids) made.append(stream.add(id));
        return made.append(stream.end()).toString();
    }

    /** A text that takes ids one by one. */
    public TextStream stream() {
        return new TextStream(tables, specialsById);
    }

    /**
     * The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
     * (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
     */
    public String normalize(String text) {
        return normalize(Chars.of(text)).toString();
    }

    /** The beginning of the text that has {@code maxLength} tokens at most, with the special ones around it. */
    public String shorten(String text, int maxLength) {
        int room = maxLength;
        for (int[] slot : single) if (slot[0] < 0) room--;
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
        if (specialsById.containsKey(id)) return specialsById.get(id).spelling;
        return id >= 0 && id < tables.pieces.size() ? tables.pieces.get(id) : "";
    }

    /** Where the words that white space separates begin and end: {start, end}, in chars. */
    public List<int[]> wordSpans(String text) {
        List<int[]> made = new ArrayList<>();
        boolean inside = false;
        for (int i = 0; i < text.length(); i++) {
            // All white space lies in the first plane of Unicode: one char each.
            boolean space = spaces.has(text.charAt(i));
            if (!space && !inside) made.add(new int[] {i, i});
            if (!space) made.get(made.size() - 1)[1] = i + 1;
            inside = !space;
        }
        return made;
    }

    /** Special tokens typed in the text: the leftmost first, the longest of those that begin there. */
    private void cutOut(Chars chars, boolean normalized, List<Token> made, Rest rest) {
        int begin = 0;
        for (int i = 0; i < chars.size; ) {
            Tables.Special found = found(chars, i, normalized);
            if (found == null) {
                i++;
                continue;
            }
            int start = i;
            int end = i + found.content.length;
            while (found.left && start > begin && spaces.has(chars.c[start - 1])) start--;
            while (found.right && end < chars.size && spaces.has(chars.c[end])) end++;
            if (start > begin) rest.take(chars.part(begin, start));
            made.add(chars.part(start, end).token(found.id, 0, end - start));
            begin = i = end;
        }
        if (begin < chars.size) rest.take(chars.part(begin, chars.size));
    }

    private Tables.Special found(Chars chars, int at, boolean normalized) {
        List<Tables.Special> alike = specials.get(chars.c[at]);
        if (alike == null) return null;
        for (Tables.Special s : alike) if (s.normalized == normalized && matches(chars, at, s.content)) return s;
        return null;
    }

    private static boolean matches(Chars chars, int at, int[] wanted) {
        if (at + wanted.length > chars.size) return false;
        for (int k = 0; k < wanted.length; k++) if (chars.c[at + k] != wanted[k]) return false;
        return true;
    }

    private Chars normalize(Chars chars) {
        for (Normalizer step : normalizer) chars = step.run(chars);
        return chars;
    }

    private void choose(Chars chars, List<Token> made) {
        List<Chars> pieces = new ArrayList<>();
        pieces.add(chars);
        for (Splitter step : splits) {
            List<Chars> shorter = new ArrayList<>();
            for (Chars piece : pieces) if (piece.size > 0) step.run(piece, shorter);
            pieces = shorter;
        }
        for (Chars piece : pieces) if (piece.size > 0) model.run(piece, made);
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
