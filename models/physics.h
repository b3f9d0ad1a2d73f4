// The physics form: a step from the sizes of its matrices, with a few numbers per GPU that all LLMs share.
//
// All formulas are for one GPU of an instance of shape (tp, pp, ep), in seconds, with F the peak rate of the weights' precision
// (BF16, or FP8 and INT8 where both weights and GPU have it; otherwise weights are widened on the way and F is the BF16 rate), BW
// the peak memory bandwidth, w bytes a weight, v bytes a number of the KV cache. R rows (tokens) go through each layer, of which
// D are decoding requests with T context tokens in all; S sequences yield a token (decoding requests, prompts, last chunks).
//
// clang-format off
//   gemm(R,K,N)  = roof( multiply(R,K,N) / (compute F),  (w K N + 2 R (K + N)) / (memory BW) ) + gemm_us
//   multiply     = padded: 2 (pad(R) + padding_rows) K N        pad: up to 64, else up to the next multiple of 128
//                  waves:  least over tile shapes (m, n; efficiency e) of 2 m n K SM waves / e
//                          x = ceil(R/m) ceil(N/n) / SM waves on SM multiprocessors count as (1 - wave) x + wave ceil(x): split
//                          kernels share a part of a last wave. SM not known (a CPU): 2 R K N
//   roof(a,b)    = (a^p + b^p)^(1/p), p = roofline_power: arithmetic and memory overlap, but not perfectly; 0: max(a, b)
//   layer        = gemms of attention and MLP + elementwise_bytes R h / (memory BW) + elementwise_us + attention + collectives
//     GQA        = gemm(R, h, (q + 2 kv)/tp) + gemm(R, q/tp, h)               q = heads x head_dim, kv = kv_heads x head_dim
//     MLA        = gemm(R, h, q_rank + kv_rank + rope) + gemm(R, q_rank, q/tp) + gemm(R, kv_rank, heads (nope + v)/tp)
//                  + gemm(R, heads v/tp, h)                                   weights of the latents are on every GPU
//     MLP        = gemm(R, h, 2 i/tp) + gemm(R, i/tp, h)                      i wide; without a gate gemm(R, h, i/tp) first
//     experts    = grouped gemms over the distinct experts of R rows, E (1 - (1 - k/E)^R) of E with k a row, divided by ep, each
//                  with its share of the R k rows, at `experts` instead of `compute`; sliced by tp where ep = 1
//                  + the shared experts as an MLP + the router
//   attention    = P heads (qk + v)/tp / (attention F) + attention_us         P = sum of l^2 over prompts (causal: half of the
//                                                                             pairs, two FLOPs a multiply-add); a chunk of n tokens
//                                                                             at offset o: n (2 o + n)
//                + (T + kv_floor_tokens D) max(bytes a token / (kv_read BW), FLOPs a token / (attention F))
//                                                                             GQA reads 2 kv/tp v bytes; MLA its latent, whole
//   collectives  = 2 all-reduces of 2 R h bytes among tp GPUs (latency + bytes / rate by group size: catalogue or profile); with
//                  ep > tp the MLP's is an all-to-all instead: every row to the GPUs of its experts and back
//   GPU          = L layer + gemm(S, h, V/tp) + (pp - 1) hand-overs of 2 R h bytes
//   host         = L host_per_layer (layers with experts: host_per_moe_layer); none with cuda_graphs
//   step         = max(host, GPU) + S V sampling_bytes / (memory BW) + host_per_step + host_per_sequence S
// clang-format on
//
// q/tp is exact (tp divides the heads); key and value heads are divided rounding up, widths and V likewise. Elementwise bytes,
// sampling and host times are not divided: every GPU of the group runs norms and residuals on whole rows, and one of them
// samples. lm_head is bf16 whatever the weights are. Norms, biases and the lookup in the embedding are below 0.1 % of a step.
//
// Pipeline parallelism: the S sequences of a step form m = min(S, pp) micro-batches of R / m rows that follow one another through
// the stages, the slowest of which has ceil(L / pp) layers. A decode run keeps pp micro-batches in flight: its step is pp turns
// of the slowest stage, and lm_head once per micro-batch; fewer micro-batches wait for one another: L layers. A step without
// decoding requests starts with an empty pipeline: m + pp - 1 turns (one micro-batch: L layers). Data-parallel attention (ep >
// tp): the ep / tp groups share a micro-batch's sequences likewise, and its experts see all of its rows.
//
// The maximum of host and GPU is taken over the whole step, so that for a fixed batch a decode step is the maximum of two lines
// in T: the host's, which is flat, and the GPU's. A chunk's attention grows by the same amount from one equal chunk to the next:
// that is per_chunk. Each line's coefficients are rounded to whole picoseconds once.
//
// Sources: roofline (Williams et al. 2009); tile and wave quantisation (NVIDIA, Matrix Multiplication Background); numbers from
// the profiles of models/profiles/, each with its error table. Known limits: sliding windows are priced as full attention, so
// contexts beyond the window are overpriced; experts are taken to be chosen uniformly and to be balanced among GPUs; with
// cuda_graphs prefills and mixed steps pay no host time per layer either; latent attention, experts over several GPUs and
// pipelines have been held against no measurement.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/catalogue.h"
#include "sim/cost_model.h"

