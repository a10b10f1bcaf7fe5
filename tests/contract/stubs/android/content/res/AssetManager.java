package android.content.res;
import java.io.*;
public final class AssetManager {
  /** Where a test keeps the assets. */
  public static File folder = new File(".");
  public AssetFileDescriptor openFd(String n) throws IOException { return new AssetFileDescriptor(new File(folder, n)); }
  public InputStream open(String n) throws IOException { return new FileInputStream(new File(folder, n)); }
}
