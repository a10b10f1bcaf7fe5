// The steps that a text goes through before it is cut, and patterns of repeated character sets.

/// The first alternative that fits, each item taking as much as it can.
struct Pattern {
  private struct Item {
    let what: Character
    let which: Int
    let least: Int
    let most: Int

    init(_ text: Substring) {
      let parts = text.split(separator: ":")
      what = parts.count == 3 ? ":" : text.first!
      which = Int(parts.count == 3 ? parts[0] : text.dropFirst()) ?? 0
      least = parts.count == 3 ? Int(parts[1])! : 0
      most = parts.count == 3 ? Int(parts[2]) ?? Int.max : 0
    }
  }

  private let sets: [Ranges]
  private let parts: [[Item]]
  private let alternatives: [[Item]]

  init(_ step: Step) {
    let items = { (row: [String]) in row[1].split(separator: " ").map { Item($0) } }
    sets = step.rows("set").map { Ranges($0[1]) }
    parts = step.rows("part").map(items)
    alternatives = step.rows("alternative").map(items)
  }

  /// Where the match that begins at `at` ends; `at`: none begins there.
  func end(_ chars: [Char], _ at: Int) -> Int {
    for items in alternatives {
      if let found = match(items, 0, chars, at), found > at { return found }
    }
    return at
  }

  private func match(_ items: [Item], _ k: Int, _ chars: [Char], _ at: Int) -> Int? {
    if k == items.count { return at }
    let item = items[k]
    if item.what != ":" { return holds(item, chars, at) ? match(items, k + 1, chars, at) : nil }
    var end = at
    while end < chars.count && end - at < item.most && sets[item.which].contains(chars[end].c) { end += 1 }
    while end - at >= item.least {
      if let found = match(items, k + 1, chars, end) { return found }
      end -= 1
    }
    return nil
  }

  private func holds(_ item: Item, _ chars: [Char], _ at: Int) -> Bool {
    switch item.what {
    case "~": return match(parts[item.which], 0, chars, at) == nil
    case "<": return at == 0 || !sets[item.which].contains(chars[at - 1].c)
    case "^": return at == 0 || chars[at - 1].c == 10
    default: return at == chars.count || chars[at].c == 10
    }
  }
}

/// Hangul syllables fall apart and come together by arithmetic (Unicode Standard, section 3.12).
enum Hangul {
  private static let first: UInt32 = 0xAC00

  static func contains(_ c: UInt32) -> Bool { return c >= first && c < 0xD7A4 }

  private static func isOpen(_ c: UInt32) -> Bool { return contains(c) && (c - first) % 28 == 0 }

  static func split(_ c: UInt32) -> [UInt32] {
    let s = c - first
    let letters = [0x1100 + s / 588, 0x1161 + s % 588 / 28]
    return s % 28 == 0 ? letters : letters + [0x11A7 + s % 28]
  }

  static func join(_ one: UInt32, _ other: UInt32) -> UInt32? {
    if (0x1100..<0x1113).contains(one) && (0x1161..<0x1176).contains(other) {
      return first + ((one - 0x1100) * 21 + other - 0x1161) * 28
    }
    return isOpen(one) && (0x11A8..<0x11C3).contains(other) ? one + other - 0x11A7 : nil
  }

  private static func isLead(_ c: UInt32) -> Bool { return (0x1100..<0x1160).contains(c) || (0xA960..<0xA97D).contains(c) }
  private static func isVowel(_ c: UInt32) -> Bool { return (0x1160..<0x11A8).contains(c) || (0xD7B0..<0xD7C7).contains(c) }
  private static func isTail(_ c: UInt32) -> Bool { return (0x11A8..<0x1200).contains(c) || (0xD7CB..<0xD7FC).contains(c) }

  /// Whether both are of one grapheme cluster.
  static func joins(_ one: UInt32, _ other: UInt32) -> Bool {
    if isLead(one) { return isVowel(other) || contains(other) || isLead(other) }
    if isOpen(one) || isVowel(one) { return isVowel(other) || isTail(other) }
    return isTail(other) && (contains(one) || isTail(one))
  }
}

typealias Normalizer = ([Char]) -> [Char]

private func chars(_ points: [UInt32], _ start: Int, _ end: Int) -> [Char] {
  return points.map { Char(c: $0, start: start, end: end) }
}

private func single(_ step: Step) -> [UInt32: [UInt32]] {
  var made: [UInt32: [UInt32]] = [:]
  for (key, value) in step.maps where key.count == 1 { made[key[0]] = value }
  return made
}

func normalizer(of step: Step, spaces: Ranges) -> Normalizer? {
  switch step.name {
  case "characters": return characters(step)
  case "clusters": return Clusters(step).run
  case "form": return Form(step).run
  case "replace": return replace(step)
  case "prepend":
    let text = Tables.unescape(step.options[0])
    return { given in given.isEmpty ? [] : chars(text, given[0].start, given[0].end) + given }
  case "strip": return strip(step, spaces)
  default: return nil
  }
}

/// Each character becomes another, several, or none.
private func characters(_ step: Step) -> Normalizer {
  let hangul = step.options[0] == "1"
  let dropped = step.ranges("drop")
  let spaced = step.ranges("space")
  let maps = single(step)
  return { given in
    var made: [Char] = []
    made.reserveCapacity(given.count)
    for x in given {
      if let other = maps[x.c] {
        made += chars(other, x.start, x.end)
      } else if dropped.contains(x.c) {
        continue
      } else if hangul && Hangul.contains(x.c) {
        made += chars(Hangul.split(x.c), x.start, x.end)
      } else if spaced.contains(x.c) {
        made += chars([0x20, x.c, 0x20], x.start, x.end)
      } else {
        made.append(x)
      }
    }
    return made
  }
}

