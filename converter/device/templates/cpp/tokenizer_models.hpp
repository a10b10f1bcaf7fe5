// How each kind of tokenizer makes tokens of a piece of text: WordPiece, byte-pair encoding, Unigram.
#pragma once

#include <limits>
#include <locale>
#include <memory>
#include <queue>

#include "tokenizer_tables.hpp"

namespace plm {

using Ids = std::unordered_map<std::string, int32_t>;

struct Model {
  virtual ~Model() = default;
  // `chars` is never empty.
  virtual void run(Span chars, std::vector<Token>& to) const = 0;

 protected:
  static Ids ids_of(const Tables& tables) {
    Ids made;
    made.reserve(tables.pieces.size());
    for (size_t id = 0; id < tables.pieces.size(); ++id) made[tables.pieces[id]] = static_cast<int32_t>(id);
    return made;
  }

  static int32_t find(const Ids& ids, const std::string& piece) {
    const auto found = ids.find(piece);
    return found == ids.end() ? -1 : found->second;
  }

  // The ids of <0x00> to <0xFF>; -1 for those that are no pieces. None where they are not used.
  static std::vector<int32_t> byte_ids(const Ids& ids, bool used) {
    std::vector<int32_t> made;
    for (int b = 0; used && b < 256; ++b) {
      const char* digits = "0123456789ABCDEF";
      made.push_back(find(ids, std::string("<0x") + digits[b / 16] + digits[b % 16] + ">"));
    }
    return made;
  }

  // Adds the tokens of a text's bytes; false where one of them has none.
  static bool add_bytes(const std::vector<int32_t>& ids, const std::string& text, Token at, std::vector<Token>& to) {
    if (ids.empty()) return false;
    for (char b : text)
      if (ids[static_cast<uint8_t>(b)] < 0) return false;
    for (char b : text) to.push_back({ids[static_cast<uint8_t>(b)], at.start, at.end});
    return true;
  }
};

// The longest piece first, again and again; a word that does not come out even is unknown.
class WordPiece : public Model {
 public:
  explicit WordPiece(const Tables& tables)
      : ids_(ids_of(tables)),
        prefix_(unescape(tables.cell("prefix"))),
        unknown_(std::stoi(tables.cell("unknown"))),
        longest_word_(std::stoul(tables.cell("longest_word"))) {}

  void run(Span chars, std::vector<Token>& to) const override {
    const size_t before = to.size();
    for (size_t start = 0; chars.size() <= longest_word_;) {
      std::string piece = start > 0 ? prefix_ : "";
      size_t stop = start;
      int32_t id = -1;
      for (size_t k = start; k < chars.size(); ++k) {
        append_utf8(piece, chars[k].c);
        const int32_t found = find(ids_, piece);
        if (found >= 0) {
          id = found;
          stop = k + 1;
        }
      }
      if (id < 0) break;
      to.push_back(chars.token(id, start, stop));
      if (stop == chars.size()) return;
      start = stop;
    }
    to.resize(before, Token{});
    to.push_back(chars.token(unknown_, 0, chars.size()));
  }

 private:
  Ids ids_;
  std::string prefix_;
  int32_t unknown_;
  size_t longest_word_;
};

// Of all neighbors the pair that was merged first in training, again and again.
class Bpe : public Model {
 public:
  explicit Bpe(const Tables& tables) : fuses_(tables.flag(0)), unknown_(std::stoi(tables.cell("unknown"))) {
    if (tables.flag(1) || tables.flag(2)) whole_ = ids_of(tables);
    bytes_ = byte_ids(whole_, tables.flag(1));
    if (!tables.flag(2)) whole_.clear();
    for (size_t id = 0; id < tables.pieces.size(); ++id) {
      if (tables.pieces[id].size() > 4) continue;
      const Points points = points_of(tables.pieces[id]);
      if (points.size() == 1) letters_[points[0]] = static_cast<int32_t>(id);
    }
    read(tables.cell("merges"));
  }

