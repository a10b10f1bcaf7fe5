// WordPiece tokenizer: reads tokenizer.txt and vocab.txt, which were made from the model's own tokenizer. Nothing of the
// system's Unicode data is used (it differs from system to system): what happens to every character stands in the tables.
// Text is handled as arrays of scalars: Swift's String holds "é" and "e\u{301}" for equal, which a vocabulary does not.
import Foundation

public final class WordPiece {
  /// A token id, and where in the text's unicodeScalars it came from.
  public struct Token {
    public let id: Int32
    public let start: Int
    public let end: Int
  }

  public enum Failure: Error {
    case otherFormat(String)
  }

  private struct Char {
    let c: UInt32
    let start: Int
    let end: Int
  }

  private struct Slot {
    let part: Int
    let id: Int32
    let type: Int32
  }

  private struct Special {
    let id: Int32
    let normalized: Bool
    let left: Bool
    let right: Bool
    let content: [UInt32]
  }

  private struct Ranges {
    var starts: [UInt32] = []
    var ends: [UInt32] = []

    init(_ cell: String = "") {
      for part in cell.split(separator: " ") {
        let bounds = part.split(separator: "-").map { UInt32($0, radix: 16)! }
        starts.append(bounds[0])
        ends.append(bounds[1])
      }
    }

    func contains(_ c: UInt32) -> Bool {
      var low = 0
      var high = starts.count
      while low < high {
        let middle = (low + high) / 2
        if starts[middle] <= c { low = middle + 1 } else { high = middle }
      }
      return low > 0 && c <= ends[low - 1]
    }
  }

  private static let hangul: UInt32 = 0xAC00
  private static let hangulEnd: UInt32 = 0xD7A4

  private var vocabulary: [[UInt32]: Int32] = [:]
  private var spellings: [String] = []
  private var replaced: [UInt32: [UInt32]] = [:]
  private var specials: [Special] = []
  private var single: [Slot] = []
  private var pair: [Slot] = []
  private var spaces = Ranges()
  private var alone = Ranges()
  private var dropped = Ranges()
  private var spaced = Ranges()
  private var prefix: [UInt32] = []
  private var unknown: Int32 = 0
  private var longestWord = 100
  private var splitsHangul = false

  /// `folder` holds tokenizer.txt and vocab.txt: in an app, `Bundle.main.resourceURL!`.
  public init(folder: URL) throws {
    let tables = try WordPiece.lines(of: folder.appendingPathComponent("tokenizer.txt"))
    guard tables.first == "plm-export-wordpiece\t1" else { throw Failure.otherFormat("tokenizer.txt") }
    for line in tables.dropFirst() { read(WordPiece.cells(of: line)) }
    for line in try WordPiece.lines(of: folder.appendingPathComponent("vocab.txt")) {
      vocabulary[WordPiece.scalars(of: line)] = Int32(spellings.count)
      spellings.append(line)
    }
  }

  /// Ids for the model, cut to `maxLength`: the longer text first, or (`onlySecond`) the second alone.
  public func encode(_ text: String, pair second: String? = nil, maxLength: Int, onlySecond: Bool = false) -> Encoded {
    let parts = [tokens(text), second.map { tokens($0) } ?? []]
    let around = second == nil ? single : pair
    let room = max(0, maxLength - around.filter { $0.part < 0 }.count)
    let keep = WordPiece.kept(parts[0].count, parts[1].count, room: room, onlySecond: onlySecond && second != nil)
    var made = Encoded()
    for slot in around {
      let run = slot.part < 0 ? [Token(id: slot.id, start: 0, end: 0)] : Array(parts[slot.part].prefix(keep[slot.part]))
      for token in run {
        made.ids.append(token.id)
        made.types.append(slot.type)
        made.part.append(slot.part)
        made.start.append(token.start)
        made.end.append(token.end)
      }
    }
    return made
  }

  /// One text, without the special tokens around it.
  public func tokens(_ text: String) -> [Token] {
    var made: [Token] = []
    split(WordPiece.chars(of: text), normalized: false, into: &made) { chunk, made in
      split(normalize(chunk), normalized: true, into: &made) { part, made in words(part, into: &made) }
    }
    return made
  }

