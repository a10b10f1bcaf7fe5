package {{ package }};

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** The steps that cut a text: each takes a piece and gives shorter ones. */
abstract class Splitter {
    abstract void run(Chars chars, List<Chars> to);

    static Splitter of(Tables.Step step) {
        switch (step.name) {
            case "pattern": return new Cut(step);
            case "metaspace": return new Metaspace(step);
            case "prefix": return new Prefix();
            case "bytes": return new Bytes();
            default: throw new IllegalArgumentException("tokenizer.txt has a step of a later version: " + step.name);
        }
    }

    /** The letter that stands for each byte: itself where it can be seen, else one from 256 on. */
    static int[] byteLetters() {
        int[] made = new int[256];
        int next = 256;
        for (int b = 0; b < 256; b++) {
            boolean seen = b > 0x20 && b < 0x7F || b > 0xA0 && b != 0xAD;
            made[b] = seen ? b : next++;
        }
        return made;
    }

    /** Cuts at matches of a pattern, which are dropped, pieces of their own, or go with their neighbors. */
    private static final class Cut extends Splitter {
        private final Pattern pattern;
        private final String behavior;
        private final boolean inverted;

        Cut(Tables.Step step) {
            pattern = new Pattern(step);
            behavior = step.options[0];
            inverted = step.options[1].equals("1");
        }

        @Override
        void run(Chars chars, List<Chars> to) {
            List<int[]> spans = new ArrayList<>();
            boolean before = false;
            for (int begin = 0; begin < chars.size; ) {
                int end = pattern.end(chars, begin);
                boolean matched = end > begin;
                for (end = matched ? end : begin + 1; !matched && end < chars.size; end++) {
                    if (pattern.end(chars, end) > end) break;
                }
                add(spans, begin, end, matched != inverted, before);
                before = matched != inverted;
                begin = end;
            }
            for (int[] span : spans) to.add(chars.part(span[0], span[1]));
        }

        private void add(List<int[]> spans, int begin, int end, boolean matched, boolean before) {
            boolean joined = behavior.equals("previous") && matched && !before
                    || behavior.equals("next") && before && !matched
                    || behavior.equals("contiguous") && matched == before;
            if (joined && !spans.isEmpty()) spans.get(spans.size() - 1)[1] = end;
            else if (!matched || !behavior.equals("removed")) spans.add(new int[] {begin, end});
        }
    }

    /** Spaces become a sign, which the text begins with too; each piece begins with one. */
    private static final class Metaspace extends Splitter {
        private final int sign;
        private final String scheme;
        private final boolean splits;

        Metaspace(Tables.Step step) {
            sign = Tables.unescape(step.options[0]).codePointAt(0);
            scheme = step.options[1];
            splits = step.options[2].equals("1");
        }

        @Override
        void run(Chars chars, List<Chars> to) {
            Chars made = new Chars();
            boolean first = scheme.equals("always") || scheme.equals("first") && chars.start[0] == 0;
            if (first && chars.c[0] != sign && chars.c[0] != ' ') made.add(sign, chars.start[0], chars.end[0]);
            for (int i = 0; i < chars.size; i++) {
                made.add(chars.c[i] == ' ' ? sign : chars.c[i], chars.start[i], chars.end[i]);
            }
            int begin = 0;
            for (int i = 1; i < made.size && splits; i++) {
                if (made.c[i] != sign) continue;
                to.add(made.part(begin, i));
                begin = i;
            }
            to.add(made.part(begin, made.size));
        }
    }

    /** A text begins with a space. */
    private static final class Prefix extends Splitter {
        @Override
        void run(Chars chars, List<Chars> to) {
            Chars made = new Chars();
            if (chars.c[0] != ' ') made.add(' ', chars.start[0], chars.end[0]);
            made.add(chars, 0, chars.size);
            to.add(made);
        }
    }

    /** Every byte is written as a letter. */
    private static final class Bytes extends Splitter {
        private final int[] letters = byteLetters();

        @Override
        void run(Chars chars, List<Chars> to) {
            Chars made = new Chars();
            for (int i = 0; i < chars.size; i++) {
                if (chars.c[i] < 128) {
                    made.add(letters[chars.c[i]], chars.start[i], chars.end[i]);
                    continue;
                }
                for (byte b : new String(chars.c, i, 1).getBytes(StandardCharsets.UTF_8)) {
                    made.add(letters[b & 255], chars.start[i], chars.end[i]);
                }
            }
            to.add(made);
        }
    }
}