/// Every match of a pattern becomes the same text.
private func replace(_ step: Step) -> Normalizer {
  let pattern = Pattern(step)
  let content = Tables.unescape(step.options[0])
  return { given in
    var made: [Char] = []
    var i = 0
    while i < given.count {
      let end = pattern.end(given, i)
      if end > i { made += chars(content, given[i].start, given[end - 1].end) } else { made.append(given[i]) }
      i = max(end, i + 1)
    }
    return made
  }
}

private func strip(_ step: Step, _ spaces: Ranges) -> Normalizer {
  let ends = Array(step.options[0])
  return { given in
    var begin = 0
    var end = given.count
    while ends[0] == "1" && begin < end && spaces.contains(given[begin].c) { begin += 1 }
    while ends[1] == "1" && end > begin && spaces.contains(given[end - 1].c) { end -= 1 }
    return Array(given[begin..<end])
  }
}

/// SentencePiece's table as Hugging Face looks it up: a grapheme cluster of 5 bytes at most whole, else by character.
private struct Clusters {
  let extend: Ranges
  let prepend: Ranges
  let control: Ranges
  let maps: [[UInt32]: [UInt32]]

  init(_ step: Step) {
    extend = step.ranges("extend")
    prepend = step.ranges("prepend")
    control = step.ranges("control")
    maps = step.maps
  }

  func run(_ given: [Char]) -> [Char] {
    var made: [Char] = []
    var begin = 0
    while begin < given.count {
      var end = begin + 1
      while end < given.count && !cuts(given[end - 1].c, given[end].c) { end += 1 }
      let cluster = given[begin..<end]
      if cluster.count > 1, let whole = find(cluster.map { $0.c }) {
        made += chars(whole, given[begin].start, given[end - 1].end)
      } else {
        for x in cluster {
          if let other = maps[[x.c]] { made += chars(other, x.start, x.end) } else { made.append(x) }
        }
      }
      begin = end
    }
    return made
  }

  /// What the shortest key that the cluster begins with becomes; nil where it is long, or begins with none.
  private func find(_ cluster: [UInt32]) -> [UInt32]? {
    let bytes = cluster.reduce(0) { $0 + ($1 < 0x80 ? 1 : $1 < 0x800 ? 2 : $1 < 0x10000 ? 3 : 4) }
    if bytes >= 6 { return nil }
    for n in 1...cluster.count {
      if let found = maps[Array(cluster.prefix(n))] { return found }
    }
    return nil
  }

  /// Unicode Standard Annex 29, without what has 6 bytes and more: flags, emoji sequences, Indic conjuncts.
  private func cuts(_ one: UInt32, _ other: UInt32) -> Bool {
    if control.contains(one) || control.contains(other) { return one != 13 || other != 10 }
    return !extend.contains(other) && !prepend.contains(one) && !Hangul.joins(one, other)
  }
}

/// Unicode Standard, section 3.11: decompose, order the marks, and compose again where the form asks for it.
private struct Form {
  let composes: Bool
  let maps: [UInt32: [UInt32]]
  var ranks: [UInt32: Int] = [:]
  var pairs: [UInt64: UInt32] = [:]

  init(_ step: Step) {
    composes = step.options[0] == "1"
    maps = single(step)
    for row in step.rows("order") {
      for (first, last) in Ranges(row[2]).spans {
        for c in first...last { ranks[c] = Int(row[1])! }
      }
    }
    for row in step.rows("compose") {
      for triple in row[1].split(separator: " ") {
        let c = triple.split(separator: ",").map { UInt32($0, radix: 16)! }
        pairs[UInt64(c[0]) << 32 | UInt64(c[1])] = c[2]
      }
    }
  }

  func run(_ given: [Char]) -> [Char] {
    if given.allSatisfy({ $0.c < 128 }) { return given }
    var made: [Char] = []
    for x in given {
      if let other = maps[x.c] {
        made += chars(other, x.start, x.end)
      } else if Hangul.contains(x.c) {
        made += chars(Hangul.split(x.c), x.start, x.end)
      } else {
        made.append(x)
      }
    }
    // Marks of one letter by their rank; those of equal ranks stay in their order.
    for i in made.indices where i > 0 && rank(made[i].c) > 0 {
      var k = i
      while k > 0 && rank(made[k - 1].c) > rank(made[k].c) {
        made.swapAt(k - 1, k)
        k -= 1
      }
    }
    return composes ? composed(made) : made
  }

  private func rank(_ c: UInt32) -> Int { return c < 128 ? 0 : ranks[c] ?? 0 }

  private func composed(_ given: [Char]) -> [Char] {
    var made: [Char] = []
    var starter = -1
    var last = 0
    for x in given {
      let own = rank(x.c)
      let blocked = starter < 0 || (made.count > starter + 1 && last >= own)
      if !blocked, let joined = join(made[starter].c, x.c) {
        made[starter] = Char(c: joined, start: made[starter].start, end: max(made[starter].end, x.end))
        continue
      }
      if own == 0 { starter = made.count }
      last = own
      made.append(x)
    }
    return made
  }

  private func join(_ one: UInt32, _ other: UInt32) -> UInt32? {
    return Hangul.join(one, other) ?? pairs[UInt64(one) << 32 | UInt64(other)]
  }
}
