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
import java.util.Map;

/** What stands in tokenizer.txt and vocab.txt. */
final class Tables {
    static final class Special {
        int id;
        boolean normalized;
        boolean left;
        boolean right;
        int[] content;
    }

    final Map<String, Integer> vocabulary = new HashMap<>();
    final Map<Integer, int[]> replaced = new HashMap<>();
    final List<Special> specials = new ArrayList<>();
    final List<String> spellings = new ArrayList<>();
    int[][] single;
    int[][] pair;
    int[][] spaces;
    int[][] alone;
    int[][] dropped;
    int[][] spaced;
    String prefix;
    int unknown;
    int longestWord;
    boolean hangul;

    /** Reads both streams and closes them. */
    Tables(InputStream tables, InputStream words) throws IOException {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(tables, StandardCharsets.UTF_8))) {
            String line = reader.readLine();
            if (!"plm-export-wordpiece\t1".equals(line)) throw new IOException("tokenizer.txt is of another format");
            while ((line = reader.readLine()) != null) read(line.split("\t", -1));
        }
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(words, StandardCharsets.UTF_8))) {
            for (String line; (line = reader.readLine()) != null; spellings.add(line)) {
                vocabulary.put(line, spellings.size());
            }
        }
    }

    private void read(String[] cells) {
        String value = cells[1];
        switch (cells[0]) {
            case "unknown": unknown = Integer.parseInt(value); break;
            case "prefix": prefix = value; break;
            case "longest_word": longestWord = Integer.parseInt(value); break;
            case "hangul": hangul = value.equals("1"); break;
            case "single": single = slots(value); break;
            case "pair": pair = slots(value); break;
            case "spaces": spaces = ranges(value); break;
            case "alone": alone = ranges(value); break;
            case "dropped": dropped = ranges(value); break;
            case "spaced": spaced = ranges(value); break;
            case "replace": replaced.put(Integer.parseInt(value, 16), hexes(cells[2])); break;
            case "special":
                Special made = new Special();
                made.id = Integer.parseInt(value);
                made.normalized = cells[2].charAt(0) == '1';
                made.left = cells[2].charAt(1) == '1';
                made.right = cells[2].charAt(2) == '1';
                made.content = unescape(cells[3]).codePoints().toArray();
                specials.add(made);
                break;
            default: // a table that a later version added
        }
    }

    /** Undoes the escapes of a table's cell. */
    static String unescape(String cell) {
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

    private static String[] parts(String cell) {
        return cell.isEmpty() ? new String[0] : cell.split(" ");
    }

    private static int[] hexes(String cell) {
        String[] parts = parts(cell);
        int[] made = new int[parts.length];
        for (int i = 0; i < made.length; i++) made[i] = Integer.parseInt(parts[i], 16);
        return made;
    }

    private static int[][] ranges(String cell) {
        String[] parts = parts(cell);
        int[][] made = new int[2][parts.length];
        for (int i = 0; i < parts.length; i++) {
            int dash = parts[i].indexOf('-');
            made[0][i] = Integer.parseInt(parts[i].substring(0, dash), 16);
            made[1][i] = Integer.parseInt(parts[i].substring(dash + 1), 16);
        }
        return made;
    }

    private static int[][] slots(String cell) {
        String[] parts = parts(cell);
        int[][] made = new int[parts.length][];
        for (int i = 0; i < parts.length; i++) {
            String[] slot = parts[i].split(":");
            int which = slot[0].equals("A") ? 0 : slot[0].equals("B") ? 1 : -1;
            made[i] = new int[] {which, which < 0 ? Integer.parseInt(slot[0]) : 0, Integer.parseInt(slot[1])};
        }
        return made;
    }

    static boolean in(int[][] ranges, int c) {
        int at = Arrays.binarySearch(ranges[0], c);
        int i = at >= 0 ? at : -at - 2;
        return i >= 0 && c <= ranges[1][i];
    }
}