  void run(Span chars, std::vector<Token>& to) const override {
    const int32_t known = whole_.empty() ? -1 : find(whole_, utf8_of(chars));
    if (known >= 0) to.push_back(chars.token(known, 0, chars.size()));
    else merge(symbols(chars), to);
  }

 private:
  static constexpr uint32_t kNone = static_cast<uint32_t>(-1);

  std::unordered_map<uint32_t, int32_t> letters_;
  Ids whole_;
  std::vector<int32_t> bytes_;
  std::unordered_map<uint64_t, uint32_t> ranks_;
  std::vector<int32_t> merged_;  // by rank, what a pair becomes
  bool fuses_;
  int32_t unknown_;

  static uint64_t pair(int32_t one, int32_t other) { return uint64_t(uint32_t(one)) << 32 | uint32_t(other); }

  // `left,right` of each rank, and `,merged` where that is not the id after the last.
  void read(const std::string& cell) {
    int32_t numbers[3] = {0, 0, 0}, last = -1;
    for (size_t at = 0; at < cell.size(); ++at) {
      int n = 0;
      for (numbers[0] = 0; at < cell.size() && cell[at] != ' '; ++at) {
        if (cell[at] == ',' && n < 2) numbers[++n] = 0;
        else numbers[n] = numbers[n] * 10 + (cell[at] - '0');
      }
      last = n == 2 ? numbers[2] : last + 1;
      ranks_[pair(numbers[0], numbers[1])] = static_cast<uint32_t>(merged_.size());
      merged_.push_back(last);
    }
  }

  std::vector<Token> symbols(Span chars) const {
    std::vector<Token> made;
    bool pending = false;
    Token strange{};
    for (size_t i = 0; i < chars.size(); ++i) {
      const auto found = letters_.find(chars[i].c);
      if (found != letters_.end()) {
        if (pending) made.push_back(strange);
        pending = false;
        made.push_back(chars.token(found->second, i, i + 1));
      } else if (add_bytes(bytes_, utf8_of(chars.part(i, i + 1)), chars.token(0, i, i + 1), made)) {
        continue;
      } else if (unknown_ >= 0) {
        if (pending && !fuses_) made.push_back(strange);
        strange = {unknown_, pending && fuses_ ? strange.start : chars[i].start, chars[i].end};
        pending = true;
      }
    }
    if (pending) made.push_back(strange);
    return made;
  }

  // What is left is chained by `after` and `before`; the queue has pairs by rank, then by place.
  void merge(std::vector<Token> tokens, std::vector<Token>& to) const {
    const size_t n = tokens.size();
    std::vector<size_t> after(n + 1), before(n + 1);
    std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue;
    const auto rank = [&](size_t at) {
      if (tokens[at].id < 0 || after[at] >= n) return kNone;
      const auto found = ranks_.find(pair(tokens[at].id, tokens[after[at]].id));
      return found == ranks_.end() ? kNone : found->second;
    };
    const auto note = [&](size_t at) {
      const uint32_t found = rank(at);
      if (found != kNone) queue.push(uint64_t{found} << 32 | at);
    };
    for (size_t i = 0; i < n; ++i) {
      after[i] = i + 1;
      before[i] = i == 0 ? n : i - 1;
    }
    for (size_t i = 0; i < n; ++i) note(i);
    while (!queue.empty()) {
      const uint64_t next = queue.top();
      queue.pop();
      const size_t at = next & 0xFFFFFFFF, gone = after[at];
      const uint32_t found = rank(at);
      const int32_t id = merged_[next >> 32];
      if (found == kNone || merged_[found] != id) continue;  // it has changed since it was noted
      tokens[at] = {id, tokens[at].start, tokens[gone].end};
      tokens[gone].id = -1;
      after[at] = after[gone];
      before[after[at]] = at;
      if (before[at] < n) note(before[at]);
      note(at);
    }
    for (const Token& token : tokens)
      if (token.id >= 0) to.push_back(token);
  }
};

// Of all ways to cut, the one whose pieces have the highest sum of scores (Viterbi).
class Unigram : public Model {
 public:
  explicit Unigram(const Tables& tables) : ids_(ids_of(tables)), unknown_(std::stoi(tables.cell("unknown"))) {
    bytes_ = byte_ids(ids_, tables.flag(1));
    sorted_.reserve(ids_.size());
    for (const auto& [piece, id] : ids_) sorted_.emplace_back(piece, id);
    std::sort(sorted_.begin(), sorted_.end());
    double least = std::numeric_limits<double>::infinity();
    std::istringstream numbers(tables.cell("scores"));
    numbers.imbue(std::locale::classic());
    for (double score; numbers >> score;) {
      scores_.push_back(score);
      least = std::min(least, score);
    }
    unknown_score_ = least - 10;
  }

