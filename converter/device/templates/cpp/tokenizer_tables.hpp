// What stands in tokenizer.txt and vocab.txt, the same form for every kind of tokenizer. Needs C++17.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace plm {

struct Token {
  int32_t id;
  size_t start, end;  // bytes of the text (UTF-8)
};

// A code point of the normalized text, and the bytes of the text that it was made from.
struct Char {
  uint32_t c;
  size_t start, end;
};
using Chars = std::vector<Char>;

// A part of a text; never longer alive than the text.
struct Span {
  const Char* first;
  size_t n;
  size_t size() const { return n; }
  const Char& operator[](size_t i) const { return first[i]; }
  const Char* begin() const { return first; }
  const Char* end() const { return first + n; }
  Span part(size_t from, size_t to) const { return {first + from, to - from}; }
  Token token(int32_t id, size_t from, size_t to) const { return {id, first[from].start, first[to - 1].end}; }
};

inline void append_utf8(std::string& to, uint32_t c) {
  const auto more = [&](int shift) { to += static_cast<char>(0x80 | (c >> shift & 63)); };
  if (c < 0x80) {
    to += static_cast<char>(c);
  } else if (c < 0x800) {
    to += static_cast<char>(0xC0 | c >> 6);
    more(0);
  } else if (c < 0x10000) {
    to += static_cast<char>(0xE0 | c >> 12);
    more(6);
    more(0);
  } else {
    to += static_cast<char>(0xF0 | c >> 18);
    more(12);
    more(6);
    more(0);
  }
}

inline std::string utf8_of(Span chars) {
  std::string made;
  for (const Char& x : chars) append_utf8(made, x.c);
  return made;
}

// UTF-8 byte by byte; what is none becomes U+FFFD, as everywhere (Unicode Standard, table 3-7).
class Utf8 {
 public:
  // Calls `made(code point, before)` for each character that is complete, or that turned out to be none; `before`: this
  // byte is not of it.
  template <class Made>
  void add(uint8_t b, Made made) {
    if (missing_ > 0) {
      const bool fits = b >= least_ && b <= most_;
      least_ = 0x80;
      most_ = 0xBF;
      if (fits) {
        point_ = point_ << 6 | (b & 63);
        if (--missing_ == 0) made(point_, false);
        return;
      }
      replace(made, true);
    }
    if (b < 0x80) made(b, false);
    else if (b >= 0xC2 && b < 0xE0) begin(1, b & 31);
    else if (b >= 0xE0 && b < 0xF0) begin(2, b & 15);
    else if (b >= 0xF0 && b < 0xF5) begin(3, b & 7);
    else replace(made, false);
    if (b == 0xE0) least_ = 0xA0;
    if (b == 0xED) most_ = 0x9F;
    if (b == 0xF0) least_ = 0x90;
    if (b == 0xF4) most_ = 0x8F;
  }

  template <class Made>
  void end(Made made) {
    if (missing_ > 0) replace(made, true);
  }

  bool wrong() const { return wrong_; }

 private:
  int missing_ = 0;
  uint8_t least_ = 0x80, most_ = 0xBF;
  uint32_t point_ = 0;
  bool wrong_ = false;

  void begin(int more, uint32_t bits) {
    missing_ = more;
    point_ = bits;
  }
  template <class Made>
  void replace(Made made, bool before) {
    missing_ = 0;
    wrong_ = true;
    made(0xFFFD, before);
  }
};

inline Chars chars_of(std::string_view text) {
  Chars made;
  made.reserve(text.size());
  Utf8 utf8;
  size_t start = 0;
  size_t i = 0;
  const auto add = [&](uint32_t c, bool before) {
    const size_t end = before ? i : i + 1;
    made.push_back({c, start, end});
    start = end;
  };
  for (; i < text.size(); ++i) utf8.add(static_cast<uint8_t>(text[i]), add);
  utf8.end(add);
  return made;
}

// A set of characters.
class Ranges {
 public:
  Ranges() = default;
  explicit Ranges(const std::string& cell) {
    std::istringstream parts(cell);
    for (std::string part; parts >> part;) {
      const size_t dash = part.find('-');
      spans_.emplace_back(hex(part.substr(0, dash)), hex(part.substr(dash + 1)));
      for (uint32_t c = spans_.back().first; c <= spans_.back().second && c < 128; ++c) ascii_[c] = true;
    }
  }

  bool has(uint32_t c) const {
    if (c < 128) return ascii_[c];
    auto next = std::upper_bound(spans_.begin(), spans_.end(), c, [](uint32_t x, const auto& r) { return x < r.first; });
    return next != spans_.begin() && c <= std::prev(next)->second;
  }

  const std::vector<std::pair<uint32_t, uint32_t>>& spans() const { return spans_; }

  static uint32_t hex(const std::string& text) { return static_cast<uint32_t>(std::stoul(text, nullptr, 16)); }

 private:
  std::vector<std::pair<uint32_t, uint32_t>> spans_;
  bool ascii_[128] = {};
};

