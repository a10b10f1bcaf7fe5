package android.view;
public class View {
  public interface OnClickListener { void onClick(View view); }
  public OnClickListener listener;
  public volatile boolean enabled = true;
  public View(android.content.Context context){}
  public void setOnClickListener(OnClickListener l){ listener = l; }
  public void setEnabled(boolean e){ enabled = e; }
  public void setPadding(int l, int t, int r, int b){}
  public void setFitsSystemWindows(boolean f){}
}
