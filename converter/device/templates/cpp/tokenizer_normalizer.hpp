// The steps that a text goes through before it is cut, and patterns of repeated character sets.
#pragma once

#include <functional>
#include <memory>

#include "tokenizer_tables.hpp"

namespace plm {

// The first alternative that fits, each item taking as much as it can.
class Pattern {
 public:
  explicit Pattern(const Step& step) {
    for (const auto& row : step.rows_of("set")) sets_.emplace_back(row.at(1));
    for (const auto& row : step.rows_of("part")) parts_.push_back(items(row.at(1)));
    for (const auto& row : step.rows_of("alternative")) alternatives_.push_back(items(row.at(1)));
  }

  // Where the match that begins at `at` ends; `at`: none begins there.
  size_t end(Span chars, size_t at) const {
    for (const auto& items : alternatives_) {
      const size_t found = match(items, 0, chars, at);
      if (found != kNone && found > at) return found;
    }
    return at;
  }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);
  struct Item {
    char what;
    size_t which, least, most;
  };

  std::vector<Ranges> sets_;
  std::vector<std::vector<Item>> parts_, alternatives_;

  static std::vector<Item> items(const std::string& cell) {
    std::vector<Item> made;
    for (const std::string& text : split_words(cell)) {
      const size_t colon = text.find(':');
      if (colon == std::string::npos) {
        made.push_back({text[0], text.size() > 1 ? std::stoul(text.substr(1)) : 0, 0, 0});
        continue;
      }
      const size_t other = text.find(':', colon + 1);
      const std::string most = text.substr(other + 1);
      made.push_back({':', std::stoul(text), std::stoul(text.substr(colon + 1)), most == "*" ? kNone : std::stoul(most)});
    }
    return made;
  }

  size_t match(const std::vector<Item>& items, size_t k, Span chars, size_t at) const {
    if (k == items.size()) return at;
    const Item& item = items[k];
    if (item.what != ':') return holds(item, chars, at) ? match(items, k + 1, chars, at) : kNone;
    size_t end = at;
    while (end < chars.size() && end - at < item.most && sets_[item.which].has(chars[end].c)) ++end;
    for (; end >= at + item.least; --end) {
      const size_t found = match(items, k + 1, chars, end);
      if (found != kNone) return found;
      if (end == at) break;
    }
    return kNone;
  }

  bool holds(const Item& item, Span chars, size_t at) const {
    switch (item.what) {
      case '~': return match(parts_[item.which], 0, chars, at) == kNone;
      case '<': return at == 0 || !sets_[item.which].has(chars[at - 1].c);
      case '^': return at == 0 || chars[at - 1].c == '\n';
      default: return at == chars.size() || chars[at].c == '\n';
    }
  }
};

// Hangul syllables fall apart and come together by arithmetic (Unicode Standard, section 3.12).
struct Hangul {
  static constexpr uint32_t kFirst = 0xAC00, kEnd = 0xD7A4;

  static bool is(uint32_t c) { return c >= kFirst && c < kEnd; }
  static bool is_open(uint32_t c) { return is(c) && (c - kFirst) % 28 == 0; }

  static void split(const Char& x, Chars& to) {
    const uint32_t s = x.c - kFirst;
    to.push_back({0x1100 + s / 588, x.start, x.end});
    to.push_back({0x1161 + s % 588 / 28, x.start, x.end});
    if (s % 28) to.push_back({0x11A7 + s % 28, x.start, x.end});
  }

  static uint32_t join(uint32_t one, uint32_t other) {
    if (one >= 0x1100 && one < 0x1113 && other >= 0x1161 && other < 0x1176)
      return kFirst + ((one - 0x1100) * 21 + other - 0x1161) * 28;
    return is_open(one) && other >= 0x11A8 && other < 0x11C3 ? one + other - 0x11A7 : 0;
  }

  // Whether both are of one grapheme cluster.
  static bool joins(uint32_t one, uint32_t other) {
    const auto in = [](uint32_t c, uint32_t first, uint32_t end) { return c >= first && c < end; };
    const auto lead = [&](uint32_t c) { return in(c, 0x1100, 0x1160) || in(c, 0xA960, 0xA97D); };
    const auto vowel = [&](uint32_t c) { return in(c, 0x1160, 0x11A8) || in(c, 0xD7B0, 0xD7C7); };
    const auto tail = [&](uint32_t c) { return in(c, 0x11A8, 0x1200) || in(c, 0xD7CB, 0xD7FC); };
    if (lead(one)) return vowel(other) || is(other) || lead(other);
    if (is_open(one) || vowel(one)) return vowel(other) || tail(other);
    return tail(other) && (is(one) || tail(one));
  }
};

