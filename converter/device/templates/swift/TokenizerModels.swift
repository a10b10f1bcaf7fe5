// How each kind of tokenizer makes tokens of a piece of text: WordPiece, byte-pair encoding, Unigram.

protocol Model {
  /// `chars` is never empty.
  func run(_ chars: [Char], into made: inout [Token])
}

func model(of tables: Tables) -> Model? {
  switch tables.cell("kind") {
  case "wordpiece": return WordPiece(tables)
  case "bpe": return Bpe(tables)
  case "unigram": return Unigram(tables)
  default: return nil
  }
}

/// The pieces `<0x00>` to `<0xFF>`, for characters that are no pieces themselves.
private struct ByteIds {
  private let ids: [Int32]

  init(_ known: [[UInt32]: Int32], used: Bool) {
    let digits = Tables.scalars(of: "0123456789ABCDEF")
    let head = Tables.scalars(of: "<0x")
    ids = (0..<256).map { used ? known[head + [digits[$0 / 16], digits[$0 % 16], 0x3E]] ?? -1 : -1 }
  }

  func of(_ points: ArraySlice<Char>) -> [Int32]? {
    let made = points.flatMap { Tables.utf8(of: $0.c) }.map { ids[Int($0)] }
    return made.contains(-1) ? nil : made
  }
}

/// The longest piece first, again and again; a word that does not come out even is unknown.
private final class WordPiece: Model {
  private let ids: [[UInt32]: Int32]
  private let prefix: [UInt32]
  private let unknown: Int32
  private let longestWord: Int

  init(_ tables: Tables) {
    ids = tables.ids()
    prefix = Tables.unescape(tables.cell("prefix"))
    unknown = Int32(tables.cell("unknown"))!
    longestWord = Int(tables.cell("longest_word"))!
  }

  func run(_ chars: [Char], into made: inout [Token]) {
    var found: [Token] = []
    var start = 0
    while start < chars.count && chars.count <= longestWord {
      var piece = start > 0 ? prefix : []
      var stop = start
      var id: Int32 = -1
      for k in start..<chars.count {
        piece.append(chars[k].c)
        if let known = ids[piece] {
          id = known
          stop = k + 1
        }
      }
      if id < 0 { break }
      found.append(Token(id: id, start: chars[start].start, end: chars[stop - 1].end))
      start = stop
    }
    if start == chars.count {
      made += found
    } else {
      made.append(Token(id: unknown, start: chars[0].start, end: chars[chars.count - 1].end))
    }
  }
}

/// Of all neighbors the pair that was merged first in training, again and again.
private final class Bpe: Model {
  private var letters: [UInt32: Int32] = [:]
  private let whole: [[UInt32]: Int32]?
  private let bytes: ByteIds
  private let fuses: Bool
  private let unknown: Int32
  private var ranks: [UInt64: Int] = [:]
  /// By rank, what a pair becomes.
  private var merged: [Int32] = []

  init(_ tables: Tables) {
    fuses = tables.flag(0)
    unknown = Int32(tables.cell("unknown"))!
    let ids = tables.flag(1) || tables.flag(2) ? tables.ids() : [:]
    bytes = ByteIds(ids, used: tables.flag(1))
    whole = tables.flag(2) ? ids : nil
    for (id, piece) in tables.pieces.enumerated() where piece.count == 1 { letters[piece[0]] = Int32(id) }
    // `left,right` of each rank, and `,merged` where that is not the id after the last.
    var last: Int32 = -1
    for cell in tables.cell("merges").split(separator: " ") {
      let numbers = cell.split(separator: ",").map { Int32($0)! }
      last = numbers.count > 2 ? numbers[2] : last + 1
      ranks[Bpe.pair(numbers[0], numbers[1])] = merged.count
      merged.append(last)
    }
  }

  private static func pair(_ one: Int32, _ other: Int32) -> UInt64 { return UInt64(one) << 32 | UInt64(other) }

  func run(_ chars: [Char], into made: inout [Token]) {
    if let known = whole?[chars.map { $0.c }] {
      made.append(Token(id: known, start: chars[0].start, end: chars[chars.count - 1].end))
    } else {
      made += merge(symbols(chars))
    }
  }

  private func symbols(_ chars: [Char]) -> [Token] {
    var made: [Token] = []
    var strange: Token?
    for i in chars.indices {
      let (start, end) = (chars[i].start, chars[i].end)
      if let id = letters[chars[i].c] {
        if let before = strange { made.append(before) }
        strange = nil
        made.append(Token(id: id, start: start, end: end))
      } else if let spelled = bytes.of(chars[i...i]) {
        made += spelled.map { Token(id: $0, start: start, end: end) }
      } else if unknown >= 0 {
        if let before = strange, !fuses {
          made.append(before)
          strange = nil
        }
        strange = Token(id: unknown, start: strange?.start ?? start, end: end)
      }
    }
    if let before = strange { made.append(before) }
    return made
  }

