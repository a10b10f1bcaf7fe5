// WordPiece tokenizer: reads tokenizer.txt and vocab.txt, which were made from the model's own tokenizer.
// No Unicode library is needed: what happens to every character stands in the tables. Needs C++17.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "encoded.hpp"

namespace plm {

struct Token {
  int32_t id;
  size_t start, end;  // bytes of the text (UTF-8)
};

class WordPiece {
 public:
  // `folder` holds tokenizer.txt and vocab.txt. Throws std::runtime_error where one is missing or of another format.
  explicit WordPiece(const std::string& folder) {
    std::ifstream tables = open(folder + "/tokenizer.txt"), words = open(folder + "/vocab.txt");
    std::string line;
    if (!std::getline(tables, line) || line != "plm-export-wordpiece\t1")
      throw std::runtime_error(folder + "/tokenizer.txt is of another format");
    while (std::getline(tables, line)) read(line);
    for (int32_t id = 0; std::getline(words, line); ++id) {
      vocabulary_.emplace(line, id);
      spellings_.push_back(line);
    }
  }

  // Ids for the model, cut to `max_length`: the longer text first, or (`only_second`) the second alone.
  Encoded encode(const std::string& text, const std::string* pair, size_t max_length, bool only_second = false) const {
    const std::vector<Token> parts[2] = {tokens(text), pair ? tokens(*pair) : std::vector<Token>{}};
    const auto& around = pair ? pair_ : single_;
    size_t n_special = 0;
    for (const Slot& slot : around) n_special += slot.part < 0;
    const size_t room = max_length > n_special ? max_length - n_special : 0;
    const auto keep = kept(parts[0].size(), parts[1].size(), room, only_second && pair);
    Encoded made;
    for (const Slot& slot : around) {
      const size_t n = slot.part < 0 ? 1 : slot.part == 0 ? keep.first : keep.second;
      for (size_t i = 0; i < n; ++i) {
        const Token token = slot.part < 0 ? Token{slot.id, 0, 0} : parts[slot.part][i];
        made.ids.push_back(token.id);
        made.types.push_back(slot.type);
        made.part.push_back(slot.part);
        made.start.push_back(token.start);
        made.end.push_back(token.end);
      }
    }
    return made;
  }

  // One text, without the special tokens around it.
  std::vector<Token> tokens(const std::string& text) const {
    std::vector<Token> made;
    split(decode(text), false, made, [&](const Chars& chunk) {
      split(normalize(chunk), true, made, [&](const Chars& part) { words(part, made); });
    });
    return made;
  }

  // The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
  // (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
  std::string normalize(const std::string& text) const {
    std::string made;
    for (const Char& x : normalize(decode(text))) append(made, x.c);
    return made;
  }

  // The beginning of the text that has `max_length` tokens at most, with the special ones around it.
  std::string shorten(const std::string& text, size_t max_length) const {
    for (const Slot& slot : single_) max_length -= slot.part < 0 && max_length > 0;
    const std::vector<Token> all = tokens(text);
    if (all.size() <= max_length) return text;
    // Half of what one character became may be cut otherwise than the whole: then one token less.
    for (size_t keep = max_length; keep > 0; --keep) {
      const std::string made = text.substr(0, all[keep - 1].end);
      if (tokens(made).size() <= max_length) return made;
    }
    return {};
  }

  // The spelling of a token id; empty where there is none.
  std::string spelling(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < spellings_.size() ? spellings_[id] : std::string();
  }

  // Where the words that white space separates begin and end, in bytes.
  std::vector<std::pair<size_t, size_t>> word_spans(const std::string& text) const {
    std::vector<std::pair<size_t, size_t>> made;
    bool inside = false;
    for (const Char& x : decode(text)) {
      const bool space = in(spaces_, x.c);
      if (!space && inside) made.back().second = x.end;
      if (!space && !inside) made.emplace_back(x.start, x.end);
      inside = !space;
    }
    return made;
  }

  static std::vector<std::string> split_cells(const std::string& line) {
    std::vector<std::string> cells;
    size_t begin = 0;
    for (size_t tab; (tab = line.find('\t', begin)) != std::string::npos; begin = tab + 1)
      cells.push_back(line.substr(begin, tab - begin));
    cells.push_back(line.substr(begin));
    return cells;
  }

  static std::string unescape(const std::string& cell) {
    std::string made;
    for (size_t i = 0; i < cell.size(); ++i) {
      const bool plain = cell[i] != '\\' || i + 1 == cell.size();
      const char c = plain ? cell[i] : cell[++i];
      made += plain ? c : c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
    }
    return made;
  }

