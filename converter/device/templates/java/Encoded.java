package {{ package }};

/** A text (or two) as token ids, without padding. Fill it with Tokenizer, or from your tokenizer library. */
public final class Encoded {
    public final int[] ids;
    public final int[] types;
    /** 0 or 1: the text that a token is from; -1: a special token around the texts. */
    public final int[] part;
    /** Where in that text a token begins and ends, in chars. */
    public final int[] start;
    public final int[] end;

    public Encoded(int size) {
        this(new int[size], new int[size], new int[size]);
    }

    public Encoded(int[] ids, int[] types, int[] part) {
        this.ids = ids;
        this.types = types;
        this.part = part;
        this.start = new int[ids.length];
        this.end = new int[ids.length];
    }
}
