package android.widget;
public class TextView extends android.view.View {
  protected final StringBuffer text = new StringBuffer();
  public TextView(android.content.Context context){ super(context); }
  public final void setText(CharSequence t){ text.setLength(0); text.append(t); }
  public final void append(CharSequence t){ text.append(t); }
  public CharSequence getText(){ return text; }
  public final void setHint(CharSequence hint){}
  public void setTextIsSelectable(boolean s){}
}
