// What stands in tokenizer.txt and vocab.txt, the same form for every kind of tokenizer.
// Text is handled as arrays of scalars: Swift's String holds "é" and "e\u{301}" for equal, which a vocabulary does not.
import Foundation

/// A token id, and where in the text's unicodeScalars it came from.
public struct Token {
  public let id: Int32
  public let start: Int
  public let end: Int
}

/// A code point of the normalized text, and the scalars of the text that it was made from.
struct Char {
  let c: UInt32
  let start: Int
  let end: Int
}

/// A set of characters.
struct Ranges {
  private var starts: [UInt32] = []
  private(set) var ends: [UInt32] = []

  init(_ cell: String = "") {
    for part in cell.split(separator: " ") {
      let bounds = part.split(separator: "-").map { UInt32($0, radix: 16)! }
      starts.append(bounds[0])
      ends.append(bounds[1])
    }
  }

  var spans: Zip2Sequence<[UInt32], [UInt32]> { return zip(starts, ends) }

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

/// A token that is found in the text as it is typed, before any word is cut.
struct Special {
  let id: Int32
  let normalized: Bool
  let left: Bool
  let right: Bool
  let special: Bool
  let content: [UInt32]
  let spelling: [UInt32]
}

/// One step of normalizing or splitting, and the rows of its tables.
struct Step {
  let name: String
  let options: [String]
  var rows: [[String]] = []

  func rows(_ wanted: String) -> [[String]] { return rows.filter { $0[0] == wanted } }

  func ranges(_ wanted: String) -> Ranges { return Ranges(rows(wanted).first?[1] ?? "") }

  /// What each character, or each short run of them, becomes.
  var maps: [[UInt32]: [UInt32]] {
    var made: [[UInt32]: [UInt32]] = [:]
    for row in rows("map") { made[Tables.hexes(row[1])] = Tables.hexes(row[2]) }
    return made
  }
}

/// A place in a template: which text (-1: neither), else the id of a token of its own.
struct Slot {
  let part: Int
  let id: Int32
  let type: Int32
}

struct Tables {
  enum Failure: Error {
    case otherFormat(String)
  }

  private static let ofAStep: Set<String> = [
    "drop", "space", "map", "order", "compose", "extend", "prepend", "control", "set", "part", "alternative",
  ]

  private(set) var cells: [String: [String]] = [:]
  private(set) var specials: [Special] = []
  private(set) var normalizer: [Step] = []
  private(set) var splits: [Step] = []
  /// In the order of their ids.
  let pieces: [[UInt32]]

  init(folder: URL) throws {
    let lines = try Tables.lines(of: folder.appendingPathComponent("tokenizer.txt"))
    guard lines.first == "plm-export-tokenizer\t2" else { throw Failure.otherFormat("tokenizer.txt") }
    pieces = try Tables.lines(of: folder.appendingPathComponent("vocab.txt")).map { Tables.unescape($0) }
    var splitting = false
    for line in lines.dropFirst() {
      let row = Tables.cells(of: line)
      if row[0] == "normalize" || row[0] == "split" {
        splitting = row[0] == "split"
        let step = Step(name: row[1], options: Array(row.dropFirst(2)))
        if splitting { splits.append(step) } else { normalizer.append(step) }
      } else if Tables.ofAStep.contains(row[0]) {
        if splitting { splits[splits.count - 1].rows.append(row) } else { normalizer[normalizer.count - 1].rows.append(row) }
      } else if row[0] == "special" {
        specials.append(Tables.special(row))
      } else {
        cells[row[0]] = Array(row.dropFirst())
      }
    }
  }

  private static func special(_ row: [String]) -> Special {
    let flags = Array(row[2]).map { $0 == "1" }
    return Special(
      id: Int32(row[1])!, normalized: flags[0], left: flags[1], right: flags[2], special: flags[3],
      content: unescape(row[3]), spelling: unescape(row[row.count - 1]))
  }

  func cell(_ name: String) -> String { return cells[name]![0] }

  func flag(_ which: Int) -> Bool { return Array(cell("flags"))[which] == "1" }

  func slots(_ name: String) -> [Slot] {
    return cell(name).split(separator: " ").map { part in
      let halves = part.split(separator: ":")
      let which = halves[0] == "A" ? 0 : halves[0] == "B" ? 1 : -1
      return Slot(part: which, id: which < 0 ? Int32(halves[0])! : 0, type: Int32(halves[1])!)
    }
  }

  func ids() -> [[UInt32]: Int32] {
    var made: [[UInt32]: Int32] = [:]
    made.reserveCapacity(pieces.count)
    for (id, piece) in pieces.enumerated() { made[piece] = Int32(id) }
    return made
  }

  static func hexes(_ cell: String) -> [UInt32] {
    return cell.split(separator: " ").map { UInt32($0, radix: 16)! }
  }

  static func scalars(of text: String) -> [UInt32] { return text.unicodeScalars.map { $0.value } }

  static func text(of scalars: [UInt32]) -> String {
    var made = String.UnicodeScalarView()
    for c in scalars { made.append(Unicode.Scalar(c) ?? "\u{FFFD}") }
    return String(made)
  }

  static func utf8(of c: UInt32) -> [UInt8] { return Array(text(of: [c]).utf8) }

  /// By line feeds alone: Swift takes other characters for line ends too, and joins some with what follows.
  private static func lines(of file: URL) throws -> [String] {
    var parts = try Data(contentsOf: file).split(separator: 0x0A, omittingEmptySubsequences: false)
    if parts.last?.isEmpty == true { parts.removeLast() }
    return parts.map { String(decoding: $0, as: UTF8.self) }
  }

  private static func cells(of line: String) -> [String] {
    return line.utf8.split(separator: 0x09, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
  }

  /// Undoes the escapes of a table's cell.
  static func unescape(_ cell: String) -> [UInt32] {
    var made: [UInt32] = []
    var escaped = false
    for c in cell.unicodeScalars {
      if escaped {
        made.append(c == "t" ? 9 : c == "n" ? 10 : c == "r" ? 13 : c.value)
        escaped = false
      } else if c == "\\" {
        escaped = true
      } else {
        made.append(c.value)
      }
    }
    return made
  }
}
