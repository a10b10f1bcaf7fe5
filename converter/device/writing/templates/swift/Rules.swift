// What the model's generation_config.json asks of the next token. Sequences count the start token, or the prompt.

struct Rules {
  /// Above 1: tokens that are there already become less likely.
  var repetitionPenalty: Float = 1
  /// So many tokens never come again in the same order; 0: no such rule.
  var noRepeat = 0
  /// Sequences of tokens that are never written.
  var forbidden: [[Int32]] = []
  /// No end before a sequence has so many tokens.
  var minLength = 0
  /// No end before so many tokens were chosen.
  var minNew = 0
  /// Tokens that end a text.
  var ends: [Int32] = []
  /// The token behind the start token: a translator's language. -1: any.
  var second: Int32 = -1
  /// One of these is the last token where a text reaches its greatest length.
  var last: [Int32] = []
  /// Tokens that are never written, and those that are not written first.
  var suppressed: [Int32] = []
  var suppressedFirst: [Int32] = []

  /// The likeliest token behind `given`, whose first `prompt` were not chosen; a sequence has at most `total`.
  func choose(_ logits: [Float], _ given: [Int32], prompt: Int, total: Int) -> Int32 {
    var scores = logits
    if repetitionPenalty != 1 {
      for token in Set(given) where Int(token) < scores.count {
        let score = scores[Int(token)]
        scores[Int(token)] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty
      }
    }
    if noRepeat > 0 && given.count >= noRepeat {
      let begun = given.suffix(noRepeat - 1)
      for i in 0...(given.count - noRepeat) where given[i..<(i + noRepeat - 1)].elementsEqual(begun) {
        never(&scores, [given[i + noRepeat - 1]])
      }
    }
    for word in forbidden where given.count >= word.count - 1 {
      if given.suffix(word.count - 1).elementsEqual(word.dropLast()) { never(&scores, [word[word.count - 1]]) }
    }
    if given.count < max(minLength, minNew > 0 ? prompt + minNew : 0) { never(&scores, ends) }
    if second >= 0 && given.count == 1 { only(&scores, [second]) }
    if !last.isEmpty && given.count == total - 1 { only(&scores, last) }
    never(&scores, suppressed)
    if given.count == (second >= 0 && prompt == 1 ? 2 : prompt) { never(&scores, suppressedFirst) }
    var best = 0
    for i in scores.indices where scores[i] > scores[best] { best = i }
    return Int32(best)
  }

  private func never(_ scores: inout [Float], _ tokens: [Int32]) {
    for token in tokens where Int(token) < scores.count { scores[Int(token)] = -Float.infinity }
  }

  private func only(_ scores: inout [Float], _ tokens: [Int32]) {
    scores = [Float](repeating: -Float.infinity, count: scores.count)
    for token in tokens { scores[Int(token)] = 0 }
  }
}
