package android.content.res;
import java.io.*;
public class AssetFileDescriptor implements Closeable {
  private final FileInputStream file;
  private final long length;
  AssetFileDescriptor(File file) throws IOException { this.file = new FileInputStream(file); length = file.length(); }
  public FileDescriptor getFileDescriptor(){ try { return file.getFD(); } catch (IOException e) { throw new UncheckedIOException(e); } }
  public long getStartOffset(){ return 0; }
  public long getDeclaredLength(){ return length; }
  @Override public void close() throws IOException { file.close(); }
}