  /// The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
  /// (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
  public func normalize(_ text: String) -> String {
    var made = String.UnicodeScalarView()
    for x in normalize(WordPiece.chars(of: text)) { made.append(Unicode.Scalar(x.c) ?? "\u{FFFD}") }
    return String(made)
  }

  /// The beginning of the text that has `maxLength` tokens at most, with the special ones around it.
  public func shorten(_ text: String, maxLength: Int) -> String {
    let room = maxLength - single.filter { $0.part < 0 }.count
    let all = tokens(text)
    if all.count <= room { return text }
    // Half of what one character became may be cut otherwise than the whole: then one token less.
    for keep in stride(from: room, to: 0, by: -1) {
      let made = String(text.unicodeScalars.prefix(all[keep - 1].end))
      if tokens(made).count <= room { return made }
    }
    return ""
  }

  /// The spelling of a token id.
  public func spelling(of id: Int32) -> String {
    return id >= 0 && Int(id) < spellings.count ? spellings[Int(id)] : ""
  }

  /// Where the words that white space separates begin and end, in unicodeScalars.
  public func wordSpans(_ text: String) -> [(start: Int, end: Int)] {
    var made: [(start: Int, end: Int)] = []
    var inside = false
    for (i, c) in WordPiece.scalars(of: text).enumerated() {
      let space = spaces.contains(c)
      if !space && !inside { made.append((start: i, end: i)) }
      if !space { made[made.count - 1].end = i + 1 }
      inside = !space
    }
    return made
  }

  private static func scalars(of text: String) -> [UInt32] {
    return text.unicodeScalars.map { $0.value }
  }

  private static func chars(of text: String) -> [Char] {
    return scalars(of: text).enumerated().map { Char(c: $0.element, start: $0.offset, end: $0.offset + 1) }
  }

  /// By line feeds alone: Swift takes other characters for line ends too, and joins some with what follows.
  static func lines(of file: URL) throws -> [String] {
    var parts = try Data(contentsOf: file).split(separator: 0x0A, omittingEmptySubsequences: false)
    if parts.last?.isEmpty == true { parts.removeLast() }
    return parts.map { String(decoding: $0, as: UTF8.self) }
  }

