package made;

import android.app.Activity;
import android.content.res.AssetManager;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.EditText;
import android.widget.TextView;
import java.io.File;
import java.io.FileInputStream;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.tensorflow.lite.Interpreter;

/**
 * Runs the Java sample with an interpreter that is none: it holds what is read into its cache, refuses what no such file
 * takes, and says what golden.tsv says comes next. Arguments: assets, positions of the cache, the start token (-1: a
 * causal model), what the interpreter does ("recorded", or "shifted", which is another token at the third step), and
 * the assets of an app.
 */
public final class Drive {
    private static int cache;
    private static int start;
    private static int[] ids;
    private static int[] wanted;
    private static int[] held;
    private static boolean shifted;

    public static void main(String[] args) throws Exception {
        cache = Integer.parseInt(args[1]);
        start = Integer.parseInt(args[2]);
        shifted = args[3].equals("shifted");
        Interpreter.model = Drive::run;
        Tokenizer tokenizer = new Tokenizer(
                new FileInputStream(args[0] + "/tokenizer.txt"), new FileInputStream(args[0] + "/vocab.txt"));
        int steps = 0;
        int same = 0;
        int n = 0;
        CLASS model = new CLASS(ByteBuffer.allocate(0), tokenizer, 1);
        for (String line : Files.readAllLines(Paths.get(args[0], "golden.tsv"))) {
            String[] cells = line.split("\t", -1);
            if (cells[0].equals("steps")) steps = Integer.parseInt(cells[1]);
            if (!cells[0].equals("text")) continue;
            ids = ints(cells[2]);
            wanted = ints(cells[3]);
            held = new int[cache];
            Arrays.fill(held, -1);
            StringBuilder pieces = new StringBuilder();
            String said = model.CALL(Tables.unescape(cells[1]), steps, piece -> {
                check(!piece.isEmpty(), "an empty piece");
                pieces.append(piece);
            });
            check(said.equals(pieces.toString()), "the pieces are not the whole");
            same += said.equals(Tables.unescape(cells[4])) ? 1 : 0;
            n++;
            if (!said.isEmpty() && !shifted) onScreen(args[4], Tables.unescape(cells[1]), said);
        }
        refusesWhatIsTooLong(model);
        stops(model);
        System.out.println(same + " of " + n + " texts are written as recorded");
        System.exit(same == n ? 0 : 1);
    }

    /** What the app shows: the answer, and why there is none. */
    private static void onScreen(String assets, String text, String wanted) throws Exception {
        AssetManager.folder = new File(assets);
        MainActivity activity = new MainActivity();
        activity.onCreate(null);
        ViewGroup column = (ViewGroup) ((ViewGroup) Activity.shown).children.get(0);
        Button button = (Button) column.children.get(1);
        String label = button.getText().toString();
        check(asked(column, text, label).equals(wanted), "another answer on the screen");
        StringBuilder longer = new StringBuilder(text);
        while (longer.length() < 4000) longer.append(' ').append("word");
        String refused = asked(column, longer.toString(), label);
        check(refused.contains("tokens; this model.tflite takes 1 to"), "not refused: " + refused);
        check(stoppedBeforeItIsOpen(text, label).isEmpty(), "an early stop is lost");
        activity.onDestroy();
    }

    /** What is shown where Stop is pressed while the background thread does something else. */
    private static String stoppedBeforeItIsOpen(String text, String label) throws Exception {
        MainActivity activity = new MainActivity();
        activity.onCreate(null);
        Field field = MainActivity.class.getDeclaredField("background");
        field.setAccessible(true);
        CountDownLatch begin = new CountDownLatch(1);
        ((ExecutorService) field.get(activity)).submit(() -> begin.await(9, TimeUnit.SECONDS));
        ViewGroup column = (ViewGroup) ((ViewGroup) Activity.shown).children.get(0);
        ((EditText) column.children.get(0)).setText(text);
        Button button = (Button) column.children.get(1);
        button.listener.onClick(button);
        check(!button.getText().toString().equals(label), "nothing to stop");
        button.listener.onClick(button);
        begin.countDown();
        for (int i = 0; i < 2000 && !button.getText().toString().equals(label); i++) Thread.sleep(5);
        activity.onDestroy();
        synchronized (Activity.class) {
            return ((TextView) column.children.get(2)).getText().toString();
        }
    }

