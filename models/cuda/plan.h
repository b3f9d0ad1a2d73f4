// What is measured, in which order: a list of rows of models/measurements.h that have no time yet.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "models/cuda/statistics.h"
#include "models/llm_spec.h"

namespace poolsim::bench {

struct Case {
  std::string kind;
  std::vector<std::pair<std::string, std::int64_t>> sizes;  // in the order they are written
  std::vector<std::pair<std::string, std::string>> choices;

  std::int64_t Size(const std::string& key) const;   // REQUIRES it to be there
  std::string Choice(const std::string& key) const;  // empty where it is not
  std::string Text() const;                          // "gemm m=1 k=896 n=1152", for messages
};

// How much is measured, by device and haste.
struct Scope {
  bool quick = false;
  double most_flops = 0;               // of one run of a kernel
  double most_step_flops = 0;          // of one whole step
  std::int64_t most_bytes = 0;         // of device memory that a case may take
  std::int64_t most_copy_bytes = 0;    // of one copy
  std::int64_t most_weight_bytes = 0;  // of a model's layers before they are shared (see model.h)
  double batch_s = 0;                  // short work is repeated in a row for at least this long between two clock readings
  int most_copies = 1;  // of data that work goes through in turn, so that it comes from memory and not from a cache
  RepeatLimits repeats;
  RepeatLimits step_repeats;
};
Scope CpuScope(bool quick);
Scope GpuScope(bool quick, std::int64_t free_bytes);

struct Plan {
  std::vector<Case> cases;
  std::vector<std::string> left_out;  // what this LLM or shape does not allow, in words
};

inline const std::vector<std::string> kKinds = {
    "memory",           "context", "alloc",  "launch", "copy", "kv_copy", "all_reduce", "gemm", "prefill_attention",
    "decode_attention", "prefill", "decode", "mixed"};

// For one GPU of a group of `tp` (which CheckShape passes) out of `peers` that are there. Cases above the scope's bounds are left
// out silently, except that the smallest of a kind stays.
Plan MakePlan(const LlmSpec& llm, int tp, int peers, const Scope& scope);

// Kinds other than `only` taken out; all stay when it is empty.
void KeepKinds(Plan& plan, const std::vector<std::string>& only);

// Elements a page of the KV cache holds, tokens.
inline constexpr int kPageTokens = 16;

}  // namespace poolsim::bench