  static func cells(of line: String) -> [String] {
    return line.utf8.split(separator: 0x09, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
  }

  /// Undoes the escapes of a table's cell.
  static func unescape(_ cell: String) -> String {
    var made = String.UnicodeScalarView()
    var escaped = false
    for c in cell.unicodeScalars {
      if escaped {
        made.append(c == "t" ? "\t" : c == "n" ? "\n" : c == "r" ? "\r" : c)
        escaped = false
      } else if c == "\\" {
        escaped = true
      } else {
        made.append(c)
      }
    }
    return String(made)
  }

  private func read(_ cells: [String]) {
    let value = cells[1]
    switch cells[0] {
    case "unknown": unknown = Int32(value)!
    case "prefix": prefix = WordPiece.scalars(of: value)
    case "longest_word": longestWord = Int(value)!
    case "hangul": splitsHangul = value == "1"
    case "single": single = WordPiece.slots(value)
    case "pair": pair = WordPiece.slots(value)
    case "spaces": spaces = Ranges(value)
    case "alone": alone = Ranges(value)
    case "dropped": dropped = Ranges(value)
    case "spaced": spaced = Ranges(value)
    case "replace": replaced[UInt32(value, radix: 16)!] = cells[2].split(separator: " ").map { UInt32($0, radix: 16)! }
    case "special":
      let flags = Array(cells[2])
      specials.append(
        Special(
          id: Int32(value)!, normalized: flags[0] == "1", left: flags[1] == "1", right: flags[2] == "1",
          content: WordPiece.scalars(of: WordPiece.unescape(cells[3]))))
    default: break  // a table that a later version added
    }
  }

  private static func slots(_ cell: String) -> [Slot] {
    return cell.split(separator: " ").map { part in
      let halves = part.split(separator: ":")
      let which = halves[0] == "A" ? 0 : halves[0] == "B" ? 1 : -1
      return Slot(part: which, id: which < 0 ? Int32(halves[0])! : 0, type: Int32(halves[1])!)
    }
  }

  /// Special tokens typed in the text: the leftmost first, the longest of those that begin there.
  private func split(
    _ chars: [Char], normalized: Bool, into made: inout [Token], rest: ([Char], inout [Token]) -> Void
  ) {
    var begin = 0
    var i = 0
    while i < chars.count {
      var found: Special?
      for special in specials where special.normalized == normalized {
        if special.content.count > (found?.content.count ?? 0) && matches(chars, i, special.content) { found = special }
      }
      guard let token = found else {
        i += 1
        continue
      }
      var start = i
      var end = i + token.content.count
      while token.left && start > begin && spaces.contains(chars[start - 1].c) { start -= 1 }
      while token.right && end < chars.count && spaces.contains(chars[end].c) { end += 1 }
      if start > begin { rest(Array(chars[begin..<start]), &made) }
      made.append(Token(id: token.id, start: chars[start].start, end: chars[end - 1].end))
      begin = end
      i = end
    }
    if begin < chars.count { rest(Array(chars[begin...]), &made) }
  }

  private func matches(_ chars: [Char], _ at: Int, _ wanted: [UInt32]) -> Bool {
    guard at + wanted.count <= chars.count else { return false }
    for k in 0..<wanted.count where chars[at + k].c != wanted[k] { return false }
    return true
  }

  private func normalize(_ chars: [Char]) -> [Char] {
    var made: [Char] = []
    made.reserveCapacity(chars.count)
    for x in chars where !dropped.contains(x.c) {
      var points = [x.c]
      if let other = replaced[x.c] {
        points = other
      } else if splitsHangul && x.c >= WordPiece.hangul && x.c < WordPiece.hangulEnd {
        let s = x.c - WordPiece.hangul
        points = [0x1100 + s / 588, 0x1161 + s % 588 / 28]
        if s % 28 != 0 { points.append(0x11A7 + s % 28) }
      } else if spaced.contains(x.c) {
        points = [0x20, x.c, 0x20]
      }
      for c in points { made.append(Char(c: c, start: x.start, end: x.end)) }
    }
    return made
  }

  private func words(_ chars: [Char], into made: inout [Token]) {
    var begin = 0
    for i in 0..<chars.count {
      let space = spaces.contains(chars[i].c)
      if !space && !alone.contains(chars[i].c) { continue }
      pieces(chars[begin..<i], into: &made)
      if !space { pieces(chars[i...i], into: &made) }
      begin = i + 1
    }
    pieces(chars[begin...], into: &made)
  }

  /// The longest piece of the vocabulary first, again and again; a word that does not come out even is unknown.
  private func pieces(_ word: ArraySlice<Char>, into made: inout [Token]) {
    guard let first = word.first, let last = word.last else { return }
    var found: [Token] = []
    var start = word.startIndex
    while start < word.endIndex && word.count <= longestWord {
      var piece = start > word.startIndex ? prefix : []
      var stop = start
      var id: Int32 = -1
      for k in start..<word.endIndex {
        piece.append(word[k].c)
        if let known = vocabulary[piece] {
          id = known
          stop = k + 1
        }
      }
      if id < 0 { break }
      found.append(Token(id: id, start: word[start].start, end: word[stop - 1].end))
      start = stop
    }
    if start == word.endIndex {
      made += found
    } else {
      made.append(Token(id: unknown, start: first.start, end: last.end))
    }
  }

  private static func kept(_ first: Int, _ second: Int, room: Int, onlySecond: Bool) -> [Int] {
    if first + second <= room { return [first, second] }
    if onlySecond && first < room { return [first, room - first] }
    var low = min(first, second)
    var high = low > room ? low : max(low, room - low)
    if low + high > room {
      low = room / 2
      high = low + room % 2
    }
    return first > second ? [high, low] : [low, high]
  }
}
