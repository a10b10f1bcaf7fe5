// The model's tokenizer: reads tokenizer.txt and vocab.txt, which were made from the original. No Unicode library is
// needed: what happens to every character stands in the tables. Needs C++17.
#pragma once

#include "encoded.hpp"
#include "text_stream.hpp"
#include "tokenizer_models.hpp"

namespace plm {

// Once made it does not change: it may be used from several threads at once.
class Tokenizer {
 public:
  // `folder` holds tokenizer.txt and vocab.txt. Throws std::runtime_error where one is missing or of another format.
  explicit Tokenizer(const std::string& folder) : Tokenizer(Tables(folder)) {}

  // Ids for the model, cut to `max_length`: the longer text first, or (`only_second`) the second alone.
  Encoded encode(const std::string& text, const std::string* pair, size_t max_length, bool only_second = false) const {
    const std::vector<Token> parts[2] = {tokens(text), pair ? tokens(*pair) : std::vector<Token>{}};
    const std::vector<Slot>& around = pair ? pair_ : single_;
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
    cut_out(chars_of(text), false, made, [&](Chars chunk) {
      for (const Normalizer& step : normalizer_) chunk = step(chunk);
      cut_out(chunk, true, made, [&](Chars part) { choose(std::move(part), made); });
    });
    return made;
  }

  // The text of ids, special tokens left out.
  std::string decode(const std::vector<int32_t>& ids) const {
    TextStream made = stream();
    std::string text;
    for (int32_t id : ids) text += made.add(id);
    return text + made.end();
  }

  // A text that takes ids one by one; it must not outlive the tokenizer.
  TextStream stream() const {
    if (decode_.empty()) throw std::runtime_error("the tables do not say how ids become text");
    return TextStream(decode_, spellings_);
  }

  // The text as the model's own tokenizer normalizes it: MediaPipe Tasks, which has a tokenizer inside, cuts some text
  // (accents, capitals beyond ASCII, Hangul, control characters) otherwise unless it is given this.
  std::string normalize(const std::string& text) const {
    Chars made = chars_of(text);
    for (const Normalizer& step : normalizer_) made = step(made);
    return utf8_of({made.data(), made.size()});
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
    const std::string* found = spellings_.find(id, true);
    return found ? *found : std::string();
  }

  // Where the words that white space separates begin and end, in bytes.
  std::vector<std::pair<size_t, size_t>> word_spans(const std::string& text) const {
    std::vector<std::pair<size_t, size_t>> made;
    bool inside = false;
    for (const Char& x : chars_of(text)) {
      const bool space = spaces_.has(x.c);
      if (!space && inside) made.back().second = x.end;
      if (!space && !inside) made.emplace_back(x.start, x.end);
      inside = !space;
    }
    return made;
  }

 private:
  std::vector<Slot> single_, pair_;
  Ranges spaces_;
  std::vector<Normalizer> normalizer_;
  std::vector<Splitter> splits_;
  std::unique_ptr<const Model> model_;
  std::vector<std::string> decode_;
  Spellings spellings_;
  std::unordered_map<uint32_t, std::vector<Special>> specials_;  // by their first character, the longest first

  explicit Tokenizer(Tables tables)
      : single_(tables.slots("single")), pair_(tables.slots("pair")), spaces_(tables.cell("spaces")), model_(model_of(tables)) {
    for (const Step& step : tables.normalizer) normalizer_.push_back(normalizer_of(step, spaces_));
    for (const Step& step : tables.splits) splits_.push_back(splitter_of(step));
    const auto how = tables.cells.find("decode");
    if (how != tables.cells.end()) decode_ = how->second;
    spellings_.pieces = std::move(tables.pieces);
    for (const Special& s : tables.specials) {
      spellings_.specials.emplace(s.id, s);
      if (!s.content.empty()) specials_[s.content[0]].push_back(s);
    }
    for (auto& alike : specials_)
      std::stable_sort(alike.second.begin(), alike.second.end(),
                       [](const Special& a, const Special& b) { return a.content.size() > b.content.size(); });
  }

  // Special tokens typed in the text: the leftmost first, the longest of those that begin there.
  template <class Rest>
  void cut_out(const Chars& chars, bool normalized, std::vector<Token>& made, Rest rest) const {
    size_t begin = 0;
    for (size_t i = 0; i < chars.size();) {
      const Special* found = find(chars, i, normalized);
      if (!found) { ++i; continue; }
      size_t start = i, end = i + found->content.size();
      while (found->left && start > begin && spaces_.has(chars[start - 1].c)) --start;
      while (found->right && end < chars.size() && spaces_.has(chars[end].c)) ++end;
      if (start > begin) rest(Chars(chars.begin() + begin, chars.begin() + start));
      made.push_back({found->id, chars[start].start, chars[end - 1].end});
      begin = i = end;
    }
    if (begin < chars.size()) rest(Chars(chars.begin() + begin, chars.end()));
  }

  const Special* find(const Chars& chars, size_t at, bool normalized) const {
    const auto alike = specials_.find(chars[at].c);
    if (alike == specials_.end()) return nullptr;
    for (const Special& s : alike->second) {
      bool same = s.normalized == normalized && at + s.content.size() <= chars.size();
      for (size_t k = 0; same && k < s.content.size(); ++k) same = chars[at + k].c == s.content[k];
      if (same) return &s;
    }
    return nullptr;
  }

  void choose(Chars chars, std::vector<Token>& made) const {
    std::vector<Chars> pieces;
    pieces.push_back(std::move(chars));
    for (const Splitter& step : splits_) {
      std::vector<Chars> shorter;
      for (const Chars& piece : pieces)
        if (!piece.empty()) step(piece, shorter);
      pieces = std::move(shorter);
    }
    for (const Chars& piece : pieces)
      if (!piece.empty()) model_->run({piece.data(), piece.size()}, made);
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
