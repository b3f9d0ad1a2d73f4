// The engine, token by token: simple, slow, obviously right. What sim/engine.cc computes in closed form happens here one step at
// a time.
//
//   - Every decode step is an event. At its end each request of the batch gets a token, at that time, into a list.
//   - After the step plain conditions say whether the grant is over: its quota is used up, somebody has finished, the next step's
//     KV blocks do not fit, somebody asked for the step boundary, the chunks are done.
//   - KV books are sums over requests and transfers, computed anew whenever they are needed.
//   - Deadlines, gaps and service attainment are found by walking the lists of tokens when the run is over.
//
//   - An instance that fails stops where it is; what its requests have left is read off their KV and off the transfers.
//
// It shares with the engine the ports (policies, prices), the PCIe link, what fails when (Outages, IsStraggler) and nothing else.
// Request ids are never reused here.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "sim/engine.h"  // PoolSetup only
#include "sim/failures.h"
#include "sim/histogram.h"
#include "sim/link.h"
#include "sim/metrics.h"
#include "sim/policy.h"
#include "sim/prices.h"

namespace poolsim {

class TokenEngine final : public ClusterView, public Oracle {
 public:
  // Of one model; the members mean what ModelMetrics says.
  struct ModelTotals {
    std::int64_t requests = 0;
    std::array<std::int64_t, kOutcomes> outcomes{};
    std::int64_t prompt_tokens = 0;
    std::int64_t wanted_tokens = 0;
    std::int64_t output_tokens = 0;
    std::int64_t on_time_tokens = 0;
    std::int64_t on_time_requests = 0;
    std::int64_t smooth_requests = 0;
    double service = 0;
    std::int64_t switches = 0;
    std::vector<TimePs> ttft, tbt, tpot, e2e;
  };
  // What became of a request.
  struct Record {
    ModelId model = kNone;
    TimePs arrival = 0;
    std::int32_t prompt = 0;
    std::int32_t output = 0;
    Outcome outcome = Outcome::kPending;
    std::vector<TimePs> tokens;
    TimePs left = kNever;  // when it was over; kNever: unfinished
  };

  TokenEngine(PoolSetup setup, const Prices& prices, Placement& placement, Router& router, Scheduler& scheduler);

  // Requests in order of arrival, with the pool's model numbers. Throws std::logic_error when a grant cannot be carried out or a
  // book is broken.
  void Run(const std::vector<RequestSpec>& workload);

  const std::vector<Record>& records() const { return records_; }
  std::vector<ModelTotals> Totals() const;
  std::vector<Window> Windows() const;
  std::array<__int128, kActivities> activity{};  // GPU-time
  std::int64_t weight_bytes_moved = 0;
  std::int64_t kv_bytes_moved = 0;
  SwitchMetrics switching;  // without the histogram of latencies
  std::vector<TimePs> switch_latencies;
  FailureMetrics failures;
  __int128 ActiveModelTime() const;
  TimePs end() const { return now_; }
  std::int64_t steps() const { return steps_; }              // decode and mixed
  std::int64_t preemptions() const { return preemptions_; }  // for want of KV memory

  // ClusterView
  TimePs now() const override { return now_; }
  const std::vector<ModelFacts>& models() const override { return setup_.models; }
  const std::vector<InstanceFacts>& instances() const override { return facts_; }
  const PriceView& prices() const override { return prices_; }
  RequestView request(RequestId r) const override;
  ModelId loaded(InstanceId i) const override { return instances_[i].loaded; }
  bool resident(InstanceId i, ModelId m) const override;
  bool busy(InstanceId i) const override;
  bool up(InstanceId i) const override;
  std::int64_t down() const override;
  BatchView batch(InstanceId i, int label) const override;
  bool on_gpu(InstanceId i, int label) const override;
  std::int64_t kv_capacity_tokens(InstanceId i, ModelId m) const override;
  std::int64_t kv_free_tokens(InstanceId i, ModelId m) const override;
  std::int64_t kv_rounded_tokens(std::int64_t tokens) const override { return Blocks(tokens) * setup_.block_tokens; }
  TimePs last_step_end(InstanceId i) const override;
  TimePs last_run_time(InstanceId i) const override { return instances_[i].last_run_time; }
  TimePs last_run_first_step(InstanceId i) const override { return instances_[i].first_step; }
  int last_run_label(InstanceId i) const override { return instances_[i].last_run_label; }
  // Oracle
  std::int32_t output_tokens(RequestId r) const override { return records_[r].output; }

 private:
  double ServiceOf(const Record& r) const;
  enum class Place : std::uint8_t { kGpu, kLeaving, kHost, kComing };
  enum class Phase : std::uint8_t { kIdle, kWait, kBetween, kPrefill, kRun, kSwitch, kCopy, kDown };
  enum class Move : std::uint8_t { kWeights, kPrefetch, kBatchOut, kRequestOut, kIn, kHandover };

