package {{ package }};

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The steps that a text goes through before it is cut. */
abstract class Normalizer {
    abstract Chars run(Chars chars);

    static Normalizer of(Tables.Step step, Tables.Ranges spaces) {
        switch (step.name) {
            case "characters": return new Characters(step);
            case "clusters": return new Clusters(step);
            case "form": return new Form(step);
            case "replace": return new Replace(step);
            case "prepend": return new Prepend(step);
            case "strip": return new Strip(step, spaces);
            default: throw new IllegalArgumentException("tokenizer.txt has a step of a later version: " + step.name);
        }
    }

    /** Hangul syllables fall apart and come together by arithmetic (Unicode Standard, section 3.12). */
    static final class Hangul {
        private static final int FIRST = 0xAC00;
        private static final int END = 0xD7A4;

        static boolean is(int c) {
            return c >= FIRST && c < END;
        }

        static boolean isOpen(int c) {
            return is(c) && (c - FIRST) % 28 == 0;
        }

        static void split(int c, Chars to, int start, int end) {
            int s = c - FIRST;
            to.add(0x1100 + s / 588, start, end);
            to.add(0x1161 + s % 588 / 28, start, end);
            if (s % 28 != 0) to.add(0x11A7 + s % 28, start, end);
        }

        static int join(int one, int other) {
            if (one >= 0x1100 && one < 0x1113 && other >= 0x1161 && other < 0x1176) {
                return FIRST + ((one - 0x1100) * 21 + other - 0x1161) * 28;
            }
            return isOpen(one) && other >= 0x11A8 && other < 0x11C3 ? one + other - 0x11A7 : -1;
        }

        /** Whether both are of one grapheme cluster. */
        static boolean joins(int one, int other) {
            boolean vowel = in(other, 0x1160, 0x11A8) || in(other, 0xD7B0, 0xD7C7);
            boolean tail = in(other, 0x11A8, 0x1200) || in(other, 0xD7CB, 0xD7FC);
            if (in(one, 0x1100, 0x1160) || in(one, 0xA960, 0xA97D)) {
                return vowel || is(other) || in(other, 0x1100, 0x1160) || in(other, 0xA960, 0xA97D);
            }
            if (isOpen(one) || in(one, 0x1160, 0x11A8) || in(one, 0xD7B0, 0xD7C7)) return vowel || tail;
            return tail && (is(one) || in(one, 0x11A8, 0x1200) || in(one, 0xD7CB, 0xD7FC));
        }

        private static boolean in(int c, int first, int end) {
            return c >= first && c < end;
        }
    }

    /** Each character becomes another, several, or none. */
    private static final class Characters extends Normalizer {
        private final boolean hangul;
        private final Tables.Ranges dropped;
        private final Tables.Ranges spaced;
        private final Map<Integer, int[]> maps;

        Characters(Tables.Step step) {
            hangul = step.options[0].equals("1");
            dropped = step.ranges("drop");
            spaced = step.ranges("space");
            maps = single(step);
        }

        @Override
        Chars run(Chars chars) {
            Chars made = new Chars();
            for (int i = 0; i < chars.size; i++) {
                int c = chars.c[i];
                int start = chars.start[i];
                int end = chars.end[i];
                int[] other = maps.get(c);
                if (other != null) {
                    made.add(other, start, end);
                } else if (dropped.has(c)) {
                    continue;
                } else if (hangul && Hangul.is(c)) {
                    Hangul.split(c, made, start, end);
                } else if (spaced.has(c)) {
                    made.add(new int[] {' ', c, ' '}, start, end);
                } else {
                    made.add(c, start, end);
                }
            }
            return made;
        }
    }

    static Map<Integer, int[]> single(Tables.Step step) {
        Map<Integer, int[]> made = new HashMap<>();
        for (Map.Entry<String, int[]> one : step.maps().entrySet()) {
            int c = one.getKey().codePointAt(0);
            if (Character.charCount(c) == one.getKey().length()) made.put(c, one.getValue());
        }
        return made;
    }

    /** SentencePiece's table as Hugging Face looks it up: a grapheme cluster of 5 bytes at most whole, else by character. */
    private static final class Clusters extends Normalizer {
        private final Tables.Ranges extend;
        private final Tables.Ranges prepend;
        private final Tables.Ranges control;
        private final Map<Integer, int[]> single;
        private final Map<String, int[]> maps;

        Clusters(Tables.Step step) {
            extend = step.ranges("extend");
            prepend = step.ranges("prepend");
            control = step.ranges("control");
            single = single(step);
            maps = step.maps();
        }

        @Override
        Chars run(Chars chars) {
            Chars made = new Chars();
            int begin = 0;
            for (int i = 1; i <= chars.size; i++) {
                if (i < chars.size && !cuts(chars.c[i - 1], chars.c[i])) continue;
                int[] whole = i - begin > 1 ? whole(chars, begin, i) : null;
                if (whole != null) {
                    made.add(whole, chars.start[begin], chars.end[i - 1]);
                    begin = i;
                }
                for (; begin < i; begin++) {
                    int[] other = single.get(chars.c[begin]);
                    if (other == null) made.add(chars, begin, begin + 1);
                    else made.add(other, chars.start[begin], chars.end[begin]);
                }
            }
            return made;
        }

        /** What the shortest key that the cluster begins with becomes; null where it is long, or begins with none. */
        private int[] whole(Chars chars, int begin, int end) {
            int bytes = 0;
            for (int i = begin; i < end; i++) bytes += chars.c[i] < 0x80 ? 1 : chars.c[i] < 0x800 ? 2 : chars.c[i] < 0x10000 ? 3 : 4;
            int[] found = null;
            for (int i = begin + 1; i <= end && bytes < 6 && found == null; i++) {
                found = maps.get(new String(chars.c, begin, i - begin));
            }
            return found;
        }

