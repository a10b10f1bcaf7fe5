package android.content.res;
public final class AssetManager { public AssetFileDescriptor openFd(String n) throws java.io.IOException { return null; } public java.io.InputStream open(String n) throws java.io.IOException { return null; } }
