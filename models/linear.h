// The linear form: per profiled (LLM, GPU, TP degree) two fitted lines.
//
//   prefill [ms]     = base + per_token sum(l) + per_token2 sum(l^2)        over the prompts of the step
//   decode step [ms] = base + per_token T + per_request B                   T context tokens and B requests of the batch
//   both at least floor_us.
//
// Form and the profile "aegaeon-artifact": the simulator of the Aegaeon artifact. Simple, and wrong outside the points it was
// fitted to: slopes may be negative (that table has some), so prices need not grow with work; the floor keeps them positive. For
// an actual fleet use "physics".
//
// Rounding: decode is base + per_request B and per_token, each to whole ps once; an error of half a picosecond in per_token is
// 0.5 us at a million tokens. The table's slopes are whole picoseconds. Prefill is rounded once.
//
// A mixed step of B decoding requests and chunks of n tokens at offset o is
//   decode step(B, T) + sum over chunks of (prefill per_token n + per_token2 n (2 o + n)),
// without the prefill's base, because one step pays one base; with B = 0 it is the prefill's base instead. So the chunks of a
// prompt alone sum to its prefill plus a base per further chunk. The source has no mixed steps: this is ours.
//
// Weights and KV bytes are those of the catalogue's LLM, not of the table's source; a scenario's model table may replace them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/cost_model.h"

namespace poolsim {

struct LinearPrefill {
  double base = 0;        // ms
  double per_token = 0;   // ms
  double per_token2 = 0;  // ms per squared token
  void Describe(Fields& f);
};

struct LinearDecode {
  double base = 0;         // ms
  double per_token = 0;    // ms
  double per_request = 0;  // ms
  void Describe(Fields& f);
};

struct LinearEntry {
  std::string llm;
  std::string gpu;                 // empty: any
  std::optional<std::int64_t> tp;  // not set: any
  LinearPrefill prefill_ms;
  LinearDecode decode_ms;
  void Describe(Fields& f);
};

struct LinearParams {
  // Entries of the scenario. Of those that fit, the one that names the GPU goes before one that does not, then the one that names
  // the TP degree. Two entries for one (llm, gpu, tp) are refused.
  std::vector<LinearEntry> models;
  // A profile (models/profile.h) with a section "linear" that is used where `models` is empty, and only there.
  std::string profile = "aegaeon-artifact";
  double floor_us = 1;
  void Describe(Fields& f);
};

}  // namespace poolsim
