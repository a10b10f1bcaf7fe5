package {{ package }};

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;

/** Text as its tokens come: what is handed out never changes, also where a token ends inside a character. */
public final class TextStream {
    private final Tables tables;
    private final Map<Integer, Tables.Special> specials;
    private final boolean bytes;
    private final String sign;
    private final boolean firstLoses;
    private final boolean fallsBack;
    /** Spaces to take off the beginning. */
    private int left;
    private final boolean trimsEnd;
    private final Utf8 characters = new Utf8();
    private final int[] letterBytes = new int[512];
    private final StringBuilder spaces = new StringBuilder();
    private boolean first = true;
    private Utf8 run;
    private int runLength;

    /** {@code specials}: by their ids. */
    TextStream(Tables tables, Map<Integer, Tables.Special> specials) {
        this.tables = tables;
        this.specials = specials;
        String[] how = tables.cells.get("decode");
        if (how == null) throw new UnsupportedOperationException("the tables do not say how ids become text");
        bytes = how[0].equals("bytes");
        sign = bytes ? "" : Tables.unescape(how[1]);
        firstLoses = !bytes && how[2].charAt(0) == '1';
        fallsBack = !bytes && how[2].charAt(1) == '1';
        left = bytes ? 0 : how[3].equals("*") ? Integer.MAX_VALUE : Integer.parseInt(how[3]);
        trimsEnd = !bytes && how[4].equals("*");
        Arrays.fill(letterBytes, -1);
        int[] letters = Splitter.byteLetters();
        for (int b = 0; b < 256; b++) letterBytes[letters[b]] = b;
    }

    /** What a token adds to the text and is certain: maybe nothing, maybe earlier tokens' text too. */
    public String add(int id) {
        Tables.Special special = specials.get(id);
        if (special == null && (id < 0 || id >= tables.pieces.size()) || special != null && special.special) return "";
        String piece = special == null ? tables.pieces.get(id) : special.spelling;
        if (bytes) return addBytes(piece);
        if (!sign.isEmpty()) piece = piece.replace(sign, first && firstLoses ? "" : " ");
        first = false;
        int b = fallsBack ? byteOf(piece) : -1;
        if (b < 0) return out(flush() + piece);
        if (run == null) run = new Utf8();
        run.add(b);
        runLength++;
        return "";
    }

    /** What was held back. */
    public String end() {
        if (bytes) return characters.end();
        String made = out(flush());
        return trimsEnd ? made : made + spaces;
    }

    private String addBytes(String piece) {
        boolean known = true;
        for (int i = 0; i < piece.length(); i++) known &= piece.charAt(i) < 512 && letterBytes[piece.charAt(i)] >= 0;
        if (known) {
            for (int i = 0; i < piece.length(); i++) characters.add(letterBytes[piece.charAt(i)]);
        } else {
            for (byte b : piece.getBytes(StandardCharsets.UTF_8)) characters.add(b & 255);
        }
        return characters.take();
    }

    /** A run of bytes is text only if the whole run is. */
    private String flush() {
        if (run == null) return "";
        String made = run.end();
        if (run.wrong) {
            StringBuilder marks = new StringBuilder();
            for (int i = 0; i < runLength; i++) marks.append('\uFFFD');
            made = marks.toString();
        }
        run = null;
        runLength = 0;
        return made;
    }

    /** Takes spaces off the beginning, and holds those back that may be the last. */
    private String out(String text) {
        int begin = 0;
        while (left > 0 && begin < text.length() && text.charAt(begin) == ' ') {
            begin++;
            left--;
        }
        if (begin < text.length()) left = 0;
        if (!trimsEnd) return text.substring(begin);
        int end = text.length();
        while (end > begin && text.charAt(end - 1) == ' ') end--;
        String made = end > begin ? spaces + text.substring(begin, end) : "";
        if (end > begin) spaces.setLength(0);
        spaces.append(text, end, text.length());
        return made;
    }

    /** The byte of {@code <0x41>}; -1: it is no such piece. */
    private static int byteOf(String piece) {
        if (piece.length() != 6 || !piece.startsWith("<0x") || !piece.endsWith(">")) return -1;
        int high = Character.digit(piece.charAt(3), 16);
        int low = Character.digit(piece.charAt(4), 16);
        return high < 0 || low < 0 ? -1 : high * 16 + low;
    }

    /** UTF-8 byte by byte; what is none becomes U+FFFD, as everywhere (Unicode Standard, table 3-7). */
    private static final class Utf8 {
        private final StringBuilder made = new StringBuilder();
        private int missing;
        private int least = 0x80;
        private int most = 0xBF;
        private int point;
        boolean wrong;

        void add(int b) {
            if (missing > 0) {
                boolean fits = b >= least && b <= most;
                least = 0x80;
                most = 0xBF;
                if (fits) {
                    point = point << 6 | b & 63;
                    if (--missing == 0) made.appendCodePoint(point);
                    return;
                }
                replace();
            }
            if (b < 0x80) made.append((char) b);
            else if (b >= 0xC2 && b < 0xE0) begin(1, b & 31);
            else if (b >= 0xE0 && b < 0xF0) begin(2, b & 15);
            else if (b >= 0xF0 && b < 0xF5) begin(3, b & 7);
            else replace();
            if (b == 0xE0) least = 0xA0;
            if (b == 0xED) most = 0x9F;
            if (b == 0xF0) least = 0x90;
            if (b == 0xF4) most = 0x8F;
        }

        private void begin(int more, int bits) {
            missing = more;
            point = bits;
        }

        private void replace() {
            made.append('\uFFFD');
            missing = 0;
            wrong = true;
        }

        /** The characters that are complete. */
        String take() {
            String text = made.toString();
            made.setLength(0);
            return text;
        }

        String end() {
            if (missing > 0) replace();
            return take();
        }
    }
}
