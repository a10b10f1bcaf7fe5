// The steps that cut a text: each takes a piece and gives shorter ones.

typealias Splitter = ([Char]) -> [[Char]]

/// The letter that stands for each byte: itself where it can be seen, else one from 256 on.
let byteLetters: [UInt32] = {
  var next: UInt32 = 255
  return (0..<256).map { (b: UInt32) -> UInt32 in
    if (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD) { return b }
    next += 1
    return next
  }
}()

func splitter(of step: Step) -> Splitter? {
  switch step.name {
  case "pattern": return cut(step)
  case "metaspace": return metaspace(step)
  case "prefix":
    return { given in
      let first = given[0]
      return [first.c == 0x20 ? given : [Char(c: 0x20, start: first.start, end: first.end)] + given]
    }
  case "bytes":
    return { given in
      [given.flatMap { x in Tables.utf8(of: x.c).map { Char(c: byteLetters[Int($0)], start: x.start, end: x.end) } }]
    }
  default: return nil
  }
}

/// Cuts at matches of a pattern, which are dropped, pieces of their own, or go with their neighbors.
private func cut(_ step: Step) -> Splitter {
  let pattern = Pattern(step)
  let behavior = step.options[0]
  let inverted = step.options[1] == "1"
  return { given in
    var spans: [(begin: Int, end: Int)] = []
    var before = false
    let add = { (begin: Int, end: Int, matched: Bool) in
      let joined =
        (behavior == "previous" && matched && !before) || (behavior == "next" && before && !matched)
        || (behavior == "contiguous" && matched == before)
      if joined && !spans.isEmpty {
        spans[spans.count - 1].end = end
      } else if !matched || behavior != "removed" {
        spans.append((begin: begin, end: end))
      }
      before = matched
    }
    var done = 0
    var i = 0
    while i < given.count {
      let end = pattern.end(given, i)
      if end > i {
        if i > done { add(done, i, inverted) }
        add(i, end, !inverted)
        done = end
      }
      i = max(end, i + 1)
    }
    if done < given.count { add(done, given.count, inverted) }
    return spans.map { Array(given[$0.begin..<$0.end]) }
  }
}

/// Spaces become a sign, which the text begins with too; each piece begins with one.
private func metaspace(_ step: Step) -> Splitter {
  let sign = Tables.unescape(step.options[0])[0]
  let scheme = step.options[1]
  let splits = step.options[2] == "1"
  return { given in
    var made = given.map { $0.c == 0x20 ? Char(c: sign, start: $0.start, end: $0.end) : $0 }
    let first = made[0]
    if (scheme == "always" || (scheme == "first" && first.start == 0)) && first.c != sign {
      made.insert(Char(c: sign, start: first.start, end: first.end), at: 0)
    }
    var pieces: [[Char]] = []
    var begin = 0
    for i in made.indices where splits && i > 0 && made[i].c == sign {
      pieces.append(Array(made[begin..<i]))
      begin = i
    }
    return pieces + [Array(made[begin...])]
  }
}
