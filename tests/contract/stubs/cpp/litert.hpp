// The functions of litert_api.hpp without a library: they count what they hand out, and fail where they are told to.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "litert_api.hpp"

namespace fake {

int alive = 0;        // objects handed out and not given back
std::string failing;  // the function that fails, …
int after = 0;        // … after so many calls that do not
std::string key;      // of the one signature
int length = 0;       // of its inputs
std::vector<int> rest;  // dimensions of its output behind the first: -1 is the length

bool fails(const char* name) { return failing == name && after-- <= 0; }

}  // namespace fake

struct LiteRtEnvironmentT {};
struct LiteRtModelT {};
struct LiteRtCompiledModelT {};
struct LiteRtSignatureT {};
struct LiteRtTensorT { bool input; };
struct LiteRtTensorBufferRequirementsT {};
struct LiteRtTensorBufferT { std::vector<float> memory; };
struct LiteRtOpaqueOptionsT {
  void* payload = nullptr;
  void (*release)(void*) = nullptr;
  ~LiteRtOpaqueOptionsT() { if (release) release(payload); }
};
struct LiteRtOptionsT { LiteRtOpaqueOptions held = nullptr; };

namespace fake {

LiteRtSignatureT signature;
LiteRtTensorT tensors[] = {{true}, {false}};
LiteRtTensorBufferRequirementsT requirements;
const char* inputs[] = {"input_ids", "attention_mask", "token_type_ids"};

template <class T>
LiteRtStatus create(const char* name, T** made) {
  if (fails(name)) return 1;
  *made = new T();
  ++alive;
  return 0;
}

template <class T>
void destroy(T* it) {
  delete it;
  --alive;
}

LiteRtLayout layout(bool input) {
  LiteRtLayout made{};
  std::vector<int> shape = {1, length};
  if (!input) {
    shape = {1};
    for (int n : rest) shape.push_back(n < 0 ? length : n);
  }
  made.rank = shape.size() & 127;
  for (size_t i = 0; i < shape.size(); ++i) made.dimensions[i] = shape[i];
  return made;
}

}  // namespace fake

LiteRtStatus LiteRtCreateEnvironment(int, const void*, LiteRtEnvironment* made) { return fake::create("LiteRtCreateEnvironment", made); }
void LiteRtDestroyEnvironment(LiteRtEnvironment it) { fake::destroy(it); }
LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment, const char*, LiteRtModel* made) { return fake::create("LiteRtCreateModelFromFile", made); }
void LiteRtDestroyModel(LiteRtModel it) { fake::destroy(it); }
LiteRtStatus LiteRtGetNumModelSignatures(LiteRtModel, size_t* n) { *n = 1; return fake::fails("LiteRtGetNumModelSignatures"); }
LiteRtStatus LiteRtGetModelSignature(LiteRtModel, size_t, LiteRtSignature* made) { *made = &fake::signature; return 0; }
LiteRtStatus LiteRtGetSignatureKey(LiteRtSignature, const char** key) { *key = fake::key.c_str(); return 0; }
LiteRtStatus LiteRtGetNumSignatureInputs(LiteRtSignature, size_t* n) { *n = 3; return 0; }
LiteRtStatus LiteRtGetSignatureInputName(LiteRtSignature, size_t i, const char** name) { *name = fake::inputs[i]; return 0; }
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, size_t, LiteRtTensor* made) { *made = &fake::tensors[0]; return 0; }
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature, size_t* n) { *n = 1; return 0; }
LiteRtStatus LiteRtGetSignatureOutputName(LiteRtSignature, size_t, const char** name) { *name = "logits"; return 0; }
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, size_t, LiteRtTensor* made) { *made = &fake::tensors[1]; return 0; }
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor it, LiteRtRankedTensorType* made) { made->layout = fake::layout(it->input); return 0; }
LiteRtStatus LiteRtCreateOptions(LiteRtOptions* made) { return fake::create("LiteRtCreateOptions", made); }
void LiteRtDestroyOptions(LiteRtOptions it) {
  if (it->held) fake::destroy(it->held);
  fake::destroy(it);
}
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int) { return fake::fails("LiteRtSetOptionsHardwareAccelerators"); }
LiteRtStatus LiteRtCreateOpaqueOptions(const char*, void* payload, void (*release)(void*), LiteRtOpaqueOptions* made) {
  if (fake::create("LiteRtCreateOpaqueOptions", made)) return 1;
  (*made)->payload = payload;
  (*made)->release = release;
  return 0;
}
void LiteRtDestroyOpaqueOptions(LiteRtOpaqueOptions it) { fake::destroy(it); }
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtOptions to, LiteRtOpaqueOptions it) {
  if (fake::fails("LiteRtAddOpaqueOptions")) return 1;
  to->held = it;
  return 0;
}
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions, LiteRtCompiledModel* made) { return fake::create("LiteRtCreateCompiledModel", made); }
void LiteRtDestroyCompiledModel(LiteRtCompiledModel it) { fake::destroy(it); }
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel, size_t, size_t, LiteRtTensorBufferRequirements* made) { *made = &fake::requirements; return 0; }
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel, size_t, size_t, LiteRtTensorBufferRequirements* made) { *made = &fake::requirements; return 0; }
LiteRtStatus LiteRtCompiledModelResizeInputTensor(LiteRtCompiledModel, size_t, size_t, const int* shape, size_t) { fake::length = shape[1]; return 0; }
LiteRtStatus LiteRtGetCompiledModelOutputTensorLayouts(LiteRtCompiledModel, size_t, size_t, LiteRtLayout* made, bool) { *made = fake::layout(false); return 0; }
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment, const LiteRtRankedTensorType* type, LiteRtTensorBufferRequirements, LiteRtTensorBuffer* made) {
  if (fake::create("LiteRtCreateManagedTensorBufferFromRequirements", made)) return 1;
  size_t size = 1;
  for (unsigned d = 0; d < type->layout.rank; ++d) size *= type->layout.dimensions[d];
  (*made)->memory.resize(size, 1);
  return 0;
}
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer it) { fake::destroy(it); }
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer it, void** memory, int) { *memory = it->memory.data(); return 0; }
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer) { return 0; }
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel, size_t, size_t, LiteRtTensorBuffer*, size_t, LiteRtTensorBuffer*) { return 0; }