        /** Unicode Standard Annex 29, without what has 6 bytes and more: flags, emoji sequences, Indic conjuncts. */
        private boolean cuts(int one, int other) {
            if (one < 128 && other < 128) return one != '\r' || other != '\n';
            if (control.has(one) || control.has(other)) return true;
            return !extend.has(other) && !prepend.has(one) && !Hangul.joins(one, other);
        }
    }

    /** Unicode Standard, section 3.11: decompose, order the marks, and compose again where the form asks for it. */
    private static final class Form extends Normalizer {
        private final boolean composes;
        private final Map<Integer, int[]> maps;
        private final Map<Integer, Integer> ranks = new HashMap<>();
        private final Map<Long, Integer> pairs = new HashMap<>();

        Form(Tables.Step step) {
            composes = step.options[0].equals("1");
            maps = single(step);
            for (String[] row : step.rows("order")) {
                for (String span : Tables.parts(row[2])) {
                    String[] ends = span.split("-");
                    for (int c = Integer.parseInt(ends[0], 16); c <= Integer.parseInt(ends[1], 16); c++) {
                        ranks.put(c, Integer.parseInt(row[1]));
                    }
                }
            }
            for (String[] row : step.rows("compose")) {
                for (String triple : Tables.parts(row[1])) {
                    int[] c = Tables.hexes(triple.replace(',', ' '));
                    pairs.put((long) c[0] << 32 | c[1], c[2]);
                }
            }
        }

        @Override
        Chars run(Chars chars) {
            boolean plain = true;
            for (int i = 0; i < chars.size && plain; i++) plain = chars.c[i] < 128;
            if (plain) return chars;
            Chars made = new Chars();
            for (int i = 0; i < chars.size; i++) {
                int[] other = maps.get(chars.c[i]);
                if (other != null) made.add(other, chars.start[i], chars.end[i]);
                else if (Hangul.is(chars.c[i])) Hangul.split(chars.c[i], made, chars.start[i], chars.end[i]);
                else made.add(chars, i, i + 1);
            }
            order(made);
            return composes ? composed(made) : made;
        }

        private int rank(int c) {
            return c < 128 ? 0 : ranks.getOrDefault(c, 0);
        }

        /** Marks of one letter by their rank; those of equal ranks stay in their order. */
        private void order(Chars chars) {
            for (int i = 1; i < chars.size; i++) {
                int rank = rank(chars.c[i]);
                for (int k = i; rank > 0 && k > 0 && rank(chars.c[k - 1]) > rank; k--) {
                    for (int[] held : Arrays.asList(chars.c, chars.start, chars.end)) {
                        int other = held[k];
                        held[k] = held[k - 1];
                        held[k - 1] = other;
                    }
                }
            }
        }

        private Chars composed(Chars chars) {
            Chars made = new Chars();
            int starter = -1;
            int last = 0;
            for (int i = 0; i < chars.size; i++) {
                int rank = rank(chars.c[i]);
                boolean blocked = starter < 0 || (made.size > starter + 1 && last >= rank);
                int joined = blocked ? -1 : joined(made.c[starter], chars.c[i]);
                if (joined >= 0) {
                    made.c[starter] = joined;
                    made.end[starter] = Math.max(made.end[starter], chars.end[i]);
                    continue;
                }
                if (rank == 0) starter = made.size;
                last = rank;
                made.add(chars, i, i + 1);
            }
            return made;
        }

        private int joined(int one, int other) {
            int syllable = Hangul.join(one, other);
            return syllable >= 0 ? syllable : pairs.getOrDefault((long) one << 32 | other, -1);
        }
    }

    /** Every match of a pattern becomes the same text. */
    private static final class Replace extends Normalizer {
        private final Pattern pattern;
        private final int[] content;

        Replace(Tables.Step step) {
            pattern = new Pattern(step);
            content = Tables.unescape(step.options[0]).codePoints().toArray();
        }

        @Override
        Chars run(Chars chars) {
            Chars made = new Chars();
            for (int i = 0; i < chars.size; ) {
                int end = pattern.end(chars, i);
                if (end > i) made.add(content, chars.start[i], chars.end[end - 1]);
                else made.add(chars, i, end = i + 1);
                i = end;
            }
            return made;
        }
    }

    private static final class Prepend extends Normalizer {
        private final int[] text;

        Prepend(Tables.Step step) {
            text = Tables.unescape(step.options[0]).codePoints().toArray();
        }

        @Override
        Chars run(Chars chars) {
            if (chars.size == 0) return chars;
            Chars made = new Chars();
            made.add(text, chars.start[0], chars.end[0]);
            made.add(chars, 0, chars.size);
            return made;
        }
    }

    private static final class Strip extends Normalizer {
        private final boolean left;
        private final boolean right;
        private final Tables.Ranges spaces;

        Strip(Tables.Step step, Tables.Ranges spaces) {
            left = step.options[0].charAt(0) == '1';
            right = step.options[0].charAt(1) == '1';
            this.spaces = spaces;
        }

        @Override
        Chars run(Chars chars) {
            int begin = 0;
            int end = chars.size;
            while (left && begin < end && spaces.has(chars.c[begin])) begin++;
            while (right && end > begin && spaces.has(chars.c[end - 1])) end--;
            return chars.part(begin, end);
        }
    }
}
