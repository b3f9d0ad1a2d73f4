// The engine of one pool: the only loop. It executes what the policy grants, keeps the books, and tells the metrics.
//
// One event per grant, not per token: a run of decode steps is a closed form (series.h), and what may end it early (a completion,
// KV memory, the quota, the crossing of two price lines, a request that joins) is found by solving for the step.
//
// Order of simultaneous events: instances by number, links by number, failures, client timeouts, arrivals. A step that ends at t
// is done for everything else that happens at t, and the next step has begun.
//
// Numbered invariants (checked at every event with `check`, and at the end always):
//   I1  0 <= KV bytes on an instance <= its capacity, and they are the sum of its requests' blocks
//   I2  0 <= KV bytes and weights on a host <= its capacity
//   I3  requests in = finished + failed + unfinished
//   I4  output tokens = tokens delivered to requests
//   I5  busy + idle = owned time, per instance
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sim/batch.h"
#include "sim/event_queue.h"
#include "sim/failures.h"
#include "sim/link.h"
#include "sim/metrics.h"
#include "sim/nodes.h"
#include "sim/policy.h"
#include "sim/prices.h"
#include "sim/request.h"
#include "sim/request_source.h"
#include "sim/scenario.h"
#include "sim/span_observer.h"

namespace poolsim {

// What a pool is, resolved to integers.
struct PoolSetup {
  std::string name;
  std::string policy_name;  // for messages
  FleetFacts fleet;
  GpuFacts gpu;
  std::vector<ModelFacts> models;
  std::int64_t host_cache_bytes = 0;  // per node
  std::int64_t host_kv_bytes = 0;     // over all nodes: the hosts' KV memory is one store; moving KV between hosts takes no time

  std::int64_t block_tokens = 16;
  std::int64_t slab_bytes = 0;  // per GPU; 0: memory is given out in blocks
  bool swap = false;            // KV exhaustion preempts by swap, else by recomputation

  TimePs engine_init = 0;
  std::int64_t host_load = 0;     // bytes/s, weights from the host, per GPU
  Tier backing = Tier::kNvme;     // where weights are that the host cache does not hold
  std::int64_t backing_load = 0;  // bytes/s from there, per GPU
  TierRates node_load{};          // bytes/s that all GPUs of a node share, by tier
  bool host_cache_warm = true;
  bool prefetch = true;
  bool overlap_kv = true;
  std::int64_t kv_copy = 0;  // bytes/s per GPU
  bool kv_out_free = false;
  bool kv_join_free = false;
  bool handover_free = false;
  double both_ways_share[2] = {1, 1};
  std::int64_t gpus_per_link = 1;

  TimePs first_token_timeout = kNever;
  TimePs total_timeout = kNever;
  bool exact_timeouts = true;

  FailuresConfig failures;
  std::uint64_t failure_seed = 1;
  std::vector<NodePacking::Place> places;  // of a part of a pool: where its instances lie in it; empty: node by node

  TimePs warmup = 0;
  TimePs window = 60 * kPsPerSecond;
  TimePs horizon = kNever;
  bool check = false;
};

// A finished or failed request, for requests.csv.
using RequestSink = std::function<void(const Request&, const Targets&)>;

struct EngineResult {
  TimePs end = 0;
  std::int64_t events = 0;
  std::uint64_t fingerprint = 0;
  std::int64_t gpus = 0;           // owned, in whole instances
  std::int64_t stranded_gpus = 0;  // of the fleet, or in nodes begun: left over by whole instances
  std::int64_t requests = 0;
  std::int64_t unfinished = 0;
};

class Engine final : public ClusterView, public Oracle {
 public:
  // `parts` outlive the engine. Throws InfeasibleError or InputError when the plan cannot be carried out.
  Engine(PoolSetup setup, const Prices& prices, Placement& placement, Router& router, Scheduler& scheduler);
  ~Engine() override;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The next requests in order of arrival, their models by the pool's numbers: simulates up to the last of them. What comes out
  // does not depend on how the requests are cut into calls.
  void Feed(std::span<const RequestSpec> requests);
  // No more requests: simulates to the end (or the horizon). Once, after the last Feed.
  EngineResult Finish();
  TimePs simulated() const { return now_; }
  // For checkpoints, between calls of Feed: all that has changed since the engine was made.
  void State(Archive& a);

