// Chooses tokens by the rules of the sample: a row of input is "prompt total | given | scores".
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "rules.hpp"

int main() {
  plm::Rules rules;
  RULES
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream cells(line);
    std::string cell;
    size_t prompt = 0, total = 0;
    std::vector<int32_t> given;
    std::vector<float> scores;
    cells >> prompt >> total >> cell;
    while (cells >> cell && cell != "|") given.push_back(std::stoi(cell));
    for (float value = 0; cells >> value;) scores.push_back(value);
    std::printf("%d\n", rules.choose(scores, given, prompt, total));
  }
}