 private:
  struct Char {
    uint32_t c;
    size_t start, end;
  };
  using Chars = std::vector<Char>;
  using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;
  struct Slot {
    int part;
    int32_t id, type;
  };
  struct Special {
    int32_t id;
    bool normalized, left, right;
    std::vector<uint32_t> chars;
  };

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::vector<std::string> spellings_;
  std::unordered_map<uint32_t, std::vector<uint32_t>> replaced_;
  std::vector<Slot> single_, pair_;
  std::vector<Special> specials_;
  Ranges spaces_, alone_, dropped_, spaced_;
  std::string prefix_;
  int32_t unknown_ = 0;
  size_t longest_word_ = 100;
  bool hangul_ = false;

  static std::ifstream open(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return file;
  }

  void read(const std::string& line) {
    const std::vector<std::string> cells = split_cells(line);
    const std::string &key = cells.at(0), &value = cells.at(1);
    if (key == "unknown") unknown_ = std::stoi(value);
    else if (key == "prefix") prefix_ = value;
    else if (key == "longest_word") longest_word_ = std::stoul(value);
    else if (key == "hangul") hangul_ = value == "1";
    else if (key == "single") single_ = slots(value);
    else if (key == "pair") pair_ = slots(value);
    else if (key == "spaces") spaces_ = ranges(value);
    else if (key == "alone") alone_ = ranges(value);
    else if (key == "dropped") dropped_ = ranges(value);
    else if (key == "spaced") spaced_ = ranges(value);
    else if (key == "replace") replaced_.emplace(hex(value), hexes(cells.at(2)));
    else if (key == "special") {
      const std::string& flags = cells.at(2);
      Special made{std::stoi(value), flags[0] == '1', flags[1] == '1', flags[2] == '1', {}};
      for (const Char& c : decode(unescape(cells.at(3)))) made.chars.push_back(c.c);
      specials_.push_back(std::move(made));
    }
  }

  static uint32_t hex(const std::string& text) { return static_cast<uint32_t>(std::stoul(text, nullptr, 16)); }

  static std::vector<uint32_t> hexes(const std::string& cell) {
    std::vector<uint32_t> made;
    std::istringstream parts(cell);
    for (std::string part; parts >> part;) made.push_back(hex(part));
    return made;
  }

  static Ranges ranges(const std::string& cell) {
    Ranges made;
    std::istringstream parts(cell);
    for (std::string part; parts >> part;) {
      const size_t dash = part.find('-');
      made.emplace_back(hex(part.substr(0, dash)), hex(part.substr(dash + 1)));
    }
    return made;
  }

  static std::vector<Slot> slots(const std::string& cell) {
    std::vector<Slot> made;
    std::istringstream parts(cell);
    for (std::string part; parts >> part;) {
      const size_t colon = part.find(':');
      const std::string name = part.substr(0, colon);
      const int which = name == "A" ? 0 : name == "B" ? 1 : -1;
      made.push_back({which, which < 0 ? std::stoi(name) : 0, std::stoi(part.substr(colon + 1))});
    }
    return made;
  }

  static bool in(const Ranges& ranges, uint32_t c) {
    auto next = std::upper_bound(ranges.begin(), ranges.end(), c, [](uint32_t x, const auto& r) { return x < r.first; });
    return next != ranges.begin() && c <= std::prev(next)->second;
  }

  // Bytes that are no UTF-8 become U+FFFD, as they do everywhere.
  static Chars decode(const std::string& text) {
    Chars made;
    for (size_t i = 0; i < text.size();) {
      const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
      const uint8_t first = byte(i);
      size_t n = first < 0x80 ? 1 : first >= 0xF0 && first < 0xF5 ? 4 : first >= 0xE0 && first < 0xF0 ? 3
               : first >= 0xC2 && first < 0xE0 ? 2 : 0;
      uint32_t c = n == 1 ? first : n == 4 ? first & 7 : n == 3 ? first & 15 : first & 31;
      for (size_t k = 1; k < n; ++k) {
        if (i + k >= text.size() || (byte(i + k) & 0xC0) != 0x80) { n = 0; break; }
        c = c << 6 | (byte(i + k) & 63);
      }
      if (n == 0) { c = 0xFFFD; n = 1; }
      made.push_back({c, i, i + n});
      i += n;
    }
    return made;
  }