  Metrics& metrics() { return metrics_; }
  const std::vector<InstanceFacts>& plan() const { return facts_; }
  void set_request_sink(RequestSink sink) { request_sink_ = std::move(sink); }
  void set_token_observer(TokenObserver* observer) { observer_ = observer; }
  void set_span_observer(SpanObserver* observer) { spans_ = observer; }

  // ClusterView
  TimePs now() const override { return now_; }
  const std::vector<ModelFacts>& models() const override { return setup_.models; }
  const std::vector<InstanceFacts>& instances() const override { return facts_; }
  const PriceView& prices() const override { return prices_; }
  RequestView request(RequestId r) const override;
  ModelId loaded(InstanceId i) const override { return instances_[i].loaded; }
  bool resident(InstanceId i, ModelId m) const override;
  bool busy(InstanceId i) const override;
  bool up(InstanceId i) const override { return instances_[i].up; }
  std::int64_t down() const override { return down_; }
  BatchView batch(InstanceId i, int label) const override;
  bool on_gpu(InstanceId i, int label) const override;
  std::int64_t kv_capacity_tokens(InstanceId i, ModelId m) const override;
  std::int64_t kv_free_tokens(InstanceId i, ModelId m) const override;
  std::int64_t kv_rounded_tokens(std::int64_t tokens) const override { return BlocksOf(tokens) * setup_.block_tokens; }
  TimePs last_step_end(InstanceId i) const override;
  TimePs last_run_time(InstanceId i) const override { return instances_[i].last_run_time; }
  TimePs last_run_first_step(InstanceId i) const override { return instances_[i].run.first_step; }
  int last_run_label(InstanceId i) const override { return instances_[i].last_run_label; }
  // Oracle
  std::int32_t output_tokens(RequestId r) const override { return requests_[r].output; }

 private:
  enum class Room : std::uint8_t { kThere, kWait, kAskAgain };
  enum class Phase : std::uint8_t { kIdle, kWait, kBetween, kPrefill, kRun, kSwitch, kCopy, kDown };
  enum class Place : std::uint8_t { kGpu, kLeaving, kHost, kComing };  // of a batch's stepping members

