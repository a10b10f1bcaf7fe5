// Text as its tokens come: what is handed out never changes, also where a token ends inside a character.
#pragma once

#include "tokenizer_splitter.hpp"

namespace plm {

// What ids stand for.
struct Spellings {
  std::vector<std::string> pieces;                 // in the order of their ids
  std::unordered_map<int32_t, Special> specials;  // by their ids

  // Null where there is no such id.
  const std::string* find(int32_t id, bool with_special) const {
    const auto special = specials.find(id);
    if (special != specials.end()) return special->second.special && !with_special ? nullptr : &special->second.spelling;
    return id >= 0 && static_cast<size_t>(id) < pieces.size() ? &pieces[id] : nullptr;
  }
};

class TextStream {
 public:
  // `spellings` must outlive this. `how`: the row "decode" of tokenizer.txt.
  TextStream(const std::vector<std::string>& how, const Spellings& spellings) : spellings_(spellings), bytes_(how.at(0) == "bytes") {
    if (bytes_) return;
    sign_ = unescape(how.at(1));
    first_loses_ = how.at(2).at(0) == '1';
    falls_back_ = how.at(2).at(1) == '1';
    left_ = how.at(3) == "*" ? static_cast<size_t>(-1) : std::stoul(how.at(3));
    trims_end_ = how.at(4) == "*";
  }

  // What a token adds to the text and is certain: maybe nothing, maybe earlier tokens' text too.
  std::string add(int32_t id) {
    const std::string* found = spellings_.find(id, false);
    if (!found) return {};
    if (bytes_) return add_bytes(*found);
    std::string piece;
    const std::string& own = *found;
    for (size_t i = 0; i < own.size();) {
      if (!sign_.empty() && own.compare(i, sign_.size(), sign_) == 0) {
        if (!first_ || !first_loses_) piece += ' ';
        i += sign_.size();
      } else {
        piece += own[i++];
      }
    }
    first_ = false;
    const int b = falls_back_ ? byte_of(piece) : -1;
    if (b < 0) return out(flush() + piece);
    run_ += static_cast<char>(b);
    return {};
  }

  // What was held back.
  std::string end() {
    std::string made;
    if (bytes_) {
      utf8_.end([&](uint32_t c, bool) { append_utf8(made, c); });
      return made;
    }
    made = out(flush());
    return trims_end_ ? made : made + spaces_;
  }

 private:
  const Spellings& spellings_;
  bool bytes_, first_loses_ = false, falls_back_ = false, trims_end_ = false, first_ = true;
  std::string sign_, run_, spaces_;
  size_t left_ = 0;  // spaces to take off the beginning
  Utf8 utf8_;

  static const std::unordered_map<uint32_t, uint8_t>& letter_bytes() {
    static const std::unordered_map<uint32_t, uint8_t> all = [] {
      std::unordered_map<uint32_t, uint8_t> made;
      for (size_t b = 0; b < 256; ++b) made[byte_letters()[b]] = static_cast<uint8_t>(b);
      return made;
    }();
    return all;
  }

  std::string add_bytes(const std::string& piece) {
    std::string bytes, made;
    for (const Char& x : chars_of(piece)) {
      const auto found = letter_bytes().find(x.c);
      if (found == letter_bytes().end()) {
        bytes = piece;  // no letters that stand for bytes: an added token
        break;
      }
      bytes += static_cast<char>(found->second);
    }
    for (char b : bytes) utf8_.add(static_cast<uint8_t>(b), [&](uint32_t c, bool) { append_utf8(made, c); });
    return made;
  }

  // A run of bytes is text only if the whole run is.
  std::string flush() {
    std::string made;
    Utf8 utf8;
    const auto add = [&](uint32_t c, bool) { append_utf8(made, c); };
    for (char b : run_) utf8.add(static_cast<uint8_t>(b), add);
    utf8.end(add);
    if (utf8.wrong()) {
      made.clear();
      for (size_t i = 0; i < run_.size(); ++i) append_utf8(made, 0xFFFD);
    }
    run_.clear();
    return made;
  }

  // Takes spaces off the beginning, and holds those back that may be the last.
  std::string out(const std::string& text) {
    size_t begin = 0, end = text.size();
    for (; left_ > 0 && begin < text.size() && text[begin] == ' '; --left_) ++begin;
    if (begin < text.size()) left_ = 0;
    if (!trims_end_) return text.substr(begin);
    while (end > begin && text[end - 1] == ' ') --end;
    std::string made;
    if (end > begin) {
      made = spaces_ + text.substr(begin, end - begin);
      spaces_.clear();
    }
    spaces_ += text.substr(end);
    return made;
  }

  // The byte of <0x41>; -1: it is no such piece.
  static int byte_of(const std::string& piece) {
    if (piece.size() != 6 || piece.compare(0, 3, "<0x") != 0 || piece[5] != '>') return -1;
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
    const int high = digit(piece[3]), low = digit(piece[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }
};

}  // namespace plm