  struct Batch {
    InstanceId instance = kNone;
    int label = 0;
    ModelId model = kNone;
    Place place = Place::kGpu;  // of the members that step
    std::vector<RequestId> stepping;
    std::vector<RequestId> incoming;  // members whose KV is not on the GPU yet
  };
  using BatchPtr = std::shared_ptr<Batch>;

  struct State {
    InstanceId instance = kNone;
    bool live = true;
    KvPlace kv = KvPlace::kNowhere;  // unless it steps in a batch
    BatchPtr batch;
    bool stepping = false;
    bool prefilling = false;  // its blocks include the one for the token to come
    bool executing = false;
    bool cancelled = false;
    bool held = false;           // nobody who is up takes it
    std::int32_t generated = 0;  // tokens, since it was retried last
    std::int32_t prefilled = 0;
    std::int64_t hits = 0;       // by failures
    std::int64_t transfer = -1;  // that moves its KV alone
  };

  struct Transfer {
    std::int64_t number = 0;
    Move kind = Move::kIn;
    InstanceId instance = kNone;
    std::int64_t bytes = 0;  // KV per GPU, held at both ends until it is over
    std::vector<BatchPtr> batches;
    std::vector<RequestId> requests;
  };

  struct Instance {
    ShapeId shape = 0;
    int gpus = 1;
    int node_gpus = 1;  // of them, in its first node
    Role role = Role::kBoth;
    std::size_t link = 0;
    int lane = 0;
    double slowdown = 1;
    int away = 0;              // failures in force that keep it down
    int draining = 0;          // drains whose grace has not ended
    int weights_back = kNone;  // pinned, and loading after a failure: how many of its models have come back
    Phase phase = Phase::kIdle;
    TimePs phase_start = 0;
    ModelId loaded = kNone;
    std::vector<ModelId> resident;
    ModelId prefetched = kNone;
    bool prefetch_ready = false;
    std::int64_t prefetch_transfer = -1;
    bool switch_waits_for_prefetch = false;
    bool switch_loads_after_timer = false;
    TimePs switch_earliest_end = 0;
    bool switch_from_buffer = false;  // of the running switch: its weights come out of the prefetch buffer
    TimePs step_time_since_switch = 0;
    TimePs last_step_end = 0;
    TimePs last_run_time = 0;
    int last_run_label = kNone;
    std::vector<BatchPtr> batches;
    Grant grant;
    // The grant of steps that is running.
    std::vector<BatchPtr> parts;
    bool mixed = false;
    StepPrice mixed_price;
    std::int64_t steps_left = 0;
    std::int64_t done = 0;  // steps so far
    TimePs spent = 0;       // in them
    TimePs first_step = 0;
    TimePs step_start = 0;
    TimePs step_end = 0;
    bool stop = false;       // at the end of the present step
    bool stop_next = false;  // at the end of the step after the one that ends now
  };

  struct Node {
    std::vector<std::pair<ModelId, std::int64_t>> cache;  // weights and their bytes, least recently loaded first
    std::vector<std::int32_t> links;
    TierRates loading{};
    int cache_away = 0;            // failures of the cache in force
    std::size_t first = 0;         // of an instance over several nodes, whose caches hold the same
    std::vector<InstanceId> here;  // that have GPUs here
  };

