package {{ package }};

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;

/** How each kind of tokenizer makes tokens of a piece of text. */
abstract class Model {
    /** {@code chars} is never empty. */
    abstract void run(Chars chars, List<Token> to);

    static Model of(Tables tables) {
        switch (tables.cell("kind")) {
            case "wordpiece": return new WordPiece(tables);
            case "bpe": return new Bpe(tables);
            case "unigram": return new Unigram(tables);
            default: throw new IllegalArgumentException("tokenizer.txt is of a later version");
        }
    }

    /** The longest piece first, again and again; a word that does not come out even is unknown. */
    private static final class WordPiece extends Model {
        private final Map<String, Integer> ids;
        private final String prefix;
        private final int unknown;
        private final int longestWord;

        WordPiece(Tables tables) {
            ids = tables.ids();
            prefix = Tables.unescape(tables.cell("prefix"));
            unknown = Integer.parseInt(tables.cell("unknown"));
            longestWord = Integer.parseInt(tables.cell("longest_word"));
        }

        @Override
        void run(Chars chars, List<Token> to) {
            int before = to.size();
            for (int start = 0; chars.size <= longestWord; ) {
                StringBuilder piece = new StringBuilder(start > 0 ? prefix : "");
                int stop = start;
                int id = -1;
                for (int k = start; k < chars.size; k++) {
                    Integer found = ids.get(piece.appendCodePoint(chars.c[k]).toString());
                    if (found != null) {
                        id = found;
                        stop = k + 1;
                    }
                }
                if (id < 0) break;
                to.add(chars.token(id, start, stop));
                if (stop == chars.size) return;
                start = stop;
            }
            to.subList(before, to.size()).clear();
            to.add(chars.token(unknown, 0, chars.size));
        }
    }

