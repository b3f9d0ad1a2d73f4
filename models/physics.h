// The physics form: a step from the sizes of its matrices, with a few efficiencies per GPU that all models share.
//
// All formulas are for one GPU of a TP group of t GPUs, in seconds, with F the peak BF16 rate and BW the peak memory bandwidth of
// the GPU; weights and KV cache are 2 bytes a number. M rows (tokens) go through each layer, of which D are decoding requests
// with T context tokens in all; S sequences yield a token (decoding requests, prompts and chunks).
//
//   gemm(M,K,N)  = max( 2 (pad(M) + padding_rows) K N / (compute F),  2 (K N + M (K + N)) / (memory BW) )
//                  pad: up to 64, else up to the next multiple of 128
//   layer        = gemm(M, h, (q + 2 kv)/t) + gemm(M, q/t, h) + gemm(M, h, 2 i/t) + gemm(M, i/t, h)
//                  + elementwise_bytes M h / (memory BW) + attention + 2 all_reduce(2 M h)          (h hidden, i intermediate)
//   attention    = 2 P q/t / (attention F)                    prompts: P = sum of l^2; a chunk of n tokens at offset o: n (2 o +
//   n)
//                + (T + kv_floor_tokens D) 2 kv/t 2 / (kv_read BW)                 decoding: keys and values are read once, 2
//                bytes each
//   all_reduce   = latency + bytes / rate, by group size (catalogue); none for t = 1
//   GPU          = L layer + gemm(S, h, V/t)
//   host         = L host_per_layer
//   step         = max(host, GPU) + S V sampling_bytes / (memory BW) + host_per_step + host_per_sequence S
//
// q = heads x head_dim, kv = key_value_heads x head_dim. 2 P q FLOPs are causal attention: 4 q per pair of tokens, half of the
// pairs. q/t is exact (t divides the heads); key and value heads are divided rounding up, i and V likewise. Elementwise bytes,
// sampling and host times are not divided: every GPU of the group runs norms and residuals on whole rows, and one of them
// samples. Norms, biases and the lookup in the embedding are not priced: they are below 0.1 % of a step.
//
// The maximum is taken over the whole step, so that for a fixed batch a decode step is the maximum of two lines in T: the host's,
// which is flat, and the GPU's, whose slope is L 4 kv/t / (kv_read BW). A chunk's attention grows by 4 n^2 q/t / (attention F)
// per layer from one equal chunk to the next: that is per_chunk. Each line's coefficients are rounded to whole picoseconds once.
//
// Source of formulas and constants: a fit to the profiles of the Aegaeon artifact (vLLM 0.5.1, TP 1, at most 4096 tokens a step).
// Median errors on held-out dense points: decode 3.0-3.3 %, prefill 3.7-3.9 %; on a GPU left out of the fit 10 % and 7 %, with a
// tail to 28 % (p90). Known limits: on H20 the steps at batches of 64 and 128 are steeper than the padding says; the slope in T
// is weakly identified by contexts this short, and `attention` and `kv_read` may be set from kernel measurements instead; TP,
// mixed steps and the profile "modern" have not been held against measurements.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/catalogue.h"
#include "sim/cost_model.h"

namespace poolsim {

// The numbers of the formulas above for one GPU; efficiencies are fractions of the peak rates.
struct PhysicsNumbers {
  double compute = 0.80;            // of F in a GEMM
  double memory = 0.82;             // of BW in a GEMM and elementwise
  double attention = 0.40;          // of F in the attention of a prefill
  double kv_read = 0.656;           // of BW when KV is read
  double padding_rows = 60;         // rows that every GEMM pays on top of its padding
  double kv_floor_tokens = 60;      // tokens of KV that every decoding request pays on top of its context
  double elementwise_bytes = 20;    // bytes moved per row, layer and hidden unit, outside GEMMs and attention
  double sampling_bytes = 30;       // bytes moved per logit
  double host_us_per_layer = 0;     // time the host takes to launch one layer; it binds small batches
  double host_us_per_sequence = 8;  // host time per sequence and step, never hidden
  double host_ms_per_step = 1.0;    // host time per step, never hidden
};

// What a profile says of one GPU, or of every GPU that has no row of its own ("*").
struct ProfileRow {
  std::string gpu;
  double compute = 0;
  double memory = 0;
  double host_us_per_layer = 0;
  double host_us_per_sequence = 0;
  double host_ms_per_step = 0;

  void Describe(Fields& f);
};

// models/profiles/*.json with "form": "physics": an engine at one version, on the GPUs it was measured on.
struct PhysicsProfile {
  std::string form;
  std::string name;
  std::string help;
  std::string source;
  double padding_rows = 60;
  double kv_floor_tokens = 60;
  double attention_compute_ratio = 0.5;  // attention = ratio x compute
  double kv_read_ratio = 0.8;            // kv_read = ratio x memory
  double elementwise_bytes = 20;
  double sampling_bytes = 30;
  std::vector<ProfileRow> gpus;

  void Describe(Fields& f);
  // Throws InputError, naming the GPUs there are, when the profile has neither the GPU nor "*".
  PhysicsNumbers For(const std::string& gpu) const;
};

const std::vector<PhysicsProfile>& PhysicsProfiles();  // ordered by name

// A scenario's parameters. Any number that is set replaces the profile's, on every GPU.
struct PhysicsParams {
  // "modern" is the default because new fleets run engines with CUDA graphs, and because it holds for every GPU of the catalogue;
  // "vllm-0.5.1-eager" is what the published measurements ran, GPU by GPU, and knows only those GPUs.
  std::string profile = "modern";
  std::optional<double> compute;
  std::optional<double> memory;
  std::optional<double> attention;  // not set: the profile's ratio of `compute`, be that set here or there
  std::optional<double> kv_read;    // not set: the profile's ratio of `memory`
  std::optional<double> padding_rows;
  std::optional<double> kv_floor_tokens;
  std::optional<double> host_us_per_layer;
  std::optional<double> host_us_per_sequence;
  std::optional<double> host_ms_per_step;

  void Describe(Fields& f);
};

PhysicsNumbers ResolvePhysics(const PhysicsParams& params, const std::string& gpu);

// Prices of the formulas above. Throws InputError when tp does not divide the heads, or is larger than any all-reduce the GPU has
// figures for. `numbers`: efficiencies in (0, 1], the others >= 0.
std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, int tp, const PhysicsNumbers& numbers);

}  // namespace poolsim
