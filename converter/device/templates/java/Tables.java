package {{ package }};

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** What stands in tokenizer.txt and vocab.txt, the same form for every kind of tokenizer. */
final class Tables {
    /** A token that is found in the text as it is typed, before any word is cut. */
    static final class Special {
        int id;
        boolean normalized;
        boolean left;
        boolean right;
        boolean special;
        int[] content;
        String spelling;
    }

    /** A set of characters. */
    static final class Ranges {
        private final int[] starts;
        private final int[] ends;
        private final boolean[] ascii = new boolean[128];

        Ranges(String cell) {
            String[] parts = parts(cell);
            starts = new int[parts.length];
            ends = new int[parts.length];
            for (int i = 0; i < parts.length; i++) {
                int dash = parts[i].indexOf('-');
                starts[i] = Integer.parseInt(parts[i].substring(0, dash), 16);
                ends[i] = Integer.parseInt(parts[i].substring(dash + 1), 16);
                for (int c = starts[i]; c <= Math.min(ends[i], 127); c++) ascii[c] = true;
            }
        }

        boolean has(int c) {
            if (c < 128) return ascii[c];
            int at = Arrays.binarySearch(starts, c);
            int i = at >= 0 ? at : -at - 2;
            return i >= 0 && c <= ends[i];
        }
    }

    /** One step of normalizing or splitting, and the rows of its tables. */
    static final class Step {
        final String name;
        final String[] options;
        private final List<String[]> rows = new ArrayList<>();

        Step(String[] cells) {
            name = cells[1];
            options = Arrays.copyOfRange(cells, 2, cells.length);
        }

        List<String[]> rows(String name) {
            List<String[]> made = new ArrayList<>();
            for (String[] row : rows) if (row[0].equals(name)) made.add(row);
            return made;
        }

        Ranges ranges(String name) {
            StringBuilder cells = new StringBuilder();
            for (String[] row : rows(name)) cells.append(row[1]);
            return new Ranges(cells.toString());
        }

        /** What each character, or each short run of them, becomes. */
        Map<String, int[]> maps() {
            Map<String, int[]> made = new HashMap<>();
            for (String[] row : rows("map")) {
                int[] key = hexes(row[1]);
                made.put(new String(key, 0, key.length), hexes(row[2]));
            }
            return made;
        }
    }

    final Map<String, String[]> cells = new HashMap<>();
    final List<Special> specials = new ArrayList<>();
    final List<Step> normalizer = new ArrayList<>();
    final List<Step> splits = new ArrayList<>();
    /** The pieces in the order of their ids. */
    final List<String> pieces = new ArrayList<>();
    private Step last;

    /** Reads both streams and closes them. */
    Tables(InputStream tables, InputStream words) throws IOException {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(tables, StandardCharsets.UTF_8))) {
            String line = reader.readLine();
            if (!"plm-export-tokenizer\t2".equals(line)) throw new IOException("tokenizer.txt is of another format");
            while ((line = reader.readLine()) != null) read(line.split("\t", -1));
        }
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(words, StandardCharsets.UTF_8))) {
            for (String line; (line = reader.readLine()) != null; ) pieces.add(unescape(line));
        }
    }

    private void read(String[] row) {
        switch (row[0]) {
            case "normalize":
                normalizer.add(last = new Step(row));
                break;
            case "split":
                splits.add(last = new Step(row));
                break;
            case "drop": case "space": case "map": case "order": case "compose": case "extend": case "prepend":
            case "control": case "set": case "part": case "alternative":
                last.rows.add(row);
                break;
            case "special":
                Special made = new Special();
                made.id = Integer.parseInt(row[1]);
                made.normalized = row[2].charAt(0) == '1';
                made.left = row[2].charAt(1) == '1';
                made.right = row[2].charAt(2) == '1';
                made.special = row[2].charAt(3) == '1';
                made.content = unescape(row[3]).codePoints().toArray();
                made.spelling = unescape(row[row.length - 1]);
                specials.add(made);
                break;
            default:
                cells.put(row[0], Arrays.copyOfRange(row, 1, row.length));
        }
    }

    /** Gives back the memory of what the steps and the model have taken over. */
    void forgetRead() {
        normalizer.clear();
        splits.clear();
        last = null;
        cells.keySet().removeAll(Arrays.asList("merges", "scores"));
    }

    String cell(String name) {
        return cells.get(name)[0];
    }

    boolean flag(int which) {
        return cell("flags").charAt(which) == '1';
    }

    /** Of a template, each: which text (-1: neither), the id of a token of its own, the type id. */
    int[][] template(String name) {
        String[] parts = parts(cell(name));
        int[][] made = new int[parts.length][];
        for (int i = 0; i < parts.length; i++) {
            String[] slot = parts[i].split(":");
            int which = slot[0].equals("A") ? 0 : slot[0].equals("B") ? 1 : -1;
            made[i] = new int[] {which, which < 0 ? Integer.parseInt(slot[0]) : 0, Integer.parseInt(slot[1])};
        }
        return made;
    }

    Map<String, Integer> ids() {
        Map<String, Integer> made = new HashMap<>(2 * pieces.size());
        for (int id = 0; id < pieces.size(); id++) made.put(pieces.get(id), id);
        return made;
    }

    /** The ids of {@code <0x00>} to {@code <0xFF>}; -1 for those that are no pieces. */
    static int[] bytes(Map<String, Integer> ids) {
        int[] made = new int[256];
        for (int b = 0; b < 256; b++) made[b] = ids.getOrDefault(String.format(Locale.ROOT, "<0x%02X>", b), -1);
        return made;
    }

    /** Undoes the escapes of a table's cell. */
    static String unescape(String cell) {
        if (cell.indexOf('\\') < 0) return cell;
        StringBuilder made = new StringBuilder();
        for (int i = 0; i < cell.length(); i++) {
            char c = cell.charAt(i);
            if (c == '\\' && i + 1 < cell.length()) {
                c = cell.charAt(++i);
                c = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
            }
            made.append(c);
        }
        return made.toString();
    }

    static String[] parts(String cell) {
        return cell.isEmpty() ? new String[0] : cell.split(" ");
    }

    static int[] hexes(String cell) {
        String[] parts = parts(cell);
        int[] made = new int[parts.length];
        for (int i = 0; i < made.length; i++) made[i] = Integer.parseInt(parts[i], 16);
        return made;
    }
}
