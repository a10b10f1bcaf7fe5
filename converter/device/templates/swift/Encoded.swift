/// A text (or two) as token ids, without padding. Fill it with Tokenizer, or from your tokenizer library.
public struct Encoded {
  public var ids: [Int32] = []
  public var types: [Int32] = []
  /// 0 or 1: the text that a token is from; -1: a special token around the texts.
  public var part: [Int] = []
  /// Where in that text's unicodeScalars a token begins and ends.
  public var start: [Int] = []
  public var end: [Int] = []

  public init() {}
}