    /** Adds the tokens of a text's bytes; false where one of them has none. */
    private static boolean bytes(int[] ids, String text, Chars chars, int from, int to, List<Token> made) {
        int before = made.size();
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
            if (ids[b & 255] < 0) {
                made.subList(before, made.size()).clear();
                return false;
            }
            made.add(chars.token(ids[b & 255], from, to));
        }
        return true;
    }

    /** Of all neighbors the pair that was merged first in training, again and again. */
    private static final class Bpe extends Model {
        private final Map<Integer, Integer> letters = new HashMap<>();
        private final Map<String, Integer> whole;
        private final int[] bytes;
        private final int unknown;
        private final boolean fuses;
        /** A table of pairs with gaps: a pair is looked for from its place on until a gap. */
        private final long[] pairs;
        private final int[] ranks;
        /** By rank, what a pair becomes. */
        private final int[] merged;

        Bpe(Tables tables) {
            unknown = Integer.parseInt(tables.cell("unknown"));
            fuses = tables.flag(0);
            Map<String, Integer> ids = tables.flag(1) || tables.flag(2) ? tables.ids() : null;
            bytes = tables.flag(1) ? Tables.bytes(ids) : null;
            whole = tables.flag(2) ? ids : null;
            for (int id = 0; id < tables.pieces.size(); id++) {
                String piece = tables.pieces.get(id);
                if (!piece.isEmpty() && piece.length() == Character.charCount(piece.codePointAt(0))) {
                    letters.put(piece.codePointAt(0), id);
                }
            }
            String cell = tables.cell("merges");
            int n = 1;
            for (int i = 0; i < cell.length(); i++) if (cell.charAt(i) == ' ') n++;
            if (cell.isEmpty()) n = 0;
            merged = new int[n];
            pairs = new long[Integer.highestOneBit(Math.max(4, 2 * n)) * 2];
            ranks = new int[pairs.length];
            Arrays.fill(pairs, -1);
            read(cell);
        }

        /** {@code left,right} of each rank, and {@code ,merged} where that is not the id after the last. */
        private void read(String cell) {
            int[] numbers = new int[3];
            int last = -1;
            int at = 0;
            for (int rank = 0; rank < merged.length; rank++) {
                int n = 0;
                for (numbers[0] = 0; at < cell.length() && cell.charAt(at) != ' '; at++) {
                    char c = cell.charAt(at);
                    if (c == ',') numbers[++n] = 0;
                    else numbers[n] = numbers[n] * 10 + c - '0';
                }
                at++;
                merged[rank] = last = n == 2 ? numbers[2] : last + 1;
                int place = place(numbers[0], numbers[1]);
                pairs[place] = (long) numbers[0] << 32 | numbers[1];
                ranks[place] = rank;
            }
        }

        private int place(int one, int other) {
            long pair = (long) one << 32 | other;
            int place = (int) ((pair * 0x9E3779B97F4A7C15L) >>> 32) & (pairs.length - 1);
            while (pairs[place] != -1 && pairs[place] != pair) place = (place + 1) & (pairs.length - 1);
            return place;
        }

        /** The rank of a pair; -1: it is never merged. */
        private int rank(Token one, Token other) {
            if (one == null || other == null) return -1;
            int place = place(one.id, other.id);
            return pairs[place] == -1 ? -1 : ranks[place];
        }

        @Override
        void run(Chars chars, List<Token> to) {
            Integer known = whole == null ? null : whole.get(chars.toString());
            if (known != null) to.add(chars.token(known, 0, chars.size));
            else merge(symbols(chars), to);
        }

        private List<Token> symbols(Chars chars) {
            List<Token> made = new ArrayList<>();
            Token strange = null;
            for (int i = 0; i < chars.size; i++) {
                Integer id = letters.get(chars.c[i]);
                if (id != null) {
                    if (strange != null) made.add(strange);
                    strange = null;
                    made.add(chars.token(id, i, i + 1));
                } else if (bytes != null && bytes(bytes, new String(chars.c, i, 1), chars, i, i + 1, made)) {
                    continue;
                } else if (unknown >= 0) {
                    if (strange != null && !fuses) {
                        made.add(strange);
                        strange = null;
                    }
                    strange = new Token(unknown, strange == null ? chars.start[i] : strange.start, chars.end[i]);
                }
            }
            if (strange != null) made.add(strange);
            return made;
        }

        /** What is left is chained by {@code after} and {@code before}; the queue has pairs by rank, then by place. */
        private void merge(List<Token> symbols, List<Token> to) {
            int n = symbols.size();
            Token[] tokens = symbols.toArray(new Token[n + 1]);
            int[] after = new int[n + 1];
            int[] before = new int[n + 1];
            PriorityQueue<Long> queue = new PriorityQueue<>();
            for (int i = 0; i < n; i++) {
                after[i] = i + 1;
                before[i] = i - 1;
                note(tokens, i, i + 1, queue);
            }
            for (Long next; (next = queue.poll()) != null; ) {
                int at = next.intValue();
                int found = rank(tokens[at], tokens[after[at]]);
                int id = merged[(int) (next >> 32)];
                if (found < 0 || merged[found] != id) continue; // it has changed since it was noted
                int gone = after[at];
                tokens[at] = new Token(id, tokens[at].start, tokens[gone].end);
                tokens[gone] = null;
                after[at] = after[gone];
                before[after[at]] = at;
                if (before[at] >= 0) note(tokens, before[at], at, queue);
                note(tokens, at, after[at], queue);
            }
            for (Token token : tokens) if (token != null) to.add(token);
        }

        private void note(Token[] tokens, int one, int other, PriorityQueue<Long> queue) {
            int rank = rank(tokens[one], tokens[other]);
            if (rank >= 0) queue.add((long) rank << 32 | one);
        }
    }

    /** Of all ways to cut, the one whose pieces have the highest sum of scores (Viterbi). */
    private static final class Unigram extends Model {
        private static final double UNKNOWN_PENALTY = 10;
        private final Map<String, Integer> ids;
        private final String[] sorted;
        private final int[] sortedIds;
        private final double[] scores;
        private final double unknownScore;
        private final int unknown;
        private final int[] bytes;

        Unigram(Tables tables) {
            ids = tables.ids();
            unknown = Integer.parseInt(tables.cell("unknown"));
            bytes = tables.flag(1) ? Tables.bytes(ids) : null;
            sorted = ids.keySet().toArray(new String[0]);
            Arrays.sort(sorted);
            sortedIds = new int[sorted.length];
            for (int i = 0; i < sorted.length; i++) sortedIds[i] = ids.get(sorted[i]);
            String[] numbers = Tables.parts(tables.cell("scores"));
            scores = new double[numbers.length];
            double least = Double.POSITIVE_INFINITY;
            for (int i = 0; i < scores.length; i++) least = Math.min(least, scores[i] = Double.parseDouble(numbers[i]));
            unknownScore = least - UNKNOWN_PENALTY;
        }

        @Override
        void run(Chars chars, List<Token> to) {
            String text = chars.toString();
            int n = text.length();
            double[] best = new double[n + 1];
            int[] from = new int[n + 1];
            int[] id = new int[n + 1];
            Arrays.fill(from, -1);
            for (int start = 0; start < n; start += Character.charCount(text.codePointAt(start))) {
                int next = start + Character.charCount(text.codePointAt(start));
                boolean single = false;
                int low = 0;
                int high = sorted.length;
                for (int end = start + 1; end <= n; end++) {
                    low = first(low, high, end - start - 1, text.charAt(end - 1));
                    high = first(low, high, end - start - 1, text.charAt(end - 1) + 1);
                    if (low == high) break;
                    if (sorted[low].length() > end - start) continue;
                    single |= end == next;
                    offer(best, from, id, start, end, sortedIds[low], scores[sortedIds[low]]);
                }
                if (!single) offer(best, from, id, start, next, unknown, unknownScore);
            }
            trace(text, from, id, chars, to);
        }

        /** Of pieces that begin alike, the first whose char at {@code at} is not less than {@code c}. */
        private int first(int low, int high, int at, int c) {
            while (low < high) {
                int middle = (low + high) >>> 1;
                String piece = sorted[middle];
                if (at >= piece.length() || piece.charAt(at) < c) low = middle + 1;
                else high = middle;
            }
            return low;
        }

        private static void offer(double[] best, int[] from, int[] id, int start, int end, int piece, double score) {
            if (from[end] >= 0 && best[start] + score <= best[end]) return;
            best[end] = best[start] + score;
            from[end] = start;
            id[end] = piece;
        }

        /** Unknown characters side by side are one. */
        private void trace(String text, int[] from, int[] id, Chars chars, List<Token> to) {
            List<int[]> spans = new ArrayList<>();
            boolean before = false;
            for (int end = text.length(); end > 0; end = from[end]) {
                boolean strange = id[end] == unknown;
                if (strange && before) spans.get(spans.size() - 1)[0] = from[end];
                else spans.add(new int[] {from[end], end});
                before = strange;
            }
            int at = 0;
            for (int i = spans.size() - 1; i >= 0; i--) {
                String piece = text.substring(spans.get(i)[0], spans.get(i)[1]);
                int stop = at + piece.codePointCount(0, piece.length());
                Integer known = ids.get(piece);
                if (known != null || bytes == null || !bytes(bytes, piece, chars, at, stop, to)) {
                    to.add(chars.token(known == null ? unknown : known, at, stop));
                }
                at = stop;
            }
        }
    }
}
