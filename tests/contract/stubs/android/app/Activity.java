package android.app;
import android.view.View;
/** A screen that nobody sees: what would run on the main thread runs at once. */
public class Activity extends android.content.Context {
  public static View shown;
  @Override public android.content.Context getApplicationContext(){ return this; }
  @Override public android.content.res.AssetManager getAssets(){ return new android.content.res.AssetManager(); }
  protected void onCreate(android.os.Bundle state){}
  protected void onDestroy(){}
  public void setContentView(View view){ shown = view; }
  public final void runOnUiThread(Runnable action){ synchronized (Activity.class) { action.run(); } }
}