namespace poolsim {

// The numbers of the formulas above for one GPU and engine; efficiencies are fractions of the peak rates.
struct PhysicsNumbers {
  double compute = 0.80;               // of the BF16 rate in a GEMM
  double compute_8bit = 0.50;          // of the FP8 or INT8 rate in a GEMM
  double experts = 0.40;               // of the BF16 rate in the grouped GEMMs of experts; other rates in proportion
  double memory = 0.82;                // of BW in a GEMM and elementwise
  double attention = 0.40;             // of the BF16 rate in the attention of a prefill
  double kv_read = 0.656;              // of BW when KV is read
  std::string rows = "padded";         // how rows become work: padded | waves
  double padding_rows = 60;            // padded: rows that every GEMM pays on top of its padding
  double wave = 0;                     // waves: share of an unfilled last wave that is lost
  double roofline_power = 0;           // how hard the roof's corner is; 0: a maximum
  double gemm_us = 0;                  // fixed time of a GEMM
  double attention_us = 0;             // fixed time of a layer's attention
  double elementwise_us = 0;           // fixed time of the norms, rotations, activations and sums of a layer
  double kv_floor_tokens = 60;         // tokens of KV that every decoding request pays on top of its context
  double elementwise_bytes = 20;       // bytes moved per row, layer and hidden unit, outside GEMMs and attention
  double sampling_bytes = 30;          // bytes moved per logit
  bool cuda_graphs = true;             // a step is launched as a whole: no host time per layer
  double host_us_per_layer = 200;      // time the host takes to launch one dense layer, without graphs; it binds small batches
  double host_us_per_moe_layer = 900;  // the same of a layer with experts
  double host_us_per_sequence = 8;     // host time per sequence and step, never hidden
  double host_ms_per_step = 1.0;       // host time per step, never hidden
  double network_gb_per_s = 50;        // per GPU and direction, between nodes: one 400 Gbit/s adapter a GPU, as in DGX H100
  double network_us = 15;              // latency of a message between nodes
};

// Some of the numbers: those that are set replace others.
struct PhysicsOverrides {
  std::optional<double> compute, compute_8bit, experts, memory, attention, kv_read, padding_rows, wave, roofline_power, gemm_us,
      attention_us, elementwise_us, kv_floor_tokens, elementwise_bytes, sampling_bytes, host_us_per_layer, host_us_per_moe_layer,
      host_us_per_sequence, host_ms_per_step, network_gb_per_s, network_us;
  std::string rows;         // "": not set
  std::string cuda_graphs;  // "": not set; "on" | "off"

  void Describe(Fields& f);
  void ApplyTo(PhysicsNumbers& numbers) const;
};

// What a profile says of one GPU, or of every GPU that has no row of its own ("*").
struct PhysicsRow : PhysicsOverrides {
  std::string gpu;
  std::vector<AllReduceFit> all_reduce;  // measured with the profile; empty: the catalogue's
  Json
      intervals;  // by number: {low, high, identified}: 95 % confidence interval of a fitted number, and whether the data tell it

  void Describe(Fields& f);
};

// The section "physics" of a profile: `numbers` hold for all its GPUs, and a GPU's row replaces some.
struct PhysicsSection {
  PhysicsOverrides numbers;
  std::vector<PhysicsRow> gpus;

  void Describe(Fields& f);
};

// A scenario's parameters. Any number that is set replaces the profile's, on every GPU.
struct PhysicsParams : PhysicsOverrides {
  // "modern" is the default because new fleets run engines with CUDA graphs, and because it holds for every GPU of the catalogue;
  // "vllm-0.5.1-eager" is what the published measurements ran, GPU by GPU, and knows only those GPUs. A path to a profile that
  // `poolsim calibrate` wrote ends in .json.
  std::string profile = "modern";

  void Describe(Fields& f);
};

struct ResolvedPhysics {
  PhysicsNumbers numbers;
  std::vector<AllReduceFit> all_reduce;  // of the profile's row; empty: the catalogue's
};

// Throws InputError, naming the GPUs there are, when the profile has neither the GPU nor "*".
ResolvedPhysics ResolvePhysics(const PhysicsParams& params, const std::string& gpu);

// Prices of the formulas above. Throws InputError when the LLM cannot run in this shape (LlmSpec::CheckShape), or when tp is
// larger than any all-reduce that the GPU has figures for. `physics`: efficiencies in (0, 1], the others >= 0.
std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, const Shape& shape, const Precision& precision,
                                           const ResolvedPhysics& physics);
// At the checkpoint's precision on tp GPUs.
std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, int tp, const PhysicsNumbers& numbers);

// Single kernels, in seconds, as the formulas above price them: what a microbenchmark measures.
double GemmSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, double rows, std::int64_t k, std::int64_t n);
// One layer's causal attention; sum_l2 = sum of the squared lengths; width = heads x head_dim.
double PrefillAttentionSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, double sum_l2, std::int64_t width);
// One layer's attention of `batch` requests over `context` tokens; kv_width = kv_heads x head_dim.
double DecodeAttentionSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, std::int64_t batch, std::int64_t context,
                              std::int64_t kv_width);

}  // namespace poolsim