    private static String asked(ViewGroup column, String text, String label) throws Exception {
        ((EditText) column.children.get(0)).setText(text);
        Button button = (Button) column.children.get(1);
        button.listener.onClick(button);
        for (int i = 0; i < 2000 && !button.getText().toString().equals(label); i++) Thread.sleep(5);
        synchronized (Activity.class) {
            return ((TextView) column.children.get(2)).getText().toString();
        }
    }

    private static void refusesWhatIsTooLong(CLASS model) {
        Interpreter.model = (inputs, outputs) -> check(false, "it was run");
        for (int[] wrong : new int[][] {new int[CLASS.MAX_LENGTH + 1], {}}) {
            try {
                model.writeIds(wrong, 5, id -> {});
                check(false, "not refused");
            } catch (IllegalArgumentException error) {
                check(error.getMessage().contains(wrong.length + " tokens"), error.getMessage());
            }
        }
        model.writeIds(ids, 0, id -> {});
        Interpreter.model = Drive::run;
    }

    private static void stops(CLASS model) {
        int[] count = {0};
        AtomicBoolean stop = new AtomicBoolean();
        for (int i = 0; i < 2; i++) {  // the second time it is set before the call begins
            model.writeIds(ids, 9, stop, id -> {
                count[0]++;
                stop.set(true);
            });
        }
        check(count[0] == 1, "it was not stopped");
    }

    private static void run(Map<String, Object> in, Map<String, Object> out) {
        int[] tokens = ((int[][]) in.get("tokens"))[0];
        if (Interpreter.signature.startsWith("encode_")) {
            int length = Integer.parseInt(Interpreter.signature.substring(7));
            check(Arrays.equals(tokens, Arrays.copyOf(ids, length)), "other tokens");
            check(Arrays.stream(((int[][]) in.get("source_mask"))[0]).sum() == ids.length, "another mask");
            for (Object buffer : out.values()) whole((ByteBuffer) buffer);
            return;
        }
        int size = Interpreter.signature.equals("decode") ? 1 : Integer.parseInt(Interpreter.signature.substring(8));
        int[] places = (int[]) in.get("input_pos");
        FloatBuffer mask = (FloatBuffer) in.get("mask");
        check(tokens.length == size && places.length == size && mask.capacity() == size * cache, "other sizes");
        for (int i = 0; i < size; i++) {
            held[places[i]] = tokens[i];
            for (int k = 0; k < cache; k++) {
                check(mask.get(i * cache + k) == (k <= places[i] ? 0f : -1e9f), "another mask");
            }
        }
        for (Map.Entry<String, Object> entry : in.entrySet()) {
            if (!entry.getKey().startsWith("kv_cache_")) continue;
            check(out.get(entry.getKey()) == entry.getValue(), "two buffers for " + entry.getKey());
            whole((ByteBuffer) entry.getValue());
        }
        if (size == 1 && out.containsKey("logits")) answer(places[0], (FloatBuffer) out.get("logits"));
    }

    /** What was read up to here must be the text and what was written so far. */
    private static void answer(int place, FloatBuffer logits) {
        check(logits.position() == 0, "logits begin elsewhere");
        int[] begun = start < 0 ? ids : new int[] {start};
        for (int i = 0; i < logits.capacity(); i++) logits.put(i, 0f);
        int step = place + 1 - begun.length;
        if (step < 0) return;  // of a prompt
        for (int i = 0; i <= place; i++) {
            int token = i < begun.length ? begun[i] : wanted[i - begun.length];
            check(held[i] == token || shifted, "other tokens are in the cache");
        }
        if (step >= wanted.length) return;
        logits.put(wanted[step] + (shifted && step == 2 ? 1 : 0), 9f);
    }

    private static void whole(ByteBuffer buffer) {
        check(buffer.isDirect() && buffer.position() == 0 && buffer.capacity() > 0, "no whole buffer");
    }

    private static int[] ints(String cell) {
        if (cell.isEmpty()) return new int[0];
        return Arrays.stream(cell.split(" ")).mapToInt(Integer::parseInt).toArray();
    }

    private static void check(boolean good, String what) {
        if (!good) throw new AssertionError(what);
    }
}
