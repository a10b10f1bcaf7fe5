/// What ids stand for.
struct Spellings {
  /// In the order of their ids.
  let pieces: [[UInt32]]
  let specials: [Int32: Special]

  func find(_ id: Int32, withSpecial: Bool) -> [UInt32]? {
    if let special = specials[id] { return special.special && !withSpecial ? nil : special.spelling }
    return id >= 0 && Int(id) < pieces.count ? pieces[Int(id)] : nil
  }
}

/// Text as its tokens come: what is handed out never changes, also where a token ends inside a character.
public final class TextStream {
  private let spellings: Spellings
  private let bytes: Bool
  private var sign: UInt32?
  private var firstLoses = false
  private var fallsBack = false
  private var trimsEnd = false
  /// Spaces to take off the beginning.
  private var left = 0
  private var first = true
  private var run: [UInt8] = []
  private var spaces = 0
  private var utf8 = Utf8()

  private static let letterBytes: [UInt32: UInt8] = {
    var made: [UInt32: UInt8] = [:]
    for (b, letter) in byteLetters.enumerated() { made[letter] = UInt8(b) }
    return made
  }()

  /// `how`: the row "decode" of tokenizer.txt.
  init(_ how: [String], _ spellings: Spellings) {
    self.spellings = spellings
    bytes = how[0] == "bytes"
    if bytes { return }
    let flags = Array(how[2])
    sign = Tables.unescape(how[1]).first
    firstLoses = flags[0] == "1"
    fallsBack = flags[1] == "1"
    left = how[3] == "*" ? Int.max : Int(how[3])!
    trimsEnd = how[4] == "*"
  }

  /// What a token adds to the text and is certain: maybe nothing, maybe earlier tokens' text too.
  public func add(_ id: Int32) -> String {
    guard let own = spellings.find(id, withSpecial: false) else { return "" }
    if bytes { return Tables.text(of: characters(own)) }
    var piece: [UInt32] = []
    for c in own {
      if c != sign { piece.append(c) } else if !first || !firstLoses { piece.append(0x20) }
    }
    first = false
    guard fallsBack, let b = TextStream.byte(of: piece) else { return Tables.text(of: out(flush() + piece)) }
    run.append(b)
    return ""
  }

  /// What was held back.
  public func end() -> String {
    if bytes { return Tables.text(of: utf8.end()) }
    let made = out(flush())
    return Tables.text(of: made + [UInt32](repeating: 0x20, count: spaces))
  }

  private func characters(_ piece: [UInt32]) -> [UInt32] {
    let known = piece.compactMap { TextStream.letterBytes[$0] }
    let all = known.count == piece.count ? known : Array(Tables.text(of: piece).utf8)
    return all.flatMap { utf8.add($0) }
  }

  /// A run of bytes is text only if the whole run is.
  private func flush() -> [UInt32] {
    var whole = Utf8()
    let made = run.flatMap { whole.add($0) } + whole.end()
    let count = run.count
    run = []
    return whole.wrong ? [UInt32](repeating: 0xFFFD, count: count) : made
  }

  /// Takes spaces off the beginning, and holds those back that may be the last.
  private func out(_ text: [UInt32]) -> [UInt32] {
    var begin = 0
    while left > 0 && begin < text.count && text[begin] == 0x20 {
      begin += 1
      left -= 1
    }
    if begin < text.count { left = 0 }
    if !trimsEnd { return Array(text[begin...]) }
    var end = text.count
    while end > begin && text[end - 1] == 0x20 { end -= 1 }
    var made: [UInt32] = []
    if end > begin {
      made = [UInt32](repeating: 0x20, count: spaces) + text[begin..<end]
      spaces = 0
    }
    spaces += text.count - end
    return made
  }

  /// The byte of `<0x41>`; nil: it is no such piece.
  private static func byte(of piece: [UInt32]) -> UInt8? {
    guard piece.count == 6, piece.starts(with: Tables.scalars(of: "<0x")), piece[5] == 0x3E else { return nil }
    return UInt8(Tables.text(of: Array(piece[3...4])), radix: 16)
  }

  /// UTF-8 byte by byte; what is none becomes U+FFFD, as everywhere (Unicode Standard, table 3-7).
  private struct Utf8 {
    private var missing = 0
    private var least: UInt8 = 0x80
    private var most: UInt8 = 0xBF
    private var point: UInt32 = 0
    private(set) var wrong = false

    /// The characters that are complete with this byte.
    mutating func add(_ b: UInt8) -> [UInt32] {
      var made: [UInt32] = []
      if missing > 0 {
        let fits = b >= least && b <= most
        least = 0x80
        most = 0xBF
        if fits {
          point = point << 6 | UInt32(b & 63)
          missing -= 1
          return missing == 0 ? [point] : []
        }
        made = end()
      }
      switch b {
      case 0..<0x80: made.append(UInt32(b))
      case 0xC2..<0xE0: begin(1, b & 31)
      case 0xE0..<0xF0: begin(2, b & 15)
      case 0xF0..<0xF5: begin(3, b & 7)
      default:
        wrong = true
        made.append(0xFFFD)
      }
      if b == 0xE0 { least = 0xA0 }
      if b == 0xED { most = 0x9F }
      if b == 0xF0 { least = 0x90 }
      if b == 0xF4 { most = 0x8F }
      return made
    }

    mutating func end() -> [UInt32] {
      if missing == 0 { return [] }
      missing = 0
      wrong = true
      return [0xFFFD]
    }

    private mutating func begin(_ more: Int, _ bits: UInt8) {
      missing = more
      point = UInt32(bits)
    }
  }
}
