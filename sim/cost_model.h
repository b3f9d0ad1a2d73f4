// The port that prices what the engine executes. Prices are whole picoseconds, rounded once; from there on all arithmetic is
// integer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/fields.h"
#include "sim/time.h"

namespace poolsim {

// base + per_token x T, in ps, with T the context tokens of the batch (prompt + generated so far, summed over its requests).
struct Line {
  TimePs base = 0;
  TimePs per_token = 0;
  TimePs per_chunk = 0;  // added once for every equal chunk that went before in the same run (0 in a pure decode step)
  TimePs At(std::int64_t context_tokens, std::int64_t chunk_index = 0) const {
    return base + per_token * context_tokens + per_chunk * chunk_index;
  }
};

// The price of a step for a fixed batch: the maximum of two lines (host and GPU, or a fit and its floor).
struct StepPrice {
  Line a;
  Line b;
  TimePs At(std::int64_t context_tokens, std::int64_t chunk_index = 0) const {
    return std::max(a.At(context_tokens, chunk_index), b.At(context_tokens, chunk_index));
  }
};

// A piece of a prompt that is prefilled in a mixed step: `tokens` rows behind `offset` that are already in the KV cache.
struct Chunk {
  std::int64_t offset = 0;
  std::int64_t tokens = 0;
};

// How the GPUs of one instance share an LLM. tp GPUs hold slices of every matrix (tensor parallelism, TP) inside one node; pp
// such groups hold consecutive layers (pipeline parallelism, PP); the experts of a mixture are spread whole over ep GPUs (expert
// parallelism, EP; 1: experts are sliced by tp like any matrix). With ep > tp the ep / tp groups share an instance's requests
// evenly (data-parallel attention).
struct Shape {
  int tp = 1;
  int pp = 1;
  int ep = 1;
  int node_gpus = 8;  // GPUs of a node: a group of tp, or of ep, that is larger crosses the network, and so do pipeline stages

  int gpus() const { return std::max(tp, ep) * pp; }
  bool operator==(const Shape&) const = default;
};

// Of weights and KV cache. Empty: what the LLM's checkpoint says.
struct Precision {
  std::string weights;  // bf16 | fp8 | int8 | int4
  std::string kv;       // bf16 | fp8
  bool operator==(const Precision&) const = default;
};

// What one LLM costs on one kind of GPU in one shape and precision. Immutable and shared between threads.
class ModelCost {
 public:
  virtual ~ModelCost() = default;
  // Prefill of `sequences` prompts in one step; sum_l = sum of lengths, sum_l2 = sum of their squares. > 0 ps.
  virtual TimePs Prefill(std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const = 0;
  // One decode step for `batch` requests. The result is > 0 ps for every context.
  virtual StepPrice DecodeStep(std::int64_t batch) const = 0;
  // One step that decodes `batch` requests (may be 0) and prefills `chunks`. per_chunk is set when there is one chunk: the price
  // of the j-th chunk of that size in a row, counted from the given offset, is At(T, j).
  virtual StepPrice MixedStep(std::int64_t batch, std::span<const Chunk> chunks) const = 0;

  std::int64_t weight_bytes = 0;        // per GPU of the instance, on the fullest
  std::int64_t kv_bytes_per_token = 0;  // per GPU of the instance, on the fullest
  std::int64_t context_tokens = 0;      // longest context the LLM supports; 0: not limited
};

// Facts of a GPU that the engine's books need.
struct GpuFacts {
  std::string name;  // catalogue name
  std::int64_t memory_bytes = 0;
  std::int64_t pcie_bytes_per_s = 0;  // per direction
  std::int64_t hbm_bytes_per_s = 0;
  std::optional<double> board_power_w;   // the most that the board draws
  std::optional<double> idle_power_w;    // with a context, without work
  std::optional<double> price_per_hour;  // [USD]
};

// A registered form of the cost model.
class CostModel {
 public:
  virtual ~CostModel() = default;
  // Throws InputError when GPU or LLM is unknown, when the form has no numbers for the pair, or when the LLM cannot run in this
  // shape or precision.
  virtual std::unique_ptr<ModelCost> Bind(const std::string& gpu, const std::string& llm, const Shape& shape,
                                          const Precision& precision) const = 0;
  // On tp GPUs of one node, at the checkpoint's precision.
  std::unique_ptr<ModelCost> Bind(const std::string& gpu, const std::string& llm, int tp) const {
    return Bind(gpu, llm, Shape{.tp = tp}, {});
  }
};

// Facts about catalogue entries, for scenarios and listings. Defined in models/catalogue.cc.
GpuFacts FindGpu(const std::string& name);          // throws InputError for an unknown name; aliases are allowed
std::string CanonicalLlm(const std::string& name);  // catalogue name of an LLM or alias, case-insensitive; throws InputError
std::vector<std::string> GpuNames();
std::vector<std::string> LlmNames();
Json GpuListing();  // rows for `poolsim list gpus`: name, memory_gb, bandwidth, rates, power, price, sources
Json LlmListing();  // rows for `poolsim list llms`: name, aliases, parameters, weights_gb, kv_bytes_per_token, context

Json ProfileListing();  // rows for `poolsim list profiles`: name, forms, gpus, help, source, date

struct CostModelEntry {
  std::string name;
  std::string help;
  // `params` is the scenario's block for this form; `file` and `path` name it in messages.
  std::function<std::unique_ptr<CostModel>(const Json& params, const std::string& file, const std::string& path)> create;
  std::function<Json()> schema;
  std::function<Json(const Json& params)> resolve;  // params with every default filled in
};

}  // namespace poolsim
