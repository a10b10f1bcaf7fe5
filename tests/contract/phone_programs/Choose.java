package made;

import java.util.Arrays;
import java.util.Scanner;

/** Chooses tokens by the rules of the sample: a row of input is "prompt total | given | scores". */
public final class Choose {
    public static void main(String[] args) {
        Rules rules = new Rules();
        RULES
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            String[] cells = lines.nextLine().split("[|]");
            int[] head = ints(cells[0]);
            int[] given = ints(cells[1]);
            String[] numbers = cells[2].trim().split(" ");
            float[] scores = new float[numbers.length];
            for (int i = 0; i < scores.length; i++) scores[i] = Float.parseFloat(numbers[i]);
            System.out.println(rules.choose(scores, given, given.length, head[0], head[1]));
        }
    }

    private static int[] ints(String cell) {
        return Arrays.stream(cell.trim().split(" ")).mapToInt(Integer::parseInt).toArray();
    }
}
