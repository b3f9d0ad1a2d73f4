// What no policy gets around: the GPU time and the memory that requests take at least, and the service that they can have at
// best.
//
// Requests name models by the numbers of the pool. An instance of a model has the shape that the pool's policy gives it: its own,
// where the policy brings its GPUs (owns_fleet) and a rule of the scenario asks for one, else the pool's.
//
// All bounds take the prices as they are: a step is never cheaper for more requests, more tokens or more context, and a prefill
// costs a fixed amount per unit of the sum of squared lengths. Both forms of the cost model are so.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sim/report.h"
#include "sim/request_source.h"
#include "sim/simulation.h"

namespace poolsim {

// ------------------------------------------------------------------------------------------------------------ GPU time

// GPU-seconds in which GPUs prefill and decode, by model. In a run that delivers every token of the requests its policy spends at
// least this much, late or not, however long it takes; switches, copies and idle time come on top.
//
// Prefill. A step that prefills n tokens with the sum K of squared lengths takes at least beta n + delta K, where delta is what a
// unit of K costs and beta the least of (price - delta K) / n over all n that fit into the KV memory of an instance with this
// model alone. So the prompts l take beta sum l + delta sum l^2.
//
// Decode. A step of B requests with T tokens of context takes at least alpha B + gamma T, where for any gamma alpha is the least
// of (step - gamma T) / B over all B and T that fit into that memory. All outputs together are D steps of one request (the first
// token of each comes from its prefill) with S tokens of context, so they take alpha D + gamma S; gamma is the one for which that
// is most. Where memory limits batches this is the price of a full one: with base + per_token T for any batch, and C tokens that
// fit, (base / C + per_token) S.
//
// A token that comes out of a prefill, since its request had lost its KV, is not cheaper: alpha + gamma k is at most
// beta k + delta k^2 for every context k that occurs.
//
// Between two batch sizes above 128 the bound takes the price of the smaller for the larger: it is low by less than 1 %.
//
// The sum holds for policies that prefill and decode in separate steps. A mixed step (chunked prefill) can hide either behind the
// other: for policies that make such steps only the decode part holds, while none of their requests loses its KV.
struct LeastWork {
  std::vector<double> prefill;
  std::vector<double> decode;
  double total() const;
};
LeastWork LeastWorkOf(const PreparedPool& pool, std::span<const RequestSpec> requests);

struct GpuBound {
  std::vector<double> models;  // by model: real numbers, whose sum is `gpus` unless said otherwise
  double gpus = 0;
  std::int64_t whole = 0;  // in whole instances: of each model where the policy gives it instances of its own, else together
};
// The GPUs that do so much work in `seconds`, always busy. This is a mean over the span: demand that swings, and arrivals that
// come by chance, take more, and work that is left over at its end is done with what comes after.
GpuBound FluidBound(const PreparedPool& pool, const LeastWork& work, double seconds);

// -------------------------------------------------------------------------------------------------------------- memory
//
// KV in flight of a model is, by Little's law, rate x the mean of (context x time) of its requests, where the time is that of a
// request that is alone: its prefill, with the KV of its prompt, and its decode steps at a batch of one, with the context
// half-way through. Other requests only make it longer.

// GPUs that hold every model's weights once and its KV in flight: what policies need that never take weights off a GPU. Of model
// m (weights + KV in flight) / usable memory of a GPU, over the GPUs of its instance.
GpuBound ResidentMemoryBound(const PreparedPool& pool, std::span<const RequestSpec> requests, double seconds);
// GPUs of policies that switch: one instance at least, and for every model the KV in flight, beside its weights alone: while it
// is on a GPU it leaves (usable memory - weights) for KV. `models` are these; `gpus` is their sum, or that one instance.
GpuBound SwitchingMemoryBound(const PreparedPool& pool, std::span<const RequestSpec> requests, double seconds);

// --------------------------------------------------------------------------------------------------------------- reach

// The service that requests have alone: each runs on an idle instance of its model, whose weights are on the GPU, with a prefill
// in one step. What share of it misses its targets there misses them on any number of GPUs under any policy.
struct Reach {
  struct Model {
    std::int64_t requests = 0;
    std::int64_t tried = 0;  // of them: at most kReachSample, evenly spaced in order of arrival
    Attainment best;         // of those that were tried
    Attainment most;         // the same, or where not all were tried three standard errors more
    // What goes wrong, as shares of those that were tried.
    double late_prefill = 0;  // their prefill takes longer than the TTFT target
    double slow_steps = 0;    // their steps, half-way through and alone, take longer than the TBT target
    double no_memory = 0;     // they do not fit into KV memory
    double given_up = 0;      // their clients give up
    // Of those that were tried, on average.
    double prompt_tokens = 0;
    double prefill_s = 0;
    double step_s = 0;
    double ttft_slo_s = 0;
    double tbt_slo_s = 0;
  };
  std::vector<Model> models;
  Attainment best;  // of all requests together
  Attainment most;
};
inline constexpr std::int64_t kReachSample = 2000;
Reach BestAttainment(const Scenario& scenario, const PreparedPool& pool, std::span<const RequestSpec> requests);

// Why the requests of one model (of all of them together: kNone) do not reach `share` of an attainment on any number of GPUs;
// empty when they may. `kind` is a member of Attainment, `name` what users call it.
std::string WhyOutOfReach(const Reach& reach, const PreparedPool& pool, double Attainment::*kind, const std::string& name,
                          double share, ModelId model = kNone);

}  // namespace poolsim
