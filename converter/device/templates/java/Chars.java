package {{ package }};

import java.util.Arrays;

/** Code points, and the chars of the text that each was made from. */
final class Chars {
    int[] c = new int[32];
    int[] start = new int[32];
    int[] end = new int[32];
    int size;

    static Chars of(String text) {
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

    /** Adds a text that stands in place of {@code from} to {@code to} of the original. */
    void add(int[] points, int from, int to) {
        for (int point : points) add(point, from, to);
    }

    void add(Chars other, int from, int to) {
        for (int i = from; i < to; i++) add(other.c[i], other.start[i], other.end[i]);
    }

    Chars part(int from, int to) {
        if (from == 0 && to == size) return this;
        Chars made = new Chars();
        made.add(this, from, to);
        return made;
    }

    Token token(int id, int from, int to) {
        return new Token(id, start[from], end[to - 1]);
    }

    @Override
    public String toString() {
        return new String(c, 0, size);
    }
}
