// What the model's generation_config.json asks of the next token. Sequences count the start token, or the prompt.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

namespace plm {

struct Rules {
  using Tokens = std::vector<int32_t>;

  float repetition_penalty = 1;    // above 1: tokens that are there already become less likely
  size_t no_repeat = 0;            // so many tokens never come again in the same order; 0: no such rule
  std::vector<Tokens> forbidden;   // sequences of tokens that are never written
  size_t min_length = 0;           // no end before a sequence has so many tokens
  size_t min_new = 0;              // no end before so many tokens were chosen
  Tokens ends;                     // tokens that end a text
  int32_t second = -1;             // the token behind the start token: a translator's language. -1: any
  Tokens last;                     // one of these is the last where a text reaches its greatest length
  Tokens suppressed, suppressed_first;  // tokens that are never written, and those that are not written first

  bool is_end(int32_t token) const { return std::find(ends.begin(), ends.end(), token) != ends.end(); }

  // The likeliest token behind `given`, whose first `prompt` were not chosen; a sequence has at most `total`.
  int32_t choose(std::vector<float> scores, const Tokens& given, size_t prompt, size_t total) const {
    const size_t count = given.size();
    if (repetition_penalty != 1) {
      for (int32_t token : std::set<int32_t>(given.begin(), given.end())) {
        if (static_cast<size_t>(token) >= scores.size()) continue;
        scores[token] = scores[token] < 0 ? scores[token] * repetition_penalty : scores[token] / repetition_penalty;
      }
    }
    for (size_t i = 0; no_repeat > 0 && i + no_repeat <= count; ++i) {
      if (std::equal(given.end() - (no_repeat - 1), given.end(), given.begin() + i)) never(scores, {given[i + no_repeat - 1]});
    }
    for (const Tokens& word : forbidden) {
      const size_t begun = word.size() - 1;
      if (begun <= count && std::equal(word.begin(), word.end() - 1, given.end() - begun)) never(scores, {word.back()});
    }
    if (count < std::max(min_length, min_new > 0 ? prompt + min_new : 0)) never(scores, ends);
    if (second >= 0 && count == 1) only(scores, {second});
    if (!last.empty() && count + 1 == total) only(scores, last);
    never(scores, suppressed);
    if (count == (second >= 0 && prompt == 1 ? 2 : prompt)) never(scores, suppressed_first);
    return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
  }

 private:
  static void never(std::vector<float>& scores, const Tokens& tokens) {
    for (int32_t token : tokens)
      if (static_cast<size_t>(token) < scores.size()) scores[token] = -std::numeric_limits<float>::infinity();
  }

  static void only(std::vector<float>& scores, const Tokens& tokens) {
    std::fill(scores.begin(), scores.end(), -std::numeric_limits<float>::infinity());
    for (int32_t token : tokens) scores[token] = 0;
  }
};

}  // namespace plm