using Normalizer = std::function<Chars(const Chars&)>;

namespace normalizers {

inline void add(Chars& to, const Points& points, size_t start, size_t end) {
  for (uint32_t c : points) to.push_back({c, start, end});
}

inline std::unordered_map<uint32_t, Points> single(const Step& step) {
  std::unordered_map<uint32_t, Points> made;
  for (auto& [key, value] : step.maps())
    if (key.size() == 1) made.emplace(key[0], value);
  return made;
}

// Each character becomes another, several, or none.
struct Characters {
  bool hangul;
  Ranges dropped, spaced;
  std::unordered_map<uint32_t, Points> maps;

  explicit Characters(const Step& step)
      : hangul(step.options.at(0) == "1"), dropped(step.ranges("drop")), spaced(step.ranges("space")), maps(single(step)) {}

  Chars operator()(const Chars& chars) const {
    Chars made;
    for (const Char& x : chars) {
      const auto other = maps.find(x.c);
      if (other != maps.end()) add(made, other->second, x.start, x.end);
      else if (dropped.has(x.c)) continue;
      else if (hangul && Hangul::is(x.c)) Hangul::split(x, made);
      else if (spaced.has(x.c)) add(made, {' ', x.c, ' '}, x.start, x.end);
      else made.push_back(x);
    }
    return made;
  }
};

// SentencePiece's table as Hugging Face looks it up: a grapheme cluster of 5 bytes at most whole, else by character.
struct Clusters {
  Ranges extend, prepend, control;
  std::unordered_map<uint32_t, Points> singles;
  std::unordered_map<std::string, Points> maps;

  explicit Clusters(const Step& step)
      : extend(step.ranges("extend")), prepend(step.ranges("prepend")), control(step.ranges("control")), singles(single(step)) {
    for (auto& [key, value] : step.maps()) {
      std::string text;
      for (uint32_t c : key) append_utf8(text, c);
      maps.emplace(text, value);
    }
  }

  Chars operator()(const Chars& chars) const {
    Chars made;
    for (size_t begin = 0, i = 1; begin < chars.size(); begin = i, ++i) {
      while (i < chars.size() && !cuts(chars[i - 1].c, chars[i].c)) ++i;
      const Points* whole = i - begin > 1 ? find({&chars[begin], i - begin}) : nullptr;
      if (whole) {
        add(made, *whole, chars[begin].start, chars[i - 1].end);
        continue;
      }
      for (size_t k = begin; k < i; ++k) {
        const auto other = singles.find(chars[k].c);
        if (other == singles.end()) made.push_back(chars[k]);
        else add(made, other->second, chars[k].start, chars[k].end);
      }
    }
    return made;
  }

  // What the shortest key that the cluster begins with becomes; null where it is long, or begins with none.
  const Points* find(Span cluster) const {
    if (utf8_of(cluster).size() >= 6) return nullptr;
    for (size_t n = 1; n <= cluster.size(); ++n) {
      const auto found = maps.find(utf8_of(cluster.part(0, n)));
      if (found != maps.end()) return &found->second;
    }
    return nullptr;
  }

  // Unicode Standard Annex 29, without what has 6 bytes and more: flags, emoji sequences, Indic conjuncts.
  bool cuts(uint32_t one, uint32_t other) const {
    if (one < 128 && other < 128) return one != '\r' || other != '\n';
    if (control.has(one) || control.has(other)) return true;
    return !extend.has(other) && !prepend.has(one) && !Hangul::joins(one, other);
  }
};

// Unicode Standard, section 3.11: decompose, order the marks, and compose again where the form asks for it.
struct Form {
  bool composes;
  std::unordered_map<uint32_t, Points> maps;
  std::unordered_map<uint32_t, int> ranks;
  std::unordered_map<uint64_t, uint32_t> pairs;

