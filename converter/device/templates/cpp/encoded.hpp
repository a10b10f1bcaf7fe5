// A text (or two) as token ids. Fill it with tokenizer.hpp, or from your tokenizer library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace plm {

struct Encoded {
  std::vector<int32_t> ids, types;  // no padding
  std::vector<int> part;            // 0 or 1: the text a token is from; -1: a special token around the texts
  std::vector<size_t> start, end;   // bytes of that text (UTF-8)
};

}  // namespace plm
