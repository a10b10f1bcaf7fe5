// Tries a sample's main.cpp and text_model.hpp with a LiteRT that is none: -DMODEL=CLASS -DKEY=SIGNATURE -DREST=DIMENSIONS.
#include "litert.hpp"
#define main sample_main
#include "main.cpp"
#undef main

namespace {

int wrong = 0;

void expect(bool true_of, const std::string& what) {
  if (!true_of) std::fprintf(stderr, "not so: %s\n", what.c_str());
  wrong += !true_of;
}

bool refused(const std::string& assets, const Encoded* text = nullptr, plm::MODEL* model = nullptr) {
  try {
    if (model) model->run(*text);
    else plm::MODEL made("model", assets);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

void memory(const std::string& assets) {
  for (const char* stop :
       {"LiteRtCreateEnvironment", "LiteRtCreateModelFromFile", "LiteRtCreateOptions",
        "LiteRtSetOptionsHardwareAccelerators", "LiteRtCreateOpaqueOptions", "LiteRtAddOpaqueOptions",
        "LiteRtCreateCompiledModel", "LiteRtGetNumModelSignatures"}) {
    fake::failing = stop;
    expect(refused(assets) && fake::alive == 0, std::string("all is given back where this fails: ") + stop);
  }
  fake::failing.clear();
  fake::key = "other";
  expect(refused(assets) && fake::alive == 0, "all is given back where a signature is missing");
  fake::key = KEY;
  {
    plm::MODEL model("model", assets);
    Encoded text;
    text.ids = text.types = {1, 2, 3};
    model.run(text);
    text.ids = text.types = {1, 2, 3, 4};
    model.run(text);
    Encoded other;
    other.ids = other.types = std::vector<int32_t>(20, 1);
    fake::failing = "LiteRtCreateManagedTensorBufferFromRequirements";
    fake::after = 2;
    const bool first = refused(assets, &other, &model);
    fake::failing.clear();
    size_t size = 1;
    for (int n : fake::rest) size *= n < 0 ? fake::length : n;
    // At fixed lengths memory of this one was there before.
    expect(first == (fake::length == 20), "a layout fails where its memory does");
    expect(model.run(other).at("logits").size() == size, "a layout that failed is made anew");
  }
  {
    plm::MODEL model("model", assets);
    Encoded text;
    text.ids = text.types = {1, 2, 3};
    fake::failing = "LiteRtCreateManagedTensorBufferFromRequirements";
    fake::after = 2;
    expect(refused(assets, &text, &model), "the first layout fails");
    fake::failing.clear();
    expect(model.run(text).count("logits") == 1, "the first layout is made anew");
#ifdef MASKS
    for (size_t count : {size_t{0}, size_t{2}, size_t{1} << 40})
      for (const auto& guesses : model.fill_masks("the [MASK] of it", count))
        expect(guesses.size() == std::min<size_t>(count, fake::rest.back()), "as many guesses as there can be");
    expect(model.fill_masks("the [MASK] of it").size() == 1, "one mask");
#endif
  }
  expect(fake::alive == 0, "all is given back at the end");
}

void answers(const std::string& assets) {
  plm::MODEL model("model", assets);
  std::ifstream file(assets + "/golden.tsv", std::ios::binary);
  Golden found;
  for (std::string line; std::getline(file, line);) {
    const auto cells = cells_of(line);
    if (cells.at(0) == "tolerance") found.tolerance = std::stod(cells.at(1));
    if (cells.at(0) == "range") found.ranges[cells.at(1)] = std::stod(cells.at(2));
    if (cells.at(0) != "text") continue;
    const Encoded encoded = encoded_of(model, cells);
    plm::Outputs outputs;
    size_t last = 0;
    for (size_t i = 7; i + 2 < cells.size(); i += 3) {
      std::vector<float>& values = outputs[cells[i]];
      size_t size = 1, at = 0;
      for (int n : fake::rest) size *= n < 0 ? encoded.ids.size() : n;
      values.resize(size, -1e30f);
      const auto known = floats(cells[i + 2]);
      std::istringstream runs(cells[i + 1]);
      for (std::string run; runs >> run;) {
        const size_t begin = std::stoul(run), n = std::stoul(run.substr(run.find(':') + 1));
        for (size_t k = 0; k < n; ++k) values.at(begin + k) = known.at(at++);
        last = begin + n - 1;
      }
    }
    compare(model, cells, encoded, outputs, found);
    plm::Outputs other = outputs;
    other.begin()->second.at(last) = std::nanf("");
    Golden none = found;
    expect(!near(cells, other, none), "NaN is near nothing");
    expect(std::isnan(none.worst), "NaN is told");
    other.begin()->second.resize(last);
    expect(!near(cells, other, none), "an output that is too short is noticed");
    other = outputs;
    other["another"] = {1};
    expect(!near(cells, other, none), "an output of which nothing is recorded is noticed");
    auto fewer = cells;
    fewer.back().erase(fewer.back().rfind(' ') + 1).append("nan");
    expect(!near(fewer, outputs, none), "NaN in the table is near nothing");
    fewer.resize(7);
    expect(!near(fewer, outputs, none), "a row without outputs proves nothing");
  }
  expect(told("answers", found), "every answer is read as it was recorded");
  expect(!told("none", Golden()), "no text proves nothing");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  fake::key = KEY;
  fake::length = LENGTH;
  fake::rest = REST;
  if (std::string(argv[2]) == "memory") memory(argv[1]);
  else answers(argv[1]);
  return wrong > 0;
}