  explicit Form(const Step& step) : composes(step.options.at(0) == "1"), maps(single(step)) {
    for (const auto& row : step.rows_of("order")) {
      const Ranges marks(row.at(2));
      for (const auto& [first, last] : marks.spans())
        for (uint32_t c = first; c <= last; ++c) ranks[c] = std::stoi(row[1]);
    }
    for (const auto& row : step.rows_of("compose"))
      for (std::string triple : split_words(row.at(1))) {
        std::replace(triple.begin(), triple.end(), ',', ' ');
        const Points c = Step::hexes(triple);
        pairs[uint64_t{c.at(0)} << 32 | c.at(1)] = c.at(2);
      }
  }

  Chars operator()(const Chars& chars) const {
    if (std::all_of(chars.begin(), chars.end(), [](const Char& x) { return x.c < 128; })) return chars;
    Chars made;
    for (const Char& x : chars) {
      const auto other = maps.find(x.c);
      if (other != maps.end()) add(made, other->second, x.start, x.end);
      else if (Hangul::is(x.c)) Hangul::split(x, made);
      else made.push_back(x);
    }
    // Marks of one letter by their rank; those of equal ranks stay in their order.
    for (size_t i = 1; i < made.size(); ++i)
      for (size_t k = i; k > 0 && rank(made[i].c) > 0 && rank(made[k - 1].c) > rank(made[k].c); --k)
        std::swap(made[k - 1], made[k]);
    return composes ? composed(made) : made;
  }

  int rank(uint32_t c) const {
    const auto found = c < 128 ? ranks.end() : ranks.find(c);
    return found == ranks.end() ? 0 : found->second;
  }

  Chars composed(const Chars& chars) const {
    Chars made;
    bool started = false;
    size_t starter = 0;
    int last = 0;
    for (const Char& x : chars) {
      const int own = rank(x.c);
      const bool blocked = !started || (made.size() > starter + 1 && last >= own);
      const uint32_t joined = blocked ? 0 : join(made[starter].c, x.c);
      if (joined) {
        made[starter].c = joined;
        made[starter].end = std::max(made[starter].end, x.end);
        continue;
      }
      if (own == 0) {
        starter = made.size();
        started = true;
      }
      last = own;
      made.push_back(x);
    }
    return made;
  }

  uint32_t join(uint32_t one, uint32_t other) const {
    if (const uint32_t syllable = Hangul::join(one, other)) return syllable;
    const auto found = pairs.find(uint64_t{one} << 32 | other);
    return found == pairs.end() ? 0 : found->second;
  }
};

// Every match of a pattern becomes the same text.
inline Normalizer replace(const Step& step) {
  return [pattern = Pattern(step), content = points_of(unescape(step.options.at(0)))](const Chars& chars) {
    Chars made;
    for (size_t i = 0; i < chars.size();) {
      const size_t end = pattern.end({chars.data(), chars.size()}, i);
      if (end > i) add(made, content, chars[i].start, chars[end - 1].end);
      else made.push_back(chars[i]);
      i = std::max(end, i + 1);
    }
    return made;
  };
}

inline Normalizer prepend(const Step& step) {
  return [text = points_of(unescape(step.options.at(0)))](const Chars& chars) {
    Chars made;
    if (!chars.empty()) add(made, text, chars[0].start, chars[0].end);
    made.insert(made.end(), chars.begin(), chars.end());
    return made;
  };
}

inline Normalizer strip(const Step& step, const Ranges& spaces) {
  return [ends = step.options.at(0), spaces](const Chars& chars) {
    size_t begin = 0, end = chars.size();
    while (ends.at(0) == '1' && begin < end && spaces.has(chars[begin].c)) ++begin;
    while (ends.at(1) == '1' && end > begin && spaces.has(chars[end - 1].c)) --end;
    return Chars(chars.begin() + begin, chars.begin() + end);
  };
}

}  // namespace normalizers

inline Normalizer normalizer_of(const Step& step, const Ranges& spaces) {
  if (step.name == "characters") return normalizers::Characters(step);
  if (step.name == "clusters") return normalizers::Clusters(step);
  if (step.name == "form") return normalizers::Form(step);
  if (step.name == "replace") return normalizers::replace(step);
  if (step.name == "prepend") return normalizers::prepend(step);
  if (step.name == "strip") return normalizers::strip(step, spaces);
  throw std::runtime_error("tokenizer.txt has a step of a later version: " + step.name);
}

}  // namespace plm