  void run(Span chars, std::vector<Token>& to) const override {
    const std::string text = utf8_of(chars);
    std::vector<Node> best(text.size() + 1);
    best[0].reached = true;
    for (size_t start = 0, next; start < text.size(); start = next) {
      next = start + 1;
      while (next < text.size() && (text[next] & 0xC0) == 0x80) ++next;
      bool single = false;
      auto low = sorted_.begin(), high = sorted_.end();
      for (size_t end = start + 1; end <= text.size(); ++end) {
        const uint8_t b = static_cast<uint8_t>(text[end - 1]);
        low = first(low, high, end - start - 1, b);
        high = first(low, high, end - start - 1, b + 1);
        if (low == high) break;
        if (low->first.size() > end - start) continue;
        single = single || end == next;
        offer(best, start, end, low->second, scores_[low->second]);
      }
      if (!single) offer(best, start, next, unknown_, unknown_score_);
    }
    trace(text, best, chars, to);
  }

 private:
  struct Node {
    double score = 0;
    size_t from = 0;
    int32_t id = -1;
    bool reached = false;
  };
  using Sorted = std::vector<std::pair<std::string_view, int32_t>>;

  Ids ids_;
  Sorted sorted_;  // views of the keys of ids_, which stay where they are
  std::vector<int32_t> bytes_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  int32_t unknown_;

  // Of pieces that begin alike, the first whose byte at `at` is not less than `b`.
  static Sorted::const_iterator first(Sorted::const_iterator low, Sorted::const_iterator high, size_t at, int b) {
    return std::partition_point(low, high, [&](const auto& entry) {
      return at >= entry.first.size() || static_cast<uint8_t>(entry.first[at]) < b;
    });
  }

  static void offer(std::vector<Node>& best, size_t start, size_t end, int32_t id, double score) {
    const double sum = best[start].score + score;
    if (!best[end].reached || sum > best[end].score) best[end] = {sum, start, id, true};
  }

  // Unknown characters side by side are one.
  void trace(const std::string& text, const std::vector<Node>& best, Span chars, std::vector<Token>& to) const {
    std::vector<std::pair<size_t, size_t>> spans;
    bool before = false;
    for (size_t end = text.size(); end > 0; end = best[end].from) {
      const bool strange = best[end].id == unknown_;
      if (strange && before) spans.back().first = best[end].from;
      else spans.emplace_back(best[end].from, end);
      before = strange;
    }
    size_t at = 0;
    for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
      const std::string piece = text.substr(span->first, span->second - span->first);
      size_t stop = at;
      for (char b : piece) stop += (b & 0xC0) != 0x80;
      const int32_t known = find(ids_, piece);
      if (known >= 0 || !add_bytes(bytes_, piece, chars.token(0, at, stop), to))
        to.push_back(chars.token(known < 0 ? unknown_ : known, at, stop));
      at = stop;
    }
  }
};

inline std::unique_ptr<const Model> model_of(const Tables& tables) {
  const std::string& kind = tables.cell("kind");
  if (kind == "wordpiece") return std::make_unique<WordPiece>(tables);
  if (kind == "bpe") return std::make_unique<Bpe>(tables);
  if (kind == "unigram") return std::make_unique<Unigram>(tables);
  throw std::runtime_error("tokenizer.txt is of a later version: " + kind);
}

}  // namespace plm