inline std::vector<std::string> split_cells(const std::string& line) {
  std::vector<std::string> cells;
  size_t begin = 0;
  for (size_t tab; (tab = line.find('\t', begin)) != std::string::npos; begin = tab + 1)
    cells.push_back(line.substr(begin, tab - begin));
  cells.push_back(line.substr(begin));
  return cells;
}

inline std::vector<std::string> split_words(const std::string& cell) {
  std::vector<std::string> made;
  std::istringstream parts(cell);
  for (std::string part; parts >> part;) made.push_back(part);
  return made;
}

inline std::string unescape(const std::string& cell) {
  std::string made;
  for (size_t i = 0; i < cell.size(); ++i) {
    const bool plain = cell[i] != '\\' || i + 1 == cell.size();
    const char c = plain ? cell[i] : cell[++i];
    made += plain ? c : c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
  }
  return made;
}

using Points = std::vector<uint32_t>;

inline Points points_of(const std::string& text) {
  Points made;
  for (const Char& x : chars_of(text)) made.push_back(x.c);
  return made;
}

// A token that is found in the text as it is typed, before any word is cut.
struct Special {
  int32_t id;
  bool normalized, left, right, special;
  Points content;
  std::string spelling;
};

// One step of normalizing or splitting, and the rows of its tables.
struct Step {
  std::string name;
  std::vector<std::string> options;
  std::vector<std::vector<std::string>> rows;

  std::vector<std::vector<std::string>> rows_of(const std::string& wanted) const {
    std::vector<std::vector<std::string>> made;
    for (const auto& row : rows)
      if (row[0] == wanted) made.push_back(row);
    return made;
  }

  Ranges ranges(const std::string& wanted) const {
    const auto found = rows_of(wanted);
    return found.empty() ? Ranges() : Ranges(found[0].at(1));
  }

  // What each character, or each short run of them, becomes.
  std::vector<std::pair<Points, Points>> maps() const {
    std::vector<std::pair<Points, Points>> made;
    for (const auto& row : rows)
      if (row[0] == "map") made.emplace_back(hexes(row.at(1)), hexes(row.at(2)));
    return made;
  }

  static Points hexes(const std::string& cell) {
    Points made;
    for (const std::string& part : split_words(cell)) made.push_back(Ranges::hex(part));
    return made;
  }
};

// A place in a template: which text (-1: neither), else the id of a token of its own.
struct Slot {
  int part;
  int32_t id, type;
};

struct Tables {
  std::unordered_map<std::string, std::vector<std::string>> cells;
  std::vector<Special> specials;
  std::vector<Step> normalizer, splits;
  std::vector<std::string> pieces;  // in the order of their ids

  // `folder` holds tokenizer.txt and vocab.txt. Throws std::runtime_error where one is missing or of another format.
  explicit Tables(const std::string& folder) {
    std::ifstream tables = open(folder + "/tokenizer.txt"), words = open(folder + "/vocab.txt");
    std::string line;
    if (!std::getline(tables, line) || line != "plm-export-tokenizer\t2")
      throw std::runtime_error(folder + "/tokenizer.txt is of another format");
    while (std::getline(tables, line)) read(split_cells(line));
    while (std::getline(words, line)) pieces.push_back(unescape(line));
  }

  const std::string& cell(const std::string& name) const { return cells.at(name).at(0); }
  bool flag(size_t which) const { return cell("flags").at(which) == '1'; }

  std::vector<Slot> slots(const std::string& name) const {
    std::vector<Slot> made;
    for (const std::string& part : split_words(cell(name))) {
      const size_t colon = part.find(':');
      const std::string text = part.substr(0, colon);
      const int which = text == "A" ? 0 : text == "B" ? 1 : -1;
      made.push_back({which, which < 0 ? std::stoi(text) : 0, std::stoi(part.substr(colon + 1))});
    }
    return made;
  }

 private:
  Step* last_ = nullptr;

  static std::ifstream open(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return file;
  }

  void read(std::vector<std::string> row) {
    static const std::string of_a_step =
        " drop space map order compose extend prepend control set part alternative ";
    if (row[0] == "normalize" || row[0] == "split") {
      auto& steps = row[0] == "normalize" ? normalizer : splits;
      steps.push_back({row.at(1), {row.begin() + 2, row.end()}, {}});
      last_ = &steps.back();
    } else if (of_a_step.find(" " + row[0] + " ") != std::string::npos && last_) {
      last_->rows.push_back(std::move(row));
    } else if (row[0] == "special") {
      const std::string& flags = row.at(2);
      specials.push_back({std::stoi(row[1]), flags.at(0) == '1', flags.at(1) == '1', flags.at(2) == '1',
                          flags.at(3) == '1', points_of(unescape(row.at(3))), unescape(row.back())});
    } else {
      cells[row[0]].assign(row.begin() + 1, row.end());
    }
  }
};

}  // namespace plm