  static void append(std::string& to, uint32_t c) {
    if (c < 0x80) to += static_cast<char>(c);
    else if (c < 0x800) { to += static_cast<char>(0xC0 | c >> 6); to += static_cast<char>(0x80 | (c & 63)); }
    else {
      if (c < 0x10000) to += static_cast<char>(0xE0 | c >> 12);
      else { to += static_cast<char>(0xF0 | c >> 18); to += static_cast<char>(0x80 | (c >> 12 & 63)); }
      to += static_cast<char>(0x80 | (c >> 6 & 63));
      to += static_cast<char>(0x80 | (c & 63));
    }
  }

  // Special tokens typed in the text: the leftmost first, the longest of those that begin there.
  template <class Rest>
  void split(const Chars& chars, bool normalized, std::vector<Token>& made, Rest rest) const {
    size_t begin = 0;
    for (size_t i = 0; i < chars.size();) {
      const Special* found = nullptr;
      for (const Special& s : specials_)
        if (s.normalized == normalized && !s.chars.empty() && (!found || s.chars.size() > found->chars.size()) &&
            matches(chars, i, s.chars))
          found = &s;
      if (!found) { ++i; continue; }
      size_t start = i, end = i + found->chars.size();
      while (found->left && start > begin && in(spaces_, chars[start - 1].c)) --start;
      while (found->right && end < chars.size() && in(spaces_, chars[end].c)) ++end;
      if (start > begin) rest(Chars(chars.begin() + begin, chars.begin() + start));
      made.push_back({found->id, chars[start].start, chars[end - 1].end});
      begin = i = end;
    }
    if (begin < chars.size()) rest(Chars(chars.begin() + begin, chars.end()));
  }

  static bool matches(const Chars& chars, size_t at, const std::vector<uint32_t>& wanted) {
    if (at + wanted.size() > chars.size()) return false;
    for (size_t k = 0; k < wanted.size(); ++k)
      if (chars[at + k].c != wanted[k]) return false;
    return true;
  }

  Chars normalize(const Chars& chars) const {
    Chars made;
    for (const Char& x : chars) {
      if (in(dropped_, x.c)) continue;
      const auto other = replaced_.find(x.c);
      if (other != replaced_.end()) {
        for (uint32_t c : other->second) made.push_back({c, x.start, x.end});
      } else if (hangul_ && x.c >= 0xAC00 && x.c < 0xD7A4) {
        const uint32_t s = x.c - 0xAC00;
        made.push_back({0x1100 + s / 588, x.start, x.end});
        made.push_back({0x1161 + s % 588 / 28, x.start, x.end});
        if (s % 28) made.push_back({0x11A7 + s % 28, x.start, x.end});
      } else if (in(spaced_, x.c)) {
        for (uint32_t c : {uint32_t{' '}, x.c, uint32_t{' '}}) made.push_back({c, x.start, x.end});
      } else {
        made.push_back(x);
      }
    }
    return made;
  }

  void words(const Chars& chars, std::vector<Token>& made) const {
    size_t begin = 0;
    for (size_t i = 0; i < chars.size(); ++i) {
      const bool space = in(spaces_, chars[i].c);
      if (!space && !in(alone_, chars[i].c)) continue;
      pieces(chars, begin, i, made);
      if (!space) pieces(chars, i, i + 1, made);
      begin = i + 1;
    }
    pieces(chars, begin, chars.size(), made);
  }

  // The longest piece of the vocabulary first, again and again; a word that does not come out even is unknown.
  void pieces(const Chars& chars, size_t begin, size_t end, std::vector<Token>& made) const {
    if (begin == end) return;
    const Token unknown{unknown_, chars[begin].start, chars[end - 1].end};
    const size_t before = made.size();
    for (size_t start = begin; start < end && end - begin <= longest_word_;) {
      std::string piece = start > begin ? prefix_ : "";
      size_t stop = start;
      int32_t id = -1;
      for (size_t k = start; k < end; ++k) {
        append(piece, chars[k].c);
        const auto found = vocabulary_.find(piece);
        if (found != vocabulary_.end()) { id = found->second; stop = k + 1; }
      }
      if (id < 0) break;
      made.push_back({id, chars[start].start, chars[stop - 1].end});
      if (stop == end) return;
      start = stop;
    }
    made.resize(before, unknown);
    made.push_back(unknown);
  }

  static std::pair<size_t, size_t> kept(size_t first, size_t second, size_t room, bool only_second) {
    if (first + second <= room) return {first, second};
    if (only_second && first < room) return {first, room - first};
    size_t low = std::min(first, second), high = std::max(first, second);
    high = low > room ? low : std::max(low, room - low);
    if (low + high > room) {
      low = room / 2;
      high = low + room % 2;
    }
    return first > second ? std::make_pair(high, low) : std::make_pair(low, high);
  }
};

}  // namespace plm
