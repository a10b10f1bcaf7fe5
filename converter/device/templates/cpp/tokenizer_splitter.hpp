// The steps that cut a text: each takes a piece and gives shorter ones.
#pragma once

#include "tokenizer_normalizer.hpp"

namespace plm {

using Splitter = std::function<void(const Chars&, std::vector<Chars>&)>;

// The letter that stands for each byte: itself where it can be seen, else one from 256 on.
inline const std::vector<uint32_t>& byte_letters() {
  static const std::vector<uint32_t> all = [] {
    std::vector<uint32_t> made;
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) made.push_back((b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD) ? b : next++);
    return made;
  }();
  return all;
}

namespace splitters {

// Cuts at matches of a pattern, which are dropped, pieces of their own, or go with their neighbors.
struct Cut {
  Pattern pattern;
  std::string behavior;
  bool inverted;

  explicit Cut(const Step& step) : pattern(step), behavior(step.options.at(0)), inverted(step.options.at(1) == "1") {}

  void operator()(const Chars& chars, std::vector<Chars>& to) const {
    const Span all{chars.data(), chars.size()};
    std::vector<std::pair<size_t, size_t>> spans;
    bool before = false;
    const auto add = [&](size_t begin, size_t end, bool matched) {
      const bool joined = (behavior == "previous" && matched && !before) || (behavior == "next" && before && !matched) ||
                          (behavior == "contiguous" && matched == before);
      if (joined && !spans.empty()) spans.back().second = end;
      else if (!matched || behavior != "removed") spans.emplace_back(begin, end);
      before = matched;
    };
    size_t done = 0;
    for (size_t i = 0; i < chars.size();) {
      const size_t end = pattern.end(all, i);
      if (end > i) {
        if (i > done) add(done, i, inverted);
        add(i, end, !inverted);
        done = end;
      }
      i = std::max(end, i + 1);
    }
    if (done < chars.size()) add(done, chars.size(), inverted);
    for (const auto& [begin, end] : spans) to.emplace_back(chars.begin() + begin, chars.begin() + end);
  }
};

// Spaces become a sign, which the text begins with too; each piece begins with one.
struct Metaspace {
  uint32_t sign;
  std::string scheme;
  bool splits;

  explicit Metaspace(const Step& step)
      : sign(points_of(unescape(step.options.at(0))).at(0)), scheme(step.options.at(1)), splits(step.options.at(2) == "1") {}

  void operator()(const Chars& chars, std::vector<Chars>& to) const {
    Chars made;
    const bool first = scheme == "always" || (scheme == "first" && chars[0].start == 0);
    if (first && chars[0].c != sign && chars[0].c != ' ') made.push_back({sign, chars[0].start, chars[0].end});
    for (const Char& x : chars) made.push_back({x.c == ' ' ? sign : x.c, x.start, x.end});
    size_t begin = 0;
    for (size_t i = 1; i < made.size() && splits; ++i) {
      if (made[i].c != sign) continue;
      to.emplace_back(made.begin() + begin, made.begin() + i);
      begin = i;
    }
    to.emplace_back(made.begin() + begin, made.end());
  }
};

// A text begins with a space.
inline void prefix(const Chars& chars, std::vector<Chars>& to) {
  Chars made;
  if (chars[0].c != ' ') made.push_back({' ', chars[0].start, chars[0].end});
  made.insert(made.end(), chars.begin(), chars.end());
  to.push_back(std::move(made));
}

// Every byte is written as a letter.
inline void bytes(const Chars& chars, std::vector<Chars>& to) {
  Chars made;
  for (const Char& x : chars)
    for (char b : utf8_of({&x, 1})) made.push_back({byte_letters()[static_cast<uint8_t>(b)], x.start, x.end});
  to.push_back(std::move(made));
}

}  // namespace splitters

inline Splitter splitter_of(const Step& step) {
  if (step.name == "pattern") return splitters::Cut(step);
  if (step.name == "metaspace") return splitters::Metaspace(step);
  if (step.name == "prefix") return splitters::prefix;
  if (step.name == "bytes") return splitters::bytes;
  throw std::runtime_error("tokenizer.txt has a step of a later version: " + step.name);
}

}  // namespace plm
