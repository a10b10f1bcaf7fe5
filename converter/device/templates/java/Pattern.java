package {{ package }};

import java.util.List;

/** Repeated character sets, matched: the first alternative that fits, each item taking as much as it can. */
final class Pattern {
    private static final int LINE_END = '\n';

    private static final class Item {
        final char what;
        final int which;
        final int least;
        final int most;

        Item(String text) {
            String[] parts = text.split(":");
            boolean taking = parts.length == 3;
            what = taking ? ':' : text.charAt(0);
            which = taking ? Integer.parseInt(parts[0]) : text.length() > 1 ? Integer.parseInt(text.substring(1)) : 0;
            least = taking ? Integer.parseInt(parts[1]) : 0;
            most = !taking ? 0 : parts[2].equals("*") ? Integer.MAX_VALUE : Integer.parseInt(parts[2]);
        }
    }

    private final Tables.Ranges[] sets;
    private final Item[][] parts;
    private final Item[][] alternatives;

    Pattern(Tables.Step step) {
        List<String[]> rows = step.rows("set");
        sets = new Tables.Ranges[rows.size()];
        for (int i = 0; i < sets.length; i++) sets[i] = new Tables.Ranges(rows.get(i)[1]);
        parts = items(step.rows("part"));
        alternatives = items(step.rows("alternative"));
    }

    private static Item[][] items(List<String[]> rows) {
        Item[][] made = new Item[rows.size()][];
        for (int i = 0; i < made.length; i++) {
            String[] cells = Tables.parts(rows.get(i)[1]);
            made[i] = new Item[cells.length];
            for (int k = 0; k < cells.length; k++) made[i][k] = new Item(cells[k]);
        }
        return made;
    }

    /** Where the match that begins at {@code at} ends; -1: none begins there. */
    int end(Chars chars, int at) {
        for (Item[] items : alternatives) {
            int end = match(items, 0, chars, at);
            if (end > at) return end;
        }
        return -1;
    }

    private int match(Item[] items, int k, Chars chars, int at) {
        if (k == items.length) return at;
        Item item = items[k];
        if (item.what != ':') return holds(item, chars, at) ? match(items, k + 1, chars, at) : -1;
        Tables.Ranges set = sets[item.which];
        int end = at;
        while (end < chars.size && end - at < item.most && set.has(chars.c[end])) end++;
        for (; end - at >= item.least; end--) {
            int found = match(items, k + 1, chars, end);
            if (found >= 0) return found;
        }
        return -1;
    }

    private boolean holds(Item item, Chars chars, int at) {
        switch (item.what) {
            case '~': return match(parts[item.which], 0, chars, at) < 0;
            case '<': return at == 0 || !sets[item.which].has(chars.c[at - 1]);
            case '^': return at == 0 || chars.c[at - 1] == LINE_END;
            default: return at == chars.size || chars.c[at] == LINE_END;
        }
    }
}
