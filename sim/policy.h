// The ports of a policy: Placement, Router, Scheduler, and the read-only view of the cluster that they decide on.
//
// A policy decides, the engine executes. A policy never changes the cluster: it returns a plan or a grant, and the engine checks
// it against memory and membership before applying it. A grant that the books do not allow ends the program with the policy's
// name, the simulated time and what was wrong: it is a bug of the policy, not of the input.
//
// What a policy may not know it cannot see: a RequestView has no output length. A policy that needs one (an oracle) says so when
// it registers and gets an Oracle in its context.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/archive.h"
#include "sim/cost_model.h"
#include "sim/fields.h"
#include "sim/forecast.h"
#include "sim/ids.h"
#include "sim/registry.h"
#include "sim/time.h"

namespace poolsim {

// --------------------------------------------------------------------------------------------------------------- facts

struct ModelFacts {
  std::string name;
  std::string llm;  // catalogue name
  TimePs ttft_slo = 0;
  TimePs tbt_slo = 0;
  std::optional<Shape> shape;  // of instances of its own, where the scenario asks for another than the pool's
  Precision precision;
  Forecast forecast;
};

enum class Role : std::uint8_t { kBoth, kPrefill, kDecode };

struct InstanceFacts {
  Shape shape;  // its node_gpus are filled in by the engine
  Role role = Role::kBoth;
  std::vector<ModelId> models;      // that may run here, sorted; empty: every model
  std::vector<ModelId> resident;    // weights on the GPU at the start, the first one loaded; they never leave when `pinned`
  bool pinned = false;              // all of `resident` stays; the instance never switches (dedicated, multiplexed)
  std::int64_t prefetch_bytes = 0;  // GPU memory set aside for prefetched weights, per GPU
  NodeId node = 0;                  // of its first GPU; filled in by the engine
};

// Prices that a policy may ask for: the same tables that the engine uses.
class PriceView {
 public:
  virtual ~PriceView() = default;
  // How the calls below name a shape. Numbers are dense, in the order in which shapes were first asked for.
  virtual ShapeId Id(const Shape& shape) const = 0;
  virtual TimePs Prefill(ModelId model, ShapeId shape, std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const = 0;
  virtual TimePs DecodeStep(ModelId model, ShapeId shape, std::int64_t batch, std::int64_t context_tokens) const = 0;
  // Loading the weights from the tier that a switch without prefetch finds them in (host cache): load only, and with engine
  // stages.
  virtual TimePs WeightLoad(ModelId model, ShapeId shape) const = 0;
  virtual std::int64_t WeightBytes(ModelId model, ShapeId shape) const = 0;      // per GPU
  virtual std::int64_t KvBytesPerToken(ModelId model, ShapeId shape) const = 0;  // per GPU
  // KV tokens of `model` that fit beside the weights of `resident` (which includes `model`).
  virtual std::int64_t KvCapacityTokens(ModelId model, ShapeId shape, const std::vector<ModelId>& resident) const = 0;
};

// ------------------------------------------------------------------------------------------------------------ placement

struct FleetFacts {
  std::string gpu;
  std::int64_t gpus = 0;  // GPUs given to the policy; 0: it brings its own (owns_fleet)
  std::int64_t gpus_per_node = 8;
  Shape shape;                    // of an instance unless a model asks for another
  std::int64_t usable_bytes = 0;  // memory per GPU for weights and KV

