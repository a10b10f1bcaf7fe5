package org.tensorflow.lite;
import java.nio.ByteBuffer; import java.util.Map;
public class Interpreter implements AutoCloseable {
  public static class Options { public Options setNumThreads(int n){ return this; } }
  public Interpreter(ByteBuffer model, Options o){ throw new UnsupportedOperationException(); }
  public Tensor getOutputTensorFromSignature(String n, String s){ throw new UnsupportedOperationException(); }
  public void runSignature(Map<String,Object> i, Map<String,Object> o, String s){ throw new UnsupportedOperationException(); }
  @Override public void close(){}
}
