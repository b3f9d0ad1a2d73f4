// Measured latencies: what `poolsim calibrate` reads and `poolsim-bench` writes.
//
// Two forms, told apart by their contents. Times are medians over repeats.
//
// JSON, one file per machine (the schema's name is its first key):
//
//     {
//       "schema": "poolsim-measurements-1",
//       "engine": "poolsim-bench 0.1.0",         what ran
//       "date": "2026-01-31",
//       "gpu": "h100",                           catalogue name, for rows that name none
//       "llm": "qwen2.5-7b",                     catalogue name, for rows that name none
//       "unit": "s",                             of every time in the file: s | ms | us
//       "cuda_graphs": true,                     optional: steps were launched as graphs, not kernel by kernel; default false
//       "device": {...},                         optional: facts of the machine, carried into the profile as they are
//       "gpu_spec": {...},                       optional: the entry (as in models/gpus/) of a GPU that the catalogue lacks
//       "llm_spec": {...},                       optional: the entry (as in models/llms/) of an LLM that the catalogue lacks
//       "rows": [{"kind": "decode", "batch": 16, "context": 8192, "time": 0.0102, "spread": 0.0001, "repeats": 20}, ...]
//     }
//
// CSV with a header; the columns are the keys of a row in any order, an empty cell is an absent key, and the time's unit is in
// its name: time_s, time_ms or time_us, and spread_s, spread_ms or spread_us beside it. `kind` is a column like any other.
//
// Keys of every row: kind, time (1 ns to a day), spread (>= 0: interquartile range, optional), repeats (>= 1), and where they
// differ from the file's: gpu, llm, tp (default 1), dtype (bf16 | fp8 | int8 | fp32, default bf16).
//
// kind           its keys (whole numbers)                         what was timed
// prefill        batch, tokens                                    a step over `batch` prompts of `tokens` tokens each
// decode         batch, context                                   a decode step of `batch` requests with `context` tokens in all
// mixed          batch, context, tokens, offset                   a decode step that also prefills `tokens` behind `offset`
// gemm           m, k, n                                          m rows through a k x n matrix
// prefill_attention  batch, tokens, heads, kv_heads, head_dim     causal attention of one layer over `batch` prompts
// decode_attention   batch, context, heads, kv_heads, head_dim    one layer, `context` tokens in all, from a paged KV cache
// launch         kernels, graph (0 | 1)                           launching `kernels` empty kernels: one by one, or as a graph
// copy           direction (h2d | d2h | both | d2d), bytes,       a copy; both: `bytes` each way at once, `time` is that of h2d
//                memory (pinned | pageable; none for d2d)         and `time_back` that of d2h
// kv_copy        direction (gather | scatter), blocks,            KV blocks of the cache into or out of one buffer on the device:
//                block_bytes, batched (0 | 1)                     a copy a block, or one kernel for all
// all_reduce     gpus, bytes                                      a sum over `gpus` tensors of `bytes` each
// alloc          bytes                                            allocating and freeing device memory
// context        -                                                creating a device context
// memory         bytes                                            (time 0) device memory that is usable with a context
//
// The profile table of the Aegaeon artifact is read as it is (columns model, gpu, l, b, n, p_med, d_med, ...): a row is a
// prefill of b prompts of l tokens and a decode step of b requests with l x b context tokens, each dropped by the rule below.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/gpu_spec.h"
#include "models/llm_spec.h"
#include "sim/fields.h"

namespace poolsim {

struct Measurement {
  std::string kind;
  std::string gpu;  // catalogue name
  std::string llm;  // catalogue name; of kernel rows, the LLM whose shapes they are, or empty
  std::int64_t tp = 1;
  std::string dtype = "bf16";
  std::map<std::string, std::int64_t> sizes;   // the whole-number keys of its kind
  std::map<std::string, std::string> choices;  // direction and memory of copies
  double seconds = 0;
  double seconds_back = 0;  // copies both ways: the other direction
  double spread_s = 0;
  std::int64_t repeats = 1;
  std::string label;  // the model as the file names it: two labels may be one LLM
  std::string place;  // file:line or file: /rows/7, for messages
};

// Rows that a rule took out, by rule.
struct Dropped {
  std::string rule;
  std::int64_t points = 0;
};

struct MeasurementFile {
  std::string path;
  std::string hash;  // 16 hex digits over its bytes
  std::string engine;
  std::string date;
  bool cuda_graphs = false;
  Json device;
  std::optional<GpuSpec> gpu_spec;
  std::optional<LlmSpec> llm_spec;
  std::vector<Measurement> rows;
  std::vector<Dropped> dropped;
};

// Throws InputError that names file and line or JSON path: a missing column or key, NaN, zero repeats, an unknown unit or kind, a
// GPU or LLM that is not in the catalogue.
MeasurementFile ReadMeasurements(const std::string& path);

}  // namespace poolsim
