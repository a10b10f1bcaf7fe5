// tokenize FOLDER [--time N]: standard input has a row a line, which is answered by a line.
// "text TEXT" and "pair TEXT TEXT" (between tabs, escaped): ids, then start:end of each. "ids IDS": the text, and what a stream gave.
#include <chrono>
#include <cstdio>
#include <iostream>

#include "tokenizer.hpp"

namespace {

std::string escape(const std::string& text) {
  std::string made;
  for (char c : text) {
    if (c == '\\') made += "\\\\";
    else if (c == '\t') made += "\\t";
    else if (c == '\n') made += "\\n";
    else if (c == '\r') made += "\\r";
    else made += c;
  }
  return made;
}

void answer(const plm::Tokenizer& tokenizer, const std::vector<std::string>& cells) {
  if (cells[0] == "ids") {
    std::vector<int32_t> ids;
    for (const std::string& id : plm::split_words(cells.at(1))) ids.push_back(std::stoi(id));
    plm::TextStream stream = tokenizer.stream();
    std::string parts;
    for (int32_t id : ids) parts += escape(stream.add(id)) + "\t";
    std::cout << escape(tokenizer.decode(ids)) << "\t" << parts << escape(stream.end()) << "\n";
    return;
  }
  const std::string second = cells[0] == "pair" ? plm::unescape(cells.at(2)) : std::string();
  const plm::Encoded made =
      tokenizer.encode(plm::unescape(cells.at(1)), cells[0] == "pair" ? &second : nullptr, 1 << 30);
  for (int32_t id : made.ids) std::cout << id << " ";
  std::cout << "\t";
  for (size_t i = 0; i < made.ids.size(); ++i) std::cout << made.start[i] << ":" << made.end[i] << " ";
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto seconds = [](auto span) { return std::chrono::duration<double>(span).count(); };
  const auto begun = now();
  const plm::Tokenizer tokenizer(argv[1]);
  const double load = seconds(now() - begun);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(std::cin, line);) rows.push_back(plm::split_cells(line));
  for (const auto& row : rows) answer(tokenizer, row);
  if (argc > 3) {
    std::vector<std::string> texts;
    for (const auto& row : rows)
      if (row[0] == "text") texts.push_back(plm::unescape(row.at(1)));
    const auto started = now();
    for (int i = std::stoi(argv[3]); i > 0; --i)
      for (const std::string& text : texts) tokenizer.encode(text, nullptr, 1 << 30);
    std::cerr << load << " " << seconds(now() - started) << "\n";
  }
}
