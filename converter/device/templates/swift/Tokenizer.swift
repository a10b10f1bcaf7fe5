// The model's tokenizer: reads tokenizer.txt and vocab.txt, which were made from the original. Nothing of the system's
// Unicode data is used (it differs from system to system): what happens to every character stands in the tables.
import Foundation

/// Once made it does not change: it may be used from several threads at once.
public final class Tokenizer {
  public enum Failure: Error {
    case laterVersion(String)
    case noDecoder
  }

  private let single: [Slot]
  private let pair: [Slot]
  private let spaces: Ranges
  private let normalizers: [Normalizer]
  private let splitters: [Splitter]
  private let chosen: Model
  private let how: [String]?
  private let spellings: Spellings
  /// Special tokens by their first character, the longest first.
  private var specials: [UInt32: [Special]] = [:]

  /// `folder` holds tokenizer.txt and vocab.txt: in an app, `Bundle.main.resourceURL!`.
  public init(folder: URL) throws {
    let tables = try Tables(folder: folder)
    let white = Ranges(tables.cell("spaces"))
    single = tables.slots("single")
    pair = tables.slots("pair")
    spaces = white
    normalizers = try tables.normalizer.map { try Tokenizer.known(normalizer(of: $0, spaces: white), $0.name) }
    splitters = try tables.splits.map { try Tokenizer.known(splitter(of: $0), $0.name) }
    chosen = try Tokenizer.known(model(of: tables), tables.cell("kind"))
    how = tables.cells["decode"]
    let byId = Dictionary(tables.specials.map { ($0.id, $0) }, uniquingKeysWith: { $1 })
    spellings = Spellings(pieces: tables.pieces, specials: byId)
    for special in tables.specials {
      if let letter = special.content.first { specials[letter, default: []].append(special) }
    }
    specials = specials.mapValues { alike in alike.sorted { $0.content.count > $1.content.count } }
  }

  private static func known<Kind>(_ made: Kind?, _ name: String) throws -> Kind {
    guard let made = made else { throw Failure.laterVersion(name) }
    return made
  }

  /// Ids for the model, cut to `maxLength`: the longer text first, or (`onlySecond`) the second alone.
  public func encode(_ text: String, pair second: String? = nil, maxLength: Int, onlySecond: Bool = false) -> Encoded {
    let parts = [tokens(text), second.map { tokens($0) } ?? []]
    let around = second == nil ? single : pair
    let room = max(0, maxLength - around.filter { $0.part < 0 }.count)
    let keep = Tokenizer.kept(parts[0].count, parts[1].count, room: room, onlySecond: onlySecond && second != nil)
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
    cutOut(Tokenizer.chars(of: text), normalized: false, into: &made) { chunk, made in
      cutOut(normalize(chunk), normalized: true, into: &made) { part, made in choose(part, into: &made) }
    }
    return made
  }

  /// The text of ids, special tokens left out; empty where the tables do not say how ids become text.
  public func decode(_ ids: [Int32]) -> String {
    guard let made = try? stream() else { return "" }
    return ids.map { made.add($0) }.joined() + made.end()
  }

  /// A text that takes ids one by one.
  public func stream() throws -> TextStream {
    guard let how = how else { throw Failure.noDecoder }
    return TextStream(how, spellings)
  }

  /// The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
  /// (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
  public func normalize(_ text: String) -> String {
    return Tables.text(of: normalize(Tokenizer.chars(of: text)).map { $0.c })
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
    return Tables.text(of: spellings.find(id, withSpecial: true) ?? [])
  }

  /// Where the words that white space separates begin and end, in unicodeScalars.
  public func wordSpans(_ text: String) -> [(start: Int, end: Int)] {
    var made: [(start: Int, end: Int)] = []
    var inside = false
    for (i, c) in Tables.scalars(of: text).enumerated() {
      let space = spaces.contains(c)
      if !space && !inside { made.append((start: i, end: i)) }
      if !space { made[made.count - 1].end = i + 1 }
      inside = !space
    }
    return made
  }

  private static func chars(of text: String) -> [Char] {
    return Tables.scalars(of: text).enumerated().map { Char(c: $0.element, start: $0.offset, end: $0.offset + 1) }
  }

  private func normalize(_ chars: [Char]) -> [Char] {
    return normalizers.reduce(chars) { $1($0) }
  }

  private func choose(_ chars: [Char], into made: inout [Token]) {
    var pieces = [chars]
    for step in splitters { pieces = pieces.flatMap { $0.isEmpty ? [] : step($0) } }
    for piece in pieces where !piece.isEmpty { chosen.run(piece, into: &made) }
  }

  /// Special tokens typed in the text: the leftmost first, the longest of those that begin there.
  private func cutOut(
    _ chars: [Char], normalized: Bool, into made: inout [Token], rest: ([Char], inout [Token]) -> Void
  ) {
    var begin = 0
    var i = 0
    while i < chars.count {
      let alike = specials[chars[i].c] ?? []
      guard let token = alike.first(where: { $0.normalized == normalized && matches(chars, i, $0.content) }) else {
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
