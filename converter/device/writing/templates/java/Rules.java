package {{ package }};

import java.util.BitSet;

/** What the model's generation_config.json asks of the next token. Sequences count the start token, or the prompt. */
final class Rules {
    /** Above 1: tokens that are there already become less likely. */
    float repetitionPenalty = 1;
    /** So many tokens never come again in the same order; 0: no such rule. */
    int noRepeat;
    /** Sequences of tokens that are never written. */
    int[][] forbidden = {};
    /** No end before a sequence has so many tokens. */
    int minLength;
    /** No end before so many tokens were chosen. */
    int minNew;
    /** Tokens that end a text. */
    int[] ends = {};
    /** The token behind the start token: a translator's language. -1: any. */
    int second = -1;
    /** One of these is the last token where a text reaches its greatest length. */
    int[] last = {};
    /** Tokens that are never written, and those that are not written first. */
    int[] suppressed = {};
    int[] suppressedFirst = {};

    boolean isEnd(int token) {
        for (int end : ends) if (end == token) return true;
        return false;
    }

    /**
     * The likeliest token behind the first {@code count} of {@code given}; the first {@code prompt} of those were not
     * chosen, and a sequence has at most {@code total}. Changes the scores.
     */
    int choose(float[] scores, int[] given, int count, int prompt, int total) {
        if (repetitionPenalty != 1) penalize(scores, given, count);
        if (noRepeat > 0) forbidRepeats(scores, given, count);
        for (int[] word : forbidden) if (endsWith(given, count, word)) never(scores, word[word.length - 1]);
        if (count < Math.max(minLength, minNew > 0 ? prompt + minNew : 0)) never(scores, ends);
        if (second >= 0 && count == 1) only(scores, second);
        if (last.length > 0 && count == total - 1) only(scores, last);
        never(scores, suppressed);
        if (count == (second >= 0 && prompt == 1 ? 2 : prompt)) never(scores, suppressedFirst);
        int best = 0;
        for (int i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
        return best;
    }

    private void penalize(float[] scores, int[] given, int count) {
        BitSet seen = new BitSet(scores.length);
        for (int i = 0; i < count; i++) {
            int token = given[i];
            if (token >= scores.length || seen.get(token)) continue;
            seen.set(token);
            scores[token] = scores[token] < 0 ? scores[token] * repetitionPenalty : scores[token] / repetitionPenalty;
        }
    }

    private void forbidRepeats(float[] scores, int[] given, int count) {
        for (int i = 0; i + noRepeat <= count; i++) {
            boolean same = true;
            for (int k = 0; k < noRepeat - 1; k++) same &= given[i + k] == given[count - noRepeat + 1 + k];
            if (same) never(scores, given[i + noRepeat - 1]);
        }
    }

    /** Whether all but the last token of a word are the last that were given. */
    private static boolean endsWith(int[] given, int count, int[] word) {
        int begin = count - word.length + 1;
        if (begin < 0) return false;
        for (int k = 0; k < word.length - 1; k++) if (given[begin + k] != word[k]) return false;
        return true;
    }

    private static void never(float[] scores, int... tokens) {
        for (int token : tokens) if (token < scores.length) scores[token] = Float.NEGATIVE_INFINITY;
    }

    private static void only(float[] scores, int... tokens) {
        java.util.Arrays.fill(scores, Float.NEGATIVE_INFINITY);
        for (int token : tokens) scores[token] = 0;
    }
}