  // Instances of `shape` that the GPUs hold: as many as fit into each node, or one for every so many whole nodes.
  std::int64_t Instances() const {
    const std::int64_t size = shape.gpus();
    if (size > gpus_per_node) return gpus / gpus_per_node / (size / gpus_per_node);
    return gpus / gpus_per_node * (gpus_per_node / size) + gpus % gpus_per_node / size;
  }
};

class Placement {
 public:
  virtual ~Placement() = default;
  // The instances to own from the start. The engine gives them GPUs node by node in this order: those of one node's GPUs or fewer
  // lie in one node, larger ones take whole nodes. Throws InfeasibleError when the models cannot be placed.
  virtual std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>& models,
                                           const PriceView& prices) = 0;
  // Only of policies that register as `separable`, instead of Place: these instances, of one model, numbered anew, are a part of
  // what another object of the same policy and parameters has placed.
  virtual void Adopt(const std::vector<InstanceFacts>& part) { (void)part; }
};

// ----------------------------------------------------------------------------------------------------------------- views

enum class KvPlace : std::uint8_t { kNowhere, kGpu, kHost, kMoving };

struct RequestView {
  std::int64_t sequence = 0;  // number of the request in order of arrival
  ModelId model = kNone;
  TimePs arrival = 0;
  std::int32_t prompt_tokens = 0;
  std::int32_t generated = 0;  // tokens so far; of one that is retried after a failure, since then
  std::int32_t prefilled = 0;  // chunked prefill: tokens whose KV is there
  KvPlace kv = KvPlace::kNowhere;
  std::int64_t context() const { return std::int64_t{prompt_tokens} + generated; }
};

struct BatchView {
  ModelId model = kNone;            // kNone: there is no batch of that label
  std::int64_t size = 0;            // requests, those whose KV is still on its way included
  std::int64_t context_tokens = 0;  // of all of them
};

class ClusterView {
 public:
  virtual ~ClusterView() = default;
  virtual TimePs now() const = 0;
  virtual const std::vector<ModelFacts>& models() const = 0;
  virtual const std::vector<InstanceFacts>& instances() const = 0;
  virtual const PriceView& prices() const = 0;

  // Everything below is exact at now(), also in the middle of a run of steps.
  virtual RequestView request(RequestId r) const = 0;
  // The model whose steps may run at once; during a switch already the new one; kNone before the first load.
  virtual ModelId loaded(InstanceId i) const = 0;
  // Weights on the GPU: loaded or kept beside it. A prefetched model is not resident yet.
  virtual bool resident(InstanceId i, ModelId m) const = 0;
  virtual bool busy(InstanceId i) const = 0;
  // Whether the instance takes requests: it has not failed and is not being drained. And how many do not.
  virtual bool up(InstanceId) const { return true; }
  virtual std::int64_t down() const { return 0; }
  virtual BatchView batch(InstanceId i, int label) const = 0;
  // Whether at least one member's KV is on the GPU. Looks at the members one by one, which `batch` does not.
  virtual bool on_gpu(InstanceId i, int label) const = 0;
  // KV tokens of `m` that an instance can hold now (with its present weights), and that are still free.
  virtual std::int64_t kv_capacity_tokens(InstanceId i, ModelId m) const = 0;
  virtual std::int64_t kv_free_tokens(InstanceId i, ModelId m) const = 0;
  // `tokens` rounded up to whole KV blocks: what they really take.
  virtual std::int64_t kv_rounded_tokens(std::int64_t tokens) const = 0;
  // When the last step (prefill or decode) ended on the instance; 0 before the first.
  virtual TimePs last_step_end(InstanceId i) const = 0;
  // Of the grant that ended last: time spent in its steps, and in the first of them; the label of the batch that made the last
  // one (kNone: it was no decode).
  virtual TimePs last_run_time(InstanceId i) const = 0;
  virtual TimePs last_run_first_step(InstanceId i) const = 0;
  virtual int last_run_label(InstanceId i) const = 0;
};

// What an oracle may ask.
class Oracle {
 public:
  virtual ~Oracle() = default;
  virtual std::int32_t output_tokens(RequestId r) const = 0;
};

// ---------------------------------------------------------------------------------------------------------------- router

class Router {
 public:
  virtual ~Router() = default;
  // Where an arriving request is prefilled: an instance with role both or prefill that may run the model. Also called for a
  // request that lost its KV on an instance that cannot prefill, and for one whose instance has failed or is drained (of role
  // both also when its KV is on the host, ready to decode). While some instance is not up it may be kNone, or one that is not up:
  // the request then waits with the engine, and is asked for again whenever something fails, is drained or comes back.
  virtual InstanceId RouteArrival(RequestId r, const ClusterView& view) = 0;
  // Where a request decodes after its prefill on an instance with role prefill. Called when its KV has left that GPU, and when
  // its decode instance has failed or is drained and its KV is on the host. The same holds where nothing suitable is up.
  virtual InstanceId RouteHandover(RequestId, const ClusterView&) { return kNone; }
};

// ------------------------------------------------------------------------------------------------------------- scheduler

// What an instance does next. Labels name batches of one instance; the policy chooses them (small integers from 0).
struct Grant {
  enum class Kind : std::uint8_t { kIdle, kWait, kPrefill, kDecode, kMixed, kSwitch };

