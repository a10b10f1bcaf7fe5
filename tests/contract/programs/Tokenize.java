package org.plmexport.textmodel;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** tokenize.cpp's answers from the Java sample. */
public final class Tokenize {
    public static void main(String[] args) throws Exception {
        long begun = System.nanoTime();
        Tokenizer tokenizer =
                new Tokenizer(new FileInputStream(args[0] + "/tokenizer.txt"), new FileInputStream(args[0] + "/vocab.txt"));
        double load = (System.nanoTime() - begun) / 1e9;
        PrintStream out = new PrintStream(new java.io.BufferedOutputStream(System.out), false, "UTF-8");
        List<String[]> rows = new ArrayList<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) rows.add(line.split("\t", -1));
        for (String[] cells : rows) out.print(answer(tokenizer, cells) + "\n");
        out.flush();
        if (args.length < 3) return;
        List<String> texts = new ArrayList<>();
        for (String[] row : rows) if (row[0].equals("text")) texts.add(Tables.unescape(row[1]));
        long started = System.nanoTime();
        for (int i = Integer.parseInt(args[2]); i > 0; i--) {
            for (String text : texts) tokenizer.encode(text, null, 1 << 30, false);
        }
        System.err.println(load + " " + (System.nanoTime() - started) / 1e9);
    }

    private static String answer(Tokenizer tokenizer, String[] cells) {
        StringBuilder made = new StringBuilder();
        if (cells[0].equals("ids")) {
            String[] parts = Tables.parts(cells[1]);
            int[] ids = new int[parts.length];
            for (int i = 0; i < ids.length; i++) ids[i] = Integer.parseInt(parts[i]);
            TextStream stream = tokenizer.stream();
            made.append(escape(tokenizer.decode(ids))).append('\t');
            for (int id : ids) made.append(escape(stream.add(id))).append('\t');
            return made.append(escape(stream.end())).toString();
        }
        String second = cells[0].equals("pair") ? Tables.unescape(cells[2]) : null;
        Encoded encoded = tokenizer.encode(Tables.unescape(cells[1]), second, 1 << 30, false);
        for (int id : encoded.ids) made.append(id).append(' ');
        made.append('\t');
        for (int i = 0; i < encoded.ids.length; i++) made.append(encoded.start[i] + ":" + encoded.end[i] + " ");
        return made.toString();
    }

    private static String escape(String text) {
        return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r");
    }
}
