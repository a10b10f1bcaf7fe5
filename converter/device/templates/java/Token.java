package {{ package }};

/** A token id, and where in the text (Java chars) it came from. */
public final class Token {
    public final int id;
    public final int start;
    public final int end;

    Token(int id, int start, int end) {
        this.id = id;
        this.start = start;
        this.end = end;
    }
}