  // How much of a weight load a switch may hide.
  enum class Hiding : std::uint8_t {
    kNothing,
    kPrefetched,  // what the copy engine has really brought into the prefetch buffer
    kCredit,      // the authors' simulator: all time spent in steps since the last switch, memory and link ignored
  };

  struct Piece {
    RequestId request = kNone;
    std::int32_t tokens = 0;  // of its prompt, from where the last piece ended
  };
  struct Join {
    RequestId request = kNone;
    int label = 0;
  };

  Kind kind = Kind::kIdle;
  TimePs until = 0;  // kWait: asked again then, or earlier when a request comes in
  // Membership, applied first, for every kind: a request leaves its batch (if it has one) and joins the named one.
  std::vector<Join> joins;
  // Batches whose KV leaves the GPU for the host when the grant starts (not those that it runs).
  std::vector<int> evict;
  // Batches whose KV is thrown away: their requests leave them and need a prefill again (or fail, when they have outgrown the
  // instance).
  std::vector<int> drop;

  // kPrefill: prompts of one model, in one step, without KV so far; they join batch `label` at its end (role both).
  std::vector<RequestId> requests;
  int label = 0;

  // kDecode: batches that take turns, a step each, in this order; their models are resident. Members whose KV is on the host are
  // fetched first. Ends at the first completion, when KV runs out, when `quota` is reached, or at the step boundary after a
  // preemption.
  std::vector<int> batches;
  TimePs quota = kNever;           // the run ends at the first step boundary at which its steps took this long; one step at least
  bool quota_after_first = false;  // the quota's clock starts after the first step
  // Any kind but idle: weights to bring into the prefetch buffer meanwhile, if they fit.
  ModelId prefetch = kNone;

  // kMixed: decode steps of batch `label` (may be empty) that carry pieces of prompts; with one piece, up to `steps` of that size
  // in a row. A prompt that is complete joins batch `label`.
  std::vector<Piece> pieces;
  std::int64_t steps = 1;

  // kSwitch: make `model` the loaded one. `keep`: weights that stay on the GPU beside it.
  ModelId model = kNone;
  std::vector<ModelId> keep;
  Hiding hiding = Hiding::kNothing;
  TimePs least = 0;  // a switch never takes less than this