  /// What is left is chained by `after` and `before`; the queue has pairs by rank, then by place.
  private func merge(_ symbols: [Token]) -> [Token] {
    let n = symbols.count
    var tokens: [Token?] = symbols
    var after = Array(1..<(n + 2))
    var before = Array(-1..<(n))
    var queue = Queue()
    func rank(_ at: Int) -> Int? {
      guard after[at] < n, let one = tokens[at], let other = tokens[after[at]] else { return nil }
      return ranks[Bpe.pair(one.id, other.id)]
    }
    func note(_ at: Int) {
      if let found = rank(at) { queue.add(UInt64(found) << 32 | UInt64(at)) }
    }
    for at in 0..<n { note(at) }
    while let next = queue.take() {
      let at = Int(next & 0xFFFF_FFFF)
      let id = merged[Int(next >> 32)]
      // A pair that was noted, and has changed since.
      guard let found = rank(at), merged[found] == id else { continue }
      let gone = after[at]
      tokens[at] = Token(id: id, start: tokens[at]!.start, end: tokens[gone]!.end)
      tokens[gone] = nil
      after[at] = after[gone]
      before[after[at]] = at
      if before[at] >= 0 { note(before[at]) }
      note(at)
    }
    return tokens.compactMap { $0 }
  }
}

/// The least number first.
private struct Queue {
  private var heap: [UInt64] = []

  mutating func add(_ value: UInt64) {
    heap.append(value)
    var i = heap.count - 1
    while i > 0 && heap[(i - 1) / 2] > heap[i] {
      heap.swapAt(i, (i - 1) / 2)
      i = (i - 1) / 2
    }
  }

  mutating func take() -> UInt64? {
    guard let least = heap.first else { return nil }
    let last = heap.removeLast()
    if heap.isEmpty { return least }
    heap[0] = last
    var i = 0
    while 2 * i + 1 < heap.count {
      var child = 2 * i + 1
      if child + 1 < heap.count && heap[child + 1] < heap[child] { child += 1 }
      if heap[i] <= heap[child] { break }
      heap.swapAt(i, child)
      i = child
    }
    return least
  }
}

/// Of all ways to cut, the one whose pieces have the highest sum of scores (Viterbi).
private final class Unigram: Model {
  private struct Node {
    var score = 0.0
    var from = -1
    var id: Int32 = -1
  }

  private let ids: [[UInt32]: Int32]
  private let sorted: [(piece: [UInt32], id: Int32)]
  private let bytes: ByteIds
  private let scores: [Double]
  private let unknown: Int32
  private let unknownScore: Double

  init(_ tables: Tables) {
    let known = tables.ids()
    ids = known
    sorted = known.map { (piece: $0.key, id: $0.value) }.sorted { $0.piece.lexicographicallyPrecedes($1.piece) }
    bytes = ByteIds(known, used: tables.flag(1))
    scores = tables.cell("scores").split(separator: " ").map { Double($0)! }
    unknown = Int32(tables.cell("unknown"))!
    unknownScore = scores.min()! - 10
  }

  func run(_ chars: [Char], into made: inout [Token]) {
    let n = chars.count
    var best = [Node](repeating: Node(), count: n + 1)
    let offer = { (start: Int, end: Int, id: Int32, score: Double) in
      let sum = best[start].score + score
      if best[end].from < 0 || sum > best[end].score { best[end] = Node(score: sum, from: start, id: id) }
    }
    for start in 0..<n {
      var single = false
      var low = 0
      var high = sorted.count
      for end in (start + 1)...n {
        let c = chars[end - 1].c
        low = first(low, high, at: end - start - 1, c)
        high = first(low, high, at: end - start - 1, c + 1)
        if low == high { break }
        if sorted[low].piece.count > end - start { continue }
        single = single || end == start + 1
        offer(start, end, sorted[low].id, scores[Int(sorted[low].id)])
      }
      if !single { offer(start, start + 1, unknown, unknownScore) }
    }
    trace(best, chars, into: &made)
  }

  /// Of pieces that begin alike, the first whose character at `at` is not less than `c`.
  private func first(_ from: Int, _ to: Int, at: Int, _ c: UInt32) -> Int {
    var low = from
    var high = to
    while low < high {
      let middle = (low + high) / 2
      let piece = sorted[middle].piece
      if at >= piece.count || piece[at] < c { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Unknown characters side by side are one.
  private func trace(_ best: [Node], _ chars: [Char], into made: inout [Token]) {
    var spans: [(begin: Int, end: Int)] = []
    var before = false
    var end = chars.count
    while end > 0 {
      let node = best[end]
      if node.id == unknown && before {
        spans[spans.count - 1].begin = node.from
      } else {
        spans.append((begin: node.from, end: end))
      }
      before = node.id == unknown
      end = node.from
    }
    for span in spans.reversed() {
      let part = chars[span.begin..<span.end]
      let (start, stop) = (chars[span.begin].start, chars[span.end - 1].end)
      let known = ids[part.map { $0.c }]
      if known == nil, let spelled = bytes.of(part) {
        made += spelled.map { Token(id: $0, start: start, end: stop) }
      } else {
        made.append(Token(id: known ?? unknown, start: start, end: stop))
      }
    }
  }
}