  // A batch's share in a run: its step j takes a + d j while price_a (or price_b) is the larger line.
  struct Part {
    std::int32_t batch = kNone;
    TimePs a = 0;
    TimePs d = 0;
    TimePs a_sum = 0;  // of this part and those before it in the rotation
    TimePs d_sum = 0;
  };
  // Steps in a rotation of `parts`: sub-step n belongs to part n mod M. Ends early at a kink, where it goes on by itself.
  struct RunState {
    std::vector<Part> parts;
    Series cycle;              // a whole rotation
    TimePs start = 0;          // of this segment
    std::int64_t kink = 0;     // sub-steps until two lines cross, or somebody who replays has all tokens again
    std::int64_t end = 0;      // until somebody finishes, or the chunks are done
    std::int64_t quota = 0;    // until the quota is used up
    std::int64_t planned = 0;  // sub-steps of this segment
    bool truncated = false;    // somebody waits for the step boundary
    bool goes_on = false;      // the segment ends at a kink only
    TimePs before = 0;         // time in earlier segments of the same grant
    TimePs first_step = 0;
    std::int64_t steps_before = 0;  // mixed: chunks done in earlier segments
    std::int64_t steps = 0;         // of the grant so far, for those who observe, as are the tokens
    std::int64_t tokens = 0;
    StepPrice mixed_price;  // mixed: the price of the whole run
    bool mixed = false;
    std::int64_t steps_left = 0;  // mixed: steps that are left to do
    // The answer to the last question of how many sub-steps were done by now: policies ask again and again.
    mutable TimePs asked_at = -1;
    mutable std::int64_t asked_steps = 0;
    void State(Archive& a) {
      a(parts, cycle, start, kink, end, quota, planned, truncated, goes_on, before, first_step, steps_before, steps, tokens);
      a(mixed_price, mixed, steps_left, asked_at, asked_steps);
    }
  };
  struct Instance {
    ShapeId shape = 0;
    int gpus = 1;
    int node_gpus = 1;  // of them, in `node`
    NodeId node = 0;
    std::int32_t link = 0;
    int lane = 0;
    Role role = Role::kBoth;
    Phase phase = Phase::kIdle;
    bool up = true;               // takes requests
    std::int32_t faults = 0;      // what keeps it down: GPUs, nodes, maintenance
    std::int32_t draining = 0;    // drains that have begun, before they take it down
    std::int32_t reload = kNone;  // pinned: which of its weights comes back after a failure
    double slowdown = 1;          // of its steps
    ModelId busy_for = kNone;     // whom a prefill, switch or wait for KV is for; a run says it part by part
    std::int64_t cancelled = 0;   // requests that gave up while they were executing or stepping here
    TimePs phase_start = 0;
    ModelId loaded = kNone;
    std::vector<ModelId> resident;
    ModelId prefetched = kNone;  // in the prefetch buffer, or on its way there
    bool prefetch_ready = false;
    std::int64_t prefetch_ticket = -1;
    bool switch_waits_for_prefetch = false;
    bool switch_loads_after_timer = false;  // engine stages first, then the weights
    TimePs switch_earliest_end = 0;
    TimePs switch_engine_init = 0;  // of the running switch's latency, as are these
    TimePs switch_copy = 0;
    WeightSource switch_source = WeightSource::kResident;
    // The last switch that took time, for requests that waited for it.
    ModelId switched_to = kNone;
    TimePs switch_began = 0;  // the KV that had to leave before it included
    TimePs switch_ended = 0;
    ModelId switch_asked = kNone;  // granted, and KV has yet to leave; since switch_began
    std::int64_t kv_used = 0;      // bytes per GPU, without the growth of the present run
    std::int64_t kv_capacity = 0;
    std::int64_t leaving = 0;  // transfers of KV out that are pending
    std::int64_t coming = 0;   // and in
    TimePs last_step_end = 0;
    TimePs last_run_time = 0;
    int last_run_label = kNone;
    TimePs step_time_since_switch = 0;
    TimePs busy = 0;
    RunState run;
    Grant grant;
    std::vector<std::int32_t> labels;  // batch numbers by label; kNone: none
    // But for its place in the fleet.
    void State(Archive& a) {
      a(up, faults, draining, reload, phase, busy_for, cancelled, phase_start, loaded, resident, prefetched, prefetch_ready,
        prefetch_ticket);
      a(switch_waits_for_prefetch, switch_loads_after_timer, switch_earliest_end, switch_engine_init, switch_copy, switch_source);
      a(switched_to, switch_began, switch_ended, switch_asked, kv_used, kv_capacity, leaving, coming, last_step_end);
      a(last_run_time, last_run_label, step_time_since_switch, busy, run, grant, labels);
    }
  };
  struct CacheEntry {
    ModelId model;
    std::int64_t bytes;  // over the GPUs in this node of the instance that it was loaded for
  };
  // An instance larger than a node has its nodes to itself, so that their caches always hold the same models, each of them its
  // own GPUs' share: the instance's first node stands for all.
  struct Node {
    NodeId number = 0;             // in the pool
    NodeId first = 0;              // of the nodes of an instance that takes several, whose cache stands for all
    std::int32_t cache_down = 0;   // failures of its cache that are not over
    std::vector<InstanceId> here;  // that have GPUs here; empty without failures
    std::int64_t cache_used = 0;
    std::vector<CacheEntry> cache;  // least recently loaded first
    std::vector<std::int32_t> links;
    TierRates loading{};  // GPUs
    void State(Archive& a) { a(cache_down, cache_used, cache, loading); }
  };
  struct WeightsAt {
    Tier tier;
    std::int64_t rate;  // bytes/s per GPU, with nobody else loading
  };
  struct MovingRequest {
    RequestId id;
    std::uint32_t stamp;
    std::int64_t bytes;  // per GPU
  };
  struct Ticket {
    enum class Kind : std::uint8_t { kFree, kWeights, kPrefetch, kBatchOut, kRequestsOut, kIn, kHandover } kind = Kind::kFree;
    InstanceId instance = kNone;
    TimePs begun = 0;
    ModelId model = kNone;  // whose weights, or whose KV first of all
    Tier tier = Tier::kNotWeights;
    std::vector<std::pair<std::int32_t, std::int64_t>> batches;  // number, bytes per GPU
    std::vector<MovingRequest> requests;
    void State(Archive& a) { a(kind, instance, begun, model, tier, batches, requests); }
  };
  struct Deadline {
    TimePs at;
    RequestId id;
    std::int64_t sequence;
  };
  // Set-up.
  void PlaceInstances(Placement& placement);
  void ExpectFailures(const std::vector<NodePacking::Place>& places);
  [[noreturn]] void ThrowTooLarge(const std::vector<ModelId>& models, const Instance& inst) const;
  // The loop.
  void Begin();
  void AdvanceTo(TimePs arrival);  // what happens before a request arrives then
  void OnArrival(const RequestSpec& spec);
  void OnInstance(InstanceId i);
  void OnLink(std::int32_t link);
  void OnTimeouts();
  void OverdueAtScheduling();
  void Dispatch(InstanceId i);
  bool Start(InstanceId i, Grant& grant);  // false: done at once, ask again
  // Grants.
  void ApplyMembership(InstanceId i, Grant& grant);
  bool StartPrefill(InstanceId i, Grant& grant);
  bool StartDecode(InstanceId i, Grant& grant);
  bool StartMixed(InstanceId i, Grant& grant);
  bool StartSwitch(InstanceId i, Grant& grant);
  void StartPrefetch(InstanceId i, ModelId m);
  void FinishPrefill(InstanceId i);
  void FinishSwitch(InstanceId i);
  void SwitchTimerEnded(InstanceId i);
  // Runs.
  void BeginSegment(InstanceId i);
  void PlanSegment(InstanceId i);  // as far as KV memory goes
  std::int64_t SubStepsWithin(const RunState& run, TimePs t, std::int64_t limit) const;
  TimePs Elapsed(const RunState& run, std::int64_t sub_steps) const;
  std::int64_t Growth(const Instance& inst, std::int64_t sub_steps) const;  // KV bytes
  void ApplySteps(InstanceId i, std::int64_t sub_steps);
  void FinishRun(InstanceId i);
  void Truncate(InstanceId i);
  std::int64_t StepsByNow(const Instance& inst) const;
  RequestId LatestOf(const Batch& batch) const;  // who is preempted first: the latest arrival among those that step
  Room MakeRoom(InstanceId i, std::int32_t first);
  std::int64_t StepGrowth(InstanceId i) const;  // KV bytes that one step of everybody on the GPU, or on the way there, takes
  // KV movement.
  void Evict(InstanceId i, Batch& batch);
  void Drop(InstanceId i, Batch& batch);
  void Fetch(InstanceId i, Batch& batch, std::int64_t& ticket, bool& waiting);
  void Send(InstanceId i, Direction direction, std::int64_t bytes, std::int64_t rate, std::int64_t ticket);  // bytes > 0
  void SendWeights(InstanceId i, ModelId m, WeightsAt from, std::int64_t ticket, bool background);
  void SendIn(InstanceId i, std::int64_t ticket);
  void Handover(RequestId id);
  void RouteToDecode(RequestId id);
  void FinishTicket(std::int64_t number);
  std::int64_t NewTicket(Ticket::Kind kind, InstanceId i, ModelId m);
  // Failures.
  void OnOutage();
  void Fault(InstanceId i, FailureKind kind);
  void Mend(InstanceId i);
  void Drain(InstanceId i);
  void Reload(InstanceId i);
  void Empty(Node& node);       // of weights
  void CutShort(InstanceId i);  // what it is doing counts until now
  void CancelTransfers(InstanceId i);
  void Abandon(InstanceId i, bool host);
  bool OnGpu(const Request& r) const { return r.stepping ? places_[r.batch] == Place::kGpu : r.kv == KvPlace::kGpu; }
  bool OnHost(const Request& r) const { return r.stepping ? places_[r.batch] == Place::kHost : r.kv == KvPlace::kHost; }
  std::vector<RequestId> RequestsAt(InstanceId i) const;  // in order of arrival, but for those that are held
  void LeaveInstance(RequestId id);                       // with the KV that it has on the host
  void Hit(RequestId id, std::int64_t computed);          // tokens whose KV it had
  void Hold(RequestId id);
  void Release(RequestId id);
  void RouteHeld();
  bool UpdateUp(InstanceId i);  // whether it has changed
  // Requests.
  bool FitsAlone(InstanceId i, const Request& r) const;
  void QueueAt(RequestId id, InstanceId i);
  void Poke(InstanceId i, RequestId id);
  void RouteArrival(RequestId id);
  void Token(RequestId id);
  void Remove(RequestId id, Outcome outcome, bool known_to_policy);
  void Cancel(RequestId id);
  void Detach(RequestId id);  // out of its batch, its KV given back
  void Preempt(InstanceId i, RequestId id);
  // Batches.
  Batch* FindBatch(InstanceId i, int label);
  const Batch* FindBatch(InstanceId i, int label) const;
  Batch& BatchFor(InstanceId i, int label, ModelId m);
  void Retire(std::int32_t number);  // when it has no members
  void Join(Batch& batch, RequestId id);
  // How much of the instance's last switch, if it was to this model, came after `since`.
  TimePs SwitchSince(const Instance& inst, ModelId m, TimePs since) const {
    return inst.switched_to != m || inst.switch_ended <= since ? 0 : inst.switch_ended - std::max(since, inst.switch_began);
  }
  // Counts the switches that those who wait have waited for until now. Called before anything runs for them.
  void Settle(Request& r) {
    r.spent.switching += SwitchSince(instances_[r.instance], r.model, r.spent.settled);
    r.spent.settled = now_;
  }
  void Settle(Batch& batch) {
    batch.in_switches += SwitchSince(instances_[batch.instance], batch.model, batch.settled);
    batch.settled = now_;
  }
  // Books.
  std::int64_t BlockBytes(const Instance& inst, ModelId m) const {
    return setup_.block_tokens * prices_.KvBytesPerToken(m, inst.shape);
  }
  std::int64_t SlabBytes(std::int64_t blocks, std::int64_t block_bytes) const;
  std::int64_t BlocksOf(std::int64_t tokens) const { return (tokens + setup_.block_tokens - 1) / setup_.block_tokens; }
  void SetResident(InstanceId i, std::vector<ModelId> resident);
  bool HostHasRoom(std::int64_t bytes) const { return host_kv_used_ + bytes <= setup_.host_kv_bytes; }
  bool InHostCache(NodeId n, ModelId m) const;
  WeightSource TierOf(InstanceId i, ModelId m) const;             // where a load would find them
  WeightsAt TakeWeights(InstanceId i, ModelId m);                 // for a load that begins now; the host cache keeps them
  void Busy(InstanceId i, Activity activity, TimePs from);        // until now, for the instance's busy_for
  void Observe(InstanceId i, Span::Kind kind, bool cut = false);  // the span that ends now; where somebody does
  void Observe(const Ticket& ticket, bool dropped, bool cut);
  void SetPhase(InstanceId i, Phase phase) {
    instances_[i].phase = phase;
    instances_[i].phase_start = now_;
  }
  void UpdateLink(std::int32_t link);
  void SetLinkEvent(std::int32_t link);
  void Mark(std::uint64_t a, std::uint64_t b);
  void CheckInvariants() const;
  void CheckEnd() const;
  [[noreturn]] void Broken(const std::string& what) const;