  void PlaceInstances(Placement& placement);
  void ExpectFailures(const std::vector<std::int64_t>& first_gpus, const std::vector<std::int64_t>& uplinks);
  void OnInstance(InstanceId i);
  void OnLink(std::size_t link);
  void OnOutage();
  bool OutagesMatter(bool more_requests) const;
  bool NextTimeout(TimePs* at, RequestId* who) const;
  void OverdueAtScheduling();
  void Dispatch(InstanceId i);
  bool Start(InstanceId i, Grant& grant);
  bool StartPrefill(InstanceId i, const Grant& grant);
  bool StartDecode(InstanceId i, const Grant& grant);
  bool StartMixed(InstanceId i, const Grant& grant);
  bool StartSwitch(InstanceId i, const Grant& grant);
  void StartPrefetch(InstanceId i, ModelId m);
  void SwitchGoesOn(InstanceId i);
  void FinishSwitch(InstanceId i);
  void BeginStep(InstanceId i);
  void EndStep(InstanceId i);
  bool NextStepFits(InstanceId i) const;
  void AskForBoundary(InstanceId i);
  bool StepEndsNow(const Instance& inst) const { return inst.phase == Phase::kRun && inst.step_end <= now_; }
  void CutShort(InstanceId i);  // what it is doing counts until now
  // Failures.
  void Fail(InstanceId i, FailureKind kind);
  void DropTransfers(InstanceId i);
  void Mend(InstanceId i);
  void LoadBack(InstanceId i);
  void Drain(InstanceId i);
  void TellWhetherUp(InstanceId i, bool before);
  void Leave(RequestId id, bool known_to_policy);  // its instance, with the KV that it has on the host
  void Hit(RequestId id, std::int64_t computed);   // tokens whose KV it had
  bool Hold(RequestId id, InstanceId i);           // whether it must wait, as nobody is up at i
  void RouteHeld();
  std::vector<RequestId> RequestsAt(InstanceId i) const;  // but for those that are held
  void Fetch(InstanceId i, const BatchPtr& batch, Transfer& in, bool& waiting);
  void SendIn(InstanceId i, Transfer& in, bool& waiting);
  void Evict(InstanceId i, const BatchPtr& batch);
  void Preempt(InstanceId i, RequestId id);
  void PreemptLatest(InstanceId i, const BatchPtr& batch);
  void Yield(RequestId id);  // a token, for the client unless it has had it
  bool Finished(RequestId id) const { return states_[id].generated == records_[id].output; }
  void FirstOrNextToken(RequestId id);
  void Handover(RequestId id);
  void RouteToDecode(RequestId id);
  void RouteArrival(RequestId id);
  bool FitsAlone(RequestId id, InstanceId i) const;  // and its next token, on the instance with nothing else there
  void QueueAt(RequestId id, InstanceId i);
  void LeaveBatch(RequestId id);
  void Remove(RequestId id, Outcome outcome, bool known_to_policy);
  void Cancel(RequestId id);
  BatchPtr Find(InstanceId i, int label) const;
  BatchPtr FindOrMake(InstanceId i, int label, ModelId m);
  void Forget(const BatchPtr& batch);  // when it has no members
  std::int64_t Send(Transfer transfer, Direction direction, std::int64_t bytes, std::int64_t rate);
  std::int64_t Load(Transfer transfer, ModelId m);  // from wherever the weights are, which the host cache learns
  void LinkChanged(std::size_t link);
  void FinishTransfer(std::int64_t number);
  Tier TierOf(InstanceId i, ModelId m) const;
  WeightSource SourceOf(InstanceId i, ModelId m) const;
  std::int64_t TakeFromTier(InstanceId i, ModelId m);  // bytes/s
  void Busy(InstanceId i, Activity kind, TimePs from);
  void SetPhase(InstanceId i, Phase phase);

  // Books.
  std::int64_t Context(RequestId id) const { return std::int64_t{records_[id].prompt} + states_[id].generated; }
  std::int64_t Blocks(std::int64_t tokens) const { return (tokens + setup_.block_tokens - 1) / setup_.block_tokens; }
  std::int64_t BlockBytes(InstanceId i, ModelId m) const {
    return setup_.block_tokens * prices_.KvBytesPerToken(m, instances_[i].shape);
  }
  std::int64_t KvBytes(RequestId id) const;  // of the request, wherever they are
  KvPlace PlaceOf(RequestId id) const;
  std::int64_t ContextOf(const Batch& batch) const;
  std::int64_t Growth(const Batch& batch) const;  // bytes that a step of the batch adds
  std::int64_t GpuUsed(InstanceId i) const;
  std::int64_t GpuCapacity(InstanceId i) const;
  std::int64_t HostUsed() const;
  std::int64_t HostCacheUsed(const Node& node) const;
  bool Leaving(InstanceId i) const;              // whether KV is on its way out
  bool Coming(InstanceId i) const;               // and in
  std::int64_t GrowthOfAll(InstanceId i) const;  // bytes that a step of all members on the GPU, or on the way there, adds
  void CheckBooks() const;
  [[noreturn]] void Broken(const std::string& what) const;

  PoolSetup setup_;
  const Prices& prices_;
  Router& router_;
  Scheduler& scheduler_;
  std::vector<InstanceFacts> facts_;
  std::vector<Instance> instances_;
  std::vector<Node> nodes_;
  std::vector<Link> links_;
  std::vector<TimePs> timer_;  // of instances, then of links
  Outages outages_;
  std::int64_t in_force_ = 0;  // outages that are not over
  std::vector<Record> records_;
  std::vector<State> states_;
  std::vector<Transfer> transfers_;
  std::int64_t next_transfer_ = 0;
  std::vector<std::pair<ModelId, TimePs>> switches_;
  struct BusyTime {
    Activity kind;
    TimePs from, to;
    std::int64_t gpus;
  };
  std::vector<BusyTime> busy_;
  std::int64_t steps_ = 0;
  std::int64_t preemptions_ = 0;
  TimePs now_ = 0;
};

}  // namespace poolsim