  void State(Archive& a) {
    a(kind, until, joins, evict, drop, requests, label, batches, quota, quota_after_first, prefetch, pieces, steps, model, keep);
    a(hiding, least);
  }
  void Clear() {
    kind = Kind::kIdle;
    until = 0;
    joins.clear();
    evict.clear();
    drop.clear();
    requests.clear();
    label = 0;
    batches.clear();
    quota = kNever;
    quota_after_first = false;
    prefetch = kNone;
    pieces.clear();
    steps = 1;
    model = kNone;
    keep.clear();
    hiding = Hiding::kNothing;
    least = 0;
  }
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // Request r is now at instance i: to be prefilled (kv nowhere), or ready to decode (kv on the host). Either may have generated
  // tokens before, here (it was swapped out) or on an instance that has failed.
  virtual void OnQueued(RequestId r, InstanceId i, const ClusterView& view) = 0;
  // r was taken out of its batch because KV memory ran out. Its KV is on its way to the host (swap; OnQueued follows when it is
  // there), or nowhere (recomputation; it is prefilled again from `context()` tokens). Follows only for instances that can
  // prefill: elsewhere the request is routed anew as an arrival.
  virtual void OnPreempted(RequestId r, InstanceId i, const ClusterView& view) = 0;
  // r is gone from instance i: finished, failed, or routed elsewhere after it lost its KV or its instance. Its id may be reused.
  virtual void OnRemoved(RequestId r, InstanceId i, const ClusterView& view) = 0;
  // The instance has nothing to do. `grant` comes cleared.
  virtual void Next(InstanceId i, const ClusterView& view, Grant& grant) = 0;
  // Whether a request that has just been queued at i ends the running decode at its next step boundary.
  virtual bool Preempts(RequestId, InstanceId, const ClusterView&) { return true; }
  // Instance i takes no requests any more: it has failed, and all of its requests have been removed and its weights are gone; or
  // it is drained, and what runs there goes on. While they are removed it is no longer up. And it takes requests again: empty,
  // but for weights that are pinned.
  virtual void OnDown(InstanceId, const ClusterView&) {}
  virtual void OnUp(InstanceId, const ClusterView&) {}
};

// ------------------------------------------------------------------------------------------------------- a named policy

// A named policy is the three parts, which share what they know. They are separate ports so that a part can be written, and
// tested, alone.
class Policy : public Placement, public Router, public Scheduler {
 public:
  // For checkpoints: all that has changed since Place (or Adopt), with a(members...) both ways, and true. A policy that leaves
  // this out runs, but not with --checkpoint.
  virtual bool State(Archive& a) {
    (void)a;
    return false;
  }
};

struct PolicyContext {
  std::uint64_t seed = 1;
  const Oracle* oracle = nullptr;  // only for policies that registered as oracles
};

struct PolicyEntry {
  std::string name;
  std::string help;             // one line
  bool oracle = false;          // sees output lengths
  bool owns_fleet = false;      // brings its own number of GPUs instead of fleet.gpus (dedicated)
  bool needs_forecast = false;  // Placement looks at ModelFacts::forecast
  // Every instance runs one model and what happens on those of one model has no bearing on the others, so that each model, or
  // each of several groups of a model's instances (cells), is simulated apart. Host memory for KV is divided by GPUs; that
  // instances of different models lie in one node and may share an uplink (switch.gpus_per_link) is left out.
  bool separable = false;
  // Weights never leave a GPU: all models of an instance are there from the start.
  bool keeps_weights = false;
  // What planning may set, as a parameter of this name, to a whole number; null: nothing.
  const char* prefill_param = nullptr;    // instances that only prefill, of all that the fleet holds
  const char* instances_param = nullptr;  // of a policy that owns its fleet: the instances of every model
  std::function<std::unique_ptr<Policy>(const Json& params, const std::string& file, const std::string& path,
                                        const PolicyContext&)>
      create;
  std::function<Json(const Json& params, const std::string& file, const std::string& path)> resolve;  // with defaults
  std::function<Json()> schema;
};

// The entry of a policy class P with a nested struct P::Params (Describe) and a constructor P(Params, PolicyContext).
template <class P>
PolicyEntry MakePolicyEntry(std::string name, std::string help) {
  PolicyEntry entry;
  entry.name = std::move(name);
  entry.help = std::move(help);
  entry.create = [](const Json& params, const std::string& file, const std::string& path, const PolicyContext& context) {
    typename P::Params p;
    ReadStruct(params, file, path, p);
    return std::make_unique<P>(std::move(p), context);
  };
  entry.resolve = [](const Json& params, const std::string& file, const std::string& path) {
    typename P::Params p;
    ReadStruct(params, file, path, p);
    return WriteStruct(p);
  };
  entry.schema = [] {
    typename P::Params p;
    return SchemaOfFields([&p](Fields& f) { p.Describe(f); });
  };
  return entry;
}

}  // namespace poolsim