  PoolSetup setup_;
  const Prices& prices_;
  Router& router_;
  Scheduler& scheduler_;
  Metrics metrics_;
  std::vector<InstanceFacts> facts_;
  std::vector<Instance> instances_;
  std::vector<Node> nodes_;
  std::vector<Link> links_;
  std::vector<NodeId> link_node_;
  std::vector<Batch> batches_;
  std::vector<Place> places_;  // by batch number
  std::vector<std::int32_t> free_batches_;
  std::vector<Ticket> tickets_;
  std::vector<std::int64_t> free_tickets_;
  RequestTable requests_;
  EventQueue events_;
  Outages outages_;
  std::vector<RequestId> held_;  // that no instance takes which is up
  std::int64_t down_ = 0;        // instances that take no requests
  std::int64_t in_force_ = 0;    // outages that are not over
  std::deque<Deadline> first_token_deadlines_;
  std::deque<Deadline> total_deadlines_;
  std::int64_t host_kv_used_ = 0;
  TimePs now_ = 0;
  std::int64_t next_sequence_ = 0;
  bool begun_ = false;
  bool over_ = false;
  EngineResult result_;
  std::int64_t finished_ = 0;
  std::int64_t failed_ = 0;
  RequestSink request_sink_;
  TokenObserver* observer_ = nullptr;
  SpanObserver* spans_ = nullptr;
  std::vector<RequestId> scratch_;
  PaddingTable padding_table_;
};

}  // namespace poolsim
