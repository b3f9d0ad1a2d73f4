#include "tests/reference/token_engine.h"

#include <algorithm>

namespace poolsim {
namespace {

TimePs Times(TimePs time, double slowdown) { return slowdown == 1 ? time : PsFromSeconds(ToSeconds(time) * slowdown); }

Line Times(const Line& line, double slowdown) {
  return {Times(line.base, slowdown), Times(line.per_token, slowdown), Times(line.per_chunk, slowdown)};
}

}  // namespace

TokenEngine::TokenEngine(PoolSetup setup, const Prices& prices, Placement& placement, Router& router, Scheduler& scheduler)
    : setup_(std::move(setup)), prices_(prices), router_(router), scheduler_(scheduler) {
  PlaceInstances(placement);
}

void TokenEngine::Broken(const std::string& what) const {
  throw std::logic_error("token engine, policy " + setup_.policy_name + ", at " + std::to_string(now_) + " ps: " + what);
}

// ------------------------------------------------------------------------------------------------------------- set-up

void TokenEngine::PlaceInstances(Placement& placement) {
  facts_ = placement.Place(setup_.fleet, setup_.models, prices_);
  std::vector<std::int64_t> used_gpus;                         // by node
  std::vector<std::pair<std::int64_t, std::int64_t>> uplinks;  // node and uplink in it, by link
  std::vector<int> lanes;
  std::vector<std::int64_t> first_gpus;  // by instance
  for (InstanceFacts& f : facts_) {
    f.shape.node_gpus = static_cast<int>(setup_.fleet.gpus_per_node);
    const std::int64_t gpus = f.shape.gpus();
    // The first node with room; a larger instance takes new nodes.
    std::size_t node = 0;
    while (node < used_gpus.size() && used_gpus[node] + gpus > setup_.fleet.gpus_per_node) ++node;
    while (static_cast<std::int64_t>(used_gpus.size() - node) * setup_.fleet.gpus_per_node < gpus) used_gpus.push_back(0);
    const std::pair<std::int64_t, std::int64_t> uplink{static_cast<std::int64_t>(node), used_gpus[node] / setup_.gpus_per_link};
    first_gpus.push_back(uplink.first * setup_.fleet.gpus_per_node + used_gpus[node]);
    for (std::int64_t g = 0; g < gpus; ++g) ++used_gpus[node + static_cast<std::size_t>(g / setup_.fleet.gpus_per_node)];
    const auto link = static_cast<std::size_t>(std::find(uplinks.begin(), uplinks.end(), uplink) - uplinks.begin());
    nodes_.resize(used_gpus.size());
    if (link == uplinks.size()) {
      uplinks.push_back(uplink);
      nodes_[node].links.push_back(static_cast<std::int32_t>(link));
      lanes.push_back(0);
    }
    f.node = static_cast<NodeId>(node);
    std::sort(f.models.begin(), f.models.end());
    Instance inst;
    inst.shape = prices_.Id(f.shape);
    inst.gpus = static_cast<int>(gpus);
    inst.node_gpus = static_cast<int>(std::min(gpus, setup_.fleet.gpus_per_node));
    inst.role = f.role;
    inst.link = link;
    inst.lane = lanes[link]++;
    inst.resident = f.resident;
    if (!f.resident.empty()) inst.loaded = f.resident.front();
    instances_.push_back(std::move(inst));
  }
  for (const int n : lanes) {
    Link::Config config;
    config.rate[0] = config.rate[1] = setup_.gpu.pcie_bytes_per_s;
    config.both_ways_share[0] = setup_.both_ways_share[0];
    config.both_ways_share[1] = setup_.both_ways_share[1];
    links_.emplace_back(config, n);
  }
  timer_.assign(instances_.size() + links_.size(), kNever);
  std::vector<std::int64_t> uplink_gpus;
  for (const auto& [node, uplink] : uplinks)
    uplink_gpus.push_back(node * setup_.fleet.gpus_per_node + uplink * setup_.gpus_per_link);
  ExpectFailures(first_gpus, uplink_gpus);
  // Host caches start with as many weights as fit, in the order of the model table.
  for (std::size_t n = 0; n < used_gpus.size(); ++n) {
    Node& node = nodes_[n];
    const auto may_load = [n](const InstanceFacts& f) { return f.node == static_cast<NodeId>(n) && !f.pinned; };
    if (!setup_.host_cache_warm || std::none_of(facts_.begin(), facts_.end(), may_load)) continue;
    for (ModelId m = 0; m < static_cast<ModelId>(setup_.models.size()); ++m) {
      const std::int64_t bytes = prices_.WeightBytes(m, instances_.front().shape) * instances_.front().node_gpus;
      if (HostCacheUsed(node) + bytes > setup_.host_cache_bytes) break;
      node.cache.push_back({m, bytes});
    }
  }
}

// Of failures at the same time GPUs come first, by instance, then nodes and their caches, then uplinks.
void TokenEngine::ExpectFailures(const std::vector<std::int64_t>& first_gpus, const std::vector<std::int64_t>& uplinks) {
  const FailuresConfig& config = setup_.failures;
  const auto slow = [&](FailureKind kind, std::int64_t number, double fraction) {
    return IsStraggler(setup_.failure_seed, setup_.name, kind, number, fraction);
  };
  outages_ = Outages(config, setup_.failure_seed, setup_.name);
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) {
    Instance& inst = instances_[i];
    const std::int64_t first = first_gpus[static_cast<std::size_t>(i)];
    for (std::int64_t gpu = first; gpu < first + inst.gpus; ++gpu) {
      outages_.Add(FailureKind::kGpu, gpu, i);
      if (slow(FailureKind::kGpu, gpu, config.stragglers.fraction)) inst.slowdown = config.stragglers.slowdown;
      Node& node = nodes_[static_cast<std::size_t>(gpu / setup_.fleet.gpus_per_node)];
      node.first = static_cast<std::size_t>(facts_[i].node);
      if (node.here.empty() || node.here.back() != i) node.here.push_back(i);
    }
  }
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    outages_.Add(FailureKind::kNode, static_cast<std::int64_t>(n), static_cast<std::int32_t>(n));
    outages_.Add(FailureKind::kCache, static_cast<std::int64_t>(n), static_cast<std::int32_t>(nodes_[n].first));
  }
  for (std::size_t l = 0; l < links_.size(); ++l) {
    outages_.Add(FailureKind::kLink, uplinks[l], static_cast<std::int32_t>(l));
    if (slow(FailureKind::kLink, uplinks[l], config.stragglers.link_fraction))
      links_[l].Slow(0, 1 / config.stragglers.link_slowdown);
  }
}

// --------------------------------------------------------------------------------------------------------------- books

std::int64_t TokenEngine::KvBytes(RequestId id) const {
  return Blocks(Context(id) + (states_[id].prefilling ? 1 : 0)) * BlockBytes(states_[id].instance, records_[id].model);
}

KvPlace TokenEngine::PlaceOf(RequestId id) const {
  const State& s = states_[id];
  if (!s.stepping) return s.kv;
  if (s.batch->place == Place::kGpu) return KvPlace::kGpu;
  return s.batch->place == Place::kHost ? KvPlace::kHost : KvPlace::kMoving;
}

std::int64_t TokenEngine::ContextOf(const Batch& batch) const {
  std::int64_t tokens = 0;
  for (const RequestId id : batch.stepping) tokens += Context(id);
  return tokens;
}

std::int64_t TokenEngine::Growth(const Batch& batch) const {
  std::int64_t blocks = 0;
  for (const RequestId id : batch.stepping) blocks += Blocks(Context(id) + 1) - Blocks(Context(id));
  return blocks * BlockBytes(batch.instance, batch.model);
}

// What a transfer moves is held at both ends until it is over.
std::int64_t TokenEngine::GpuUsed(InstanceId i) const {
  std::int64_t bytes = 0;
  for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
    if (states_[id].live && states_[id].instance == i && PlaceOf(id) == KvPlace::kGpu) bytes += KvBytes(id);
  }
  for (const Transfer& t : transfers_) bytes += t.instance == i ? t.bytes : 0;
  return bytes;
}

std::int64_t TokenEngine::HostUsed() const {
  std::int64_t bytes = 0;
  for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
    if (states_[id].live && PlaceOf(id) == KvPlace::kHost) bytes += KvBytes(id) * instances_[states_[id].instance].gpus;
  }
  for (const Transfer& t : transfers_) bytes += t.bytes * instances_[t.instance].gpus;
  return bytes;
}

std::int64_t TokenEngine::GpuCapacity(InstanceId i) const {
  return prices_.KvCapacityBytes(instances_[i].shape, instances_[i].resident, facts_[i].prefetch_bytes);
}

std::int64_t TokenEngine::HostCacheUsed(const Node& node) const {
  std::int64_t bytes = 0;
  for (const auto& entry : node.cache) bytes += entry.second;
  return bytes;
}

bool TokenEngine::Leaving(InstanceId i) const {
  return std::any_of(transfers_.begin(), transfers_.end(), [i](const Transfer& t) {
    return t.instance == i && (t.kind == Move::kBatchOut || t.kind == Move::kRequestOut || t.kind == Move::kHandover);
  });
}

bool TokenEngine::Coming(InstanceId i) const {
  return std::any_of(transfers_.begin(), transfers_.end(),
                     [i](const Transfer& t) { return t.instance == i && t.kind == Move::kIn; });
}

std::int64_t TokenEngine::GrowthOfAll(InstanceId i) const {
  std::int64_t bytes = 0;
  for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
    const State& s = states_[id];
    if (!s.live || s.instance != i || s.batch == nullptr || PlaceOf(id) == KvPlace::kHost) continue;
    if (s.stepping && s.batch->place == Place::kLeaving) continue;
    bytes += (Blocks(Context(id) + 1) - Blocks(Context(id))) * BlockBytes(i, records_[id].model);
  }
  return bytes;
}

void TokenEngine::CheckBooks() const {
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) {
    if (GpuUsed(i) > GpuCapacity(i)) Broken("instance " + std::to_string(i) + " holds more KV than it has memory for");
  }
  if (HostUsed() > setup_.host_kv_bytes) Broken("the hosts hold more KV than they have memory for");
  for (const Node& node : nodes_) {
    if (HostCacheUsed(node) > setup_.host_cache_bytes) Broken("a host holds more weights than it has memory for");
  }
}

void TokenEngine::Busy(InstanceId i, Activity kind, TimePs from) {
  activity[static_cast<std::size_t>(kind)] += (now_ - from) * instances_[i].gpus;
  busy_.push_back({kind, from, now_, instances_[i].gpus});
  if (kind == Activity::kKvCopy) switching.kv += now_ - from;
}

void TokenEngine::SetPhase(InstanceId i, Phase phase) {
  instances_[i].phase = phase;
  instances_[i].phase_start = now_;
}

// ---------------------------------------------------------------------------------------------------------------- loop

void TokenEngine::Run(const std::vector<RequestSpec>& workload) {
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) Dispatch(i);
  std::size_t upcoming = 0;
  for (;;) {
    // The earliest of all; of simultaneous ones instances by number, links by number, failures, timeouts, arrivals.
    std::size_t slot = timer_.size();
    TimePs next = kNever;
    for (std::size_t s = 0; s < timer_.size(); ++s) {
      if (timer_[s] < next) {
        next = timer_[s];
        slot = s;
      }
    }
    bool outage = false;
    if (outages_.next() < next && OutagesMatter(upcoming < workload.size())) {
      next = outages_.next();
      outage = true;
    }
    bool timeout = false;
    TimePs at = kNever;
    RequestId who = kNone;
    if (setup_.exact_timeouts && NextTimeout(&at, &who) && at < next) {
      next = at;
      timeout = true;
    }
    bool arrival = false;
    if (upcoming < workload.size() && workload[upcoming].arrival < next) {
      next = workload[upcoming].arrival;
      arrival = true;
    }
    if (next == kNever || next > setup_.horizon) break;
    now_ = next;
    if (arrival) {
      const RequestSpec& spec = workload[upcoming++];
      Record record;
      record.model = spec.model;
      record.arrival = spec.arrival;
      record.prompt = spec.prompt_tokens;
      record.output = spec.output_tokens;
      records_.push_back(std::move(record));
      states_.emplace_back();
      RouteArrival(static_cast<RequestId>(records_.size()) - 1);
      if (!setup_.exact_timeouts) OverdueAtScheduling();
    } else if (timeout) {
      Cancel(who);
    } else if (outage) {
      OnOutage();
    } else {
      timer_[slot] = kNever;
      if (slot < instances_.size()) {
        OnInstance(static_cast<InstanceId>(slot));
      } else {
        OnLink(slot - instances_.size());
      }
    }
    CheckBooks();
  }
  const bool unfinished = std::any_of(states_.begin(), states_.end(), [](const State& s) { return s.live; });
  // Failures that last beyond any scenario may leave some held, or an uplink at a standstill.
  const bool held = std::any_of(states_.begin(), states_.end(), [](const State& s) { return s.held; });
  if (setup_.horizon == kNever && unfinished && !held && transfers_.empty())
    Broken("requests are left behind with nothing to wait for");
  if (setup_.horizon != kNever && (unfinished || upcoming < workload.size())) now_ = setup_.horizon;
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) CutShort(i);
}

void TokenEngine::CutShort(InstanceId i) {
  const Instance& inst = instances_[i];
  switch (inst.phase) {
    case Phase::kRun:
      Busy(i, Activity::kDecode, inst.step_start);
      break;
    case Phase::kPrefill:
      Busy(i, Activity::kPrefill, inst.phase_start);
      break;
    case Phase::kSwitch:
      Busy(i, Activity::kSwitch, inst.phase_start);
      break;
    case Phase::kCopy:
      Busy(i, Activity::kKvCopy, inst.phase_start);
      break;
    case Phase::kDown:
      Busy(i, Activity::kDown, inst.phase_start);
      break;
    default:
      break;
  }
}

void TokenEngine::OnInstance(InstanceId i) {
  Instance& inst = instances_[i];
  switch (inst.phase) {
    case Phase::kWait:
      Dispatch(i);
      break;
    case Phase::kPrefill:
      Busy(i, Activity::kPrefill, inst.phase_start);
      inst.last_step_end = now_;
      inst.last_run_time = now_ - inst.phase_start;
      inst.step_time_since_switch += now_ - inst.phase_start;
      inst.phase = Phase::kBetween;
      for (const RequestId id : std::vector<RequestId>(inst.grant.requests)) {
        states_[id].executing = false;
        FirstOrNextToken(id);
      }
      Dispatch(i);
      break;
    case Phase::kRun:
      EndStep(i);
      break;
    case Phase::kSwitch:
      SwitchGoesOn(i);
      break;
    default:
      Broken("an event of an instance that waits for none");
  }
}

void TokenEngine::OnLink(std::size_t link) {
  for (;;) {
    const std::int64_t number = links_[link].PopFinished(now_);
    if (number < 0) break;
    FinishTransfer(number);
  }
  LinkChanged(link);
}

void TokenEngine::LinkChanged(std::size_t link) {
  const auto owner = std::find_if(nodes_.begin(), nodes_.end(), [link](const Node& n) {
    return std::find(n.links.begin(), n.links.end(), static_cast<std::int32_t>(link)) != n.links.end();
  });
  ShareTiers(now_, links_, owner->links, static_cast<std::int32_t>(link), setup_.node_load, owner->loading);
  for (const std::int32_t l : owner->links) timer_[instances_.size() + static_cast<std::size_t>(l)] = links_[l].next_end();
}

// The first client to give up: the earliest; a wait for the first token before a wait for the whole answer; then in order of
// arrival.
bool TokenEngine::NextTimeout(TimePs* at, RequestId* who) const {
  *at = kNever;
  const auto look = [&](bool first_token) {
    const TimePs patience = first_token ? setup_.first_token_timeout : setup_.total_timeout;
    if (patience == kNever) return;
    for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
      if (!states_[id].live || states_[id].cancelled || (first_token && !records_[id].tokens.empty())) continue;
      if (records_[id].arrival + patience < *at) {
        *at = records_[id].arrival + patience;
        *who = id;
      }
    }
  };
  look(true);
  look(false);
  return *at != kNever;
}

void TokenEngine::OverdueAtScheduling() {
  for (const bool first_token : {true, false}) {
    const TimePs patience = first_token ? setup_.first_token_timeout : setup_.total_timeout;
    if (patience == kNever) continue;
    for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
      if (!states_[id].live || states_[id].cancelled || (first_token && !records_[id].tokens.empty())) continue;
      const TimePs at = records_[id].arrival + patience;
      if (first_token ? at < now_ : at <= now_) Cancel(id);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- routing

void TokenEngine::RouteArrival(RequestId id) {
  const InstanceId i = router_.RouteArrival(id, *this);
  if (Hold(id, i)) return;
  if (i < 0 || i >= static_cast<InstanceId>(instances_.size()) || instances_[i].role == Role::kDecode)
    Broken("a request is routed nowhere");
  const InstanceFacts& f = facts_[i];
  const ModelId m = records_[id].model;
  if (!f.models.empty() && std::find(f.models.begin(), f.models.end(), m) == f.models.end()) Broken("a model may not run there");
  states_[id].instance = i;
  if (!FitsAlone(id, i)) {
    Remove(id, records_[id].tokens.empty() ? Outcome::kKvPrompt : Outcome::kKvGrowth, false);
    return;
  }
  QueueAt(id, i);
}

bool TokenEngine::FitsAlone(RequestId id, InstanceId i) const {
  const ModelId m = records_[id].model;
  const InstanceFacts& f = facts_[i];
  const std::int64_t capacity =
      f.pinned ? GpuCapacity(i) : prices_.KvCapacityBytes(instances_[i].shape, {&m, 1}, f.prefetch_bytes);
  return Blocks(Context(id) + 1) * BlockBytes(i, m) <= capacity;
}

void TokenEngine::QueueAt(RequestId id, InstanceId i) {
  states_[id].instance = i;
  scheduler_.OnQueued(id, i, *this);
  const Phase phase = instances_[i].phase;
  if (phase == Phase::kIdle || phase == Phase::kWait) {
    Dispatch(i);
  } else if (phase == Phase::kRun && scheduler_.Preempts(id, i, *this)) {
    AskForBoundary(i);
  }
}

void TokenEngine::Handover(RequestId id) {
  const InstanceId i = states_[id].instance;
  scheduler_.OnRemoved(id, i, *this);
  const std::int64_t bytes = KvBytes(id);
  if (HostUsed() + bytes * instances_[i].gpus > setup_.host_kv_bytes) {
    states_[id].kv = KvPlace::kNowhere;
    RouteArrival(id);
    return;
  }
  if (setup_.handover_free) {
    states_[id].kv = KvPlace::kHost;
    RouteToDecode(id);
    return;
  }
  kv_bytes_moved += bytes * instances_[i].gpus;
  states_[id].kv = KvPlace::kMoving;
  Transfer t;
  t.kind = Move::kHandover;
  t.instance = i;
  t.bytes = bytes;
  t.requests.push_back(id);
  states_[id].transfer = Send(t, Direction::kOut, bytes, setup_.kv_copy);
}

void TokenEngine::RouteToDecode(RequestId id) {
  if (!setup_.exact_timeouts) {
    OverdueAtScheduling();
    if (!states_[id].live) return;
  }
  // Of role both only when its own instance has failed or is drained: then as an arrival.
  const bool both = instances_[states_[id].instance].role == Role::kBoth;
  const InstanceId to = both ? router_.RouteArrival(id, *this) : router_.RouteHandover(id, *this);
  if (Hold(id, to)) return;
  if (to < 0 || to >= static_cast<InstanceId>(instances_.size()) || instances_[to].role == Role::kPrefill)
    Broken("a request is handed over to nobody");
  states_[id].instance = to;
  if (!FitsAlone(id, to)) {
    Remove(id, Outcome::kKvGrowth, false);
    return;
  }
  QueueAt(id, to);
}

// ------------------------------------------------------------------------------------------------------------ dispatch

void TokenEngine::Dispatch(InstanceId i) {
  SetPhase(i, Phase::kBetween);
  Grant& grant = instances_[i].grant;
  for (int tries = 0; tries < 10000; ++tries) {
    grant.Clear();
    scheduler_.Next(i, *this, grant);
    if (Start(i, grant)) return;
  }
  Broken("10000 grants in a row that take no time");
}

bool TokenEngine::Start(InstanceId i, Grant& grant) {
  Instance& inst = instances_[i];
  for (const Grant::Join& join : grant.joins) {
    State& s = states_[join.request];
    if (!s.live || s.instance != i || states_[join.request].generated == 0 || PlaceOf(join.request) == KvPlace::kNowhere) {
      Broken("a request cannot join a batch");
    }
    if (s.batch != nullptr) {
      if (s.batch->label == join.label) continue;
      if (s.stepping && (s.batch->place == Place::kLeaving || s.batch->place == Place::kComing))
        Broken("a request changes batch while its KV moves");
      LeaveBatch(join.request);
    }
    const BatchPtr batch = FindOrMake(i, join.label, records_[join.request].model);
    if (batch->model != records_[join.request].model) Broken("a request joins a batch of another model");
    batch->incoming.push_back(join.request);
    s.batch = batch;
  }
  for (const int label : grant.drop) {
    const BatchPtr batch = Find(i, label);
    if (batch == nullptr) continue;
    if (batch->place != Place::kGpu && batch->place != Place::kHost) Broken("KV that moves is dropped");
    std::vector<RequestId> all = batch->stepping;
    all.insert(all.end(), batch->incoming.begin(), batch->incoming.end());
    for (const RequestId id : all) {
      LeaveBatch(id);
      states_[id].kv = KvPlace::kNowhere;
      states_[id].transfer = -1;
    }
    std::sort(all.begin(), all.end());
    for (const RequestId id : all) {
      if (!FitsAlone(id, i)) Remove(id, Outcome::kKvGrowth, true);
    }
  }
  for (const int label : grant.evict) {
    if (const BatchPtr batch = Find(i, label)) Evict(i, batch);
  }
  if (grant.prefetch != kNone) StartPrefetch(i, grant.prefetch);
  if (grant.kind != Grant::Kind::kIdle && grant.kind != Grant::Kind::kWait) {
    inst.last_run_time = 0;
    inst.last_run_label = kNone;
  }
  switch (grant.kind) {
    case Grant::Kind::kIdle:
      timer_[i] = kNever;
      SetPhase(i, Phase::kIdle);
      return true;
    case Grant::Kind::kWait:
      if (grant.until <= now_) Broken("a wait until a time that has passed");
      timer_[i] = grant.until;
      SetPhase(i, Phase::kWait);
      return true;
    case Grant::Kind::kPrefill:
      return StartPrefill(i, grant);
    case Grant::Kind::kDecode:
      return StartDecode(i, grant);
    case Grant::Kind::kMixed:
      return StartMixed(i, grant);
    case Grant::Kind::kSwitch:
      return StartSwitch(i, grant);
  }
  return true;
}

bool TokenEngine::StartPrefill(InstanceId i, const Grant& grant) {
  if (instances_[i].role == Role::kDecode || grant.requests.empty()) Broken("a prefill that cannot be");
  const ModelId m = records_[grant.requests.front()].model;
  if (!resident(i, m)) Broken("a prefill without weights");
  std::int64_t sum = 0, squares = 0;
  for (const RequestId id : grant.requests) {
    State& s = states_[id];
    if (!s.live || s.instance != i || s.executing || s.batch != nullptr || s.kv != KvPlace::kNowhere || records_[id].model != m) {
      Broken("a request cannot be prefilled now");
    }
    s.executing = true;
    s.prefilling = true;
    s.kv = KvPlace::kGpu;
    sum += Context(id);
    squares += Context(id) * Context(id);
  }
  if (GpuUsed(i) > GpuCapacity(i)) Broken("a prefill that does not fit");
  SetPhase(i, Phase::kPrefill);
  const TimePs price = prices_.Prefill(m, instances_[i].shape, static_cast<std::int64_t>(grant.requests.size()), sum, squares);
  timer_[i] = now_ + Times(price, instances_[i].slowdown);
  return true;
}

// A request that is retried makes again what its client has.
void TokenEngine::Yield(RequestId id) {
  std::vector<TimePs>& delivered = records_[id].tokens;
  if (++states_[id].generated > static_cast<std::int32_t>(delivered.size())) delivered.push_back(now_);
}

// The token at the end of a prefill, and where the request goes from there.
void TokenEngine::FirstOrNextToken(RequestId id) {
  State& s = states_[id];
  s.prefilled = 0;
  if (s.cancelled) {
    Remove(id, Outcome::kTimeout, false);
    return;
  }
  s.prefilling = false;
  Yield(id);
  const Instance& inst = instances_[s.instance];
  if (Finished(id)) {
    Remove(id, Outcome::kFinished, true);
  } else if (inst.role == Role::kPrefill) {
    Handover(id);
  } else {
    s.batch = FindOrMake(s.instance, inst.grant.label, records_[id].model);
    s.batch->stepping.push_back(id);
    s.stepping = true;
  }
}

// --------------------------------------------------------------------------------------------------------------- steps

// Brings the KV of a batch to the GPU: what is to be sent is added to `in`.
void TokenEngine::Fetch(InstanceId i, const BatchPtr& batch, Transfer& in, bool& waiting) {
  if (batch->place == Place::kLeaving || batch->place == Place::kComing) {
    waiting = true;
    return;
  }
  const auto free = [&] { return GpuCapacity(i) - GpuUsed(i) - in.bytes; };
  if (batch->place == Place::kHost) {
    std::int64_t bytes = 0;
    for (const RequestId id : batch->stepping) bytes += KvBytes(id);
    if (batch->stepping.empty()) {
      batch->place = Place::kGpu;
    } else if (bytes <= free()) {
      batch->place = Place::kComing;
      in.batches.push_back(batch);
      in.bytes += bytes;
    } else if (Leaving(i) || Coming(i)) {
      waiting = true;
      return;
    } else {
      // It does not fit as a whole any more: its members come in one by one.
      for (const RequestId id : batch->stepping) {
        states_[id].stepping = false;
        states_[id].kv = KvPlace::kHost;
        batch->incoming.push_back(id);
      }
      batch->stepping.clear();
      batch->place = Place::kGpu;
    }
  }
  const bool running = batch->place == Place::kGpu && !batch->stepping.empty();
  std::vector<RequestId> all = batch->incoming;
  std::sort(all.begin(), all.end());
  bool full = false;
  for (const RequestId id : all) {
    State& s = states_[id];
    if (s.kv == KvPlace::kMoving) {
      waiting = true;
      continue;
    }
    if (s.kv == KvPlace::kHost) {
      // It comes in only with room for a step of everybody; one that cannot grow any more comes in to be failed.
      const std::int64_t bytes = KvBytes(id);
      const std::int64_t own = (Blocks(Context(id) + 1) - Blocks(Context(id))) * BlockBytes(i, batch->model);
      const std::int64_t step = bytes + own > GpuCapacity(i) ? 0 : GrowthOfAll(i) + own;
      full = full || bytes + step > free();
      if (full) {
        waiting = waiting || Leaving(i) || Coming(i);
        continue;
      }
      if (!running || !setup_.kv_join_free) {
        s.kv = KvPlace::kMoving;
        in.requests.push_back(id);
        in.bytes += bytes;
        continue;
      }
      s.kv = KvPlace::kGpu;
    }
    if (batch->place == Place::kGpu) {
      std::erase(batch->incoming, id);
      batch->stepping.push_back(id);
      s.stepping = true;
    }
  }
}

void TokenEngine::SendIn(InstanceId i, Transfer& in, bool& waiting) {
  if (in.batches.empty() && in.requests.empty()) return;
  kv_bytes_moved += in.bytes * instances_[i].gpus;
  in.kind = Move::kIn;
  in.instance = i;
  const std::vector<RequestId> requests = in.requests;
  const std::int64_t number = Send(in, Direction::kIn, in.bytes, setup_.kv_copy);
  for (const RequestId id : requests) states_[id].transfer = number;
  waiting = true;
}

void TokenEngine::PreemptLatest(InstanceId i, const BatchPtr& batch) {
  Preempt(i, *std::max_element(batch->stepping.begin(), batch->stepping.end()));
}

bool TokenEngine::StartDecode(InstanceId i, const Grant& grant) {
  Instance& inst = instances_[i];
  Transfer in;
  bool waiting = false;
  std::vector<BatchPtr> parts;
  for (const int label : grant.batches) {
    const BatchPtr batch = Find(i, label);
    if (batch == nullptr || !resident(i, batch->model)) Broken("a decode of a batch that is not there, or without weights");
    Fetch(i, batch, in, waiting);
    if (batch->place == Place::kGpu && !batch->stepping.empty()) parts.push_back(batch);
  }
  SendIn(i, in, waiting);
  const auto wait = [&] {
    timer_[i] = kNever;
    SetPhase(i, Phase::kCopy);
    return true;
  };
  if (parts.empty() || (waiting && !setup_.overlap_kv)) {
    if (!waiting && !Leaving(i) && !Coming(i)) Broken("a decode of which nothing can run");
    return wait();
  }
  // Room for the first step: the latest arrivals of its batch make it.
  const BatchPtr first = parts.front();
  while (GpuUsed(i) + Growth(*first) > GpuCapacity(i)) {
    if (Leaving(i)) return wait();
    const bool last = first->stepping.size() + first->incoming.size() == 1;
    PreemptLatest(i, first);
    if (last || first->stepping.empty()) return false;
  }
  inst.parts = parts;
  inst.mixed = false;
  inst.done = 0;
  inst.spent = 0;
  inst.stop = inst.stop_next = false;
  SetPhase(i, Phase::kRun);
  BeginStep(i);
  return true;
}

bool TokenEngine::StartMixed(InstanceId i, const Grant& grant) {
  Instance& inst = instances_[i];
  if (inst.role == Role::kDecode || grant.pieces.empty() || grant.steps < 1) Broken("a mixed step that cannot be");
  const ModelId m = records_[grant.pieces.front().request].model;
  if (!resident(i, m)) Broken("a prefill without weights");
  const std::int64_t steps = grant.pieces.size() == 1 ? grant.steps : 1;
  std::vector<Chunk> chunks;
  for (const Grant::Piece& piece : grant.pieces) {
    State& s = states_[piece.request];
    if (!s.live || s.instance != i || s.executing || s.batch != nullptr || records_[piece.request].model != m)
      Broken("a request cannot be prefilled now");
    if (s.prefilled == 0) {
      if (s.kv != KvPlace::kNowhere) Broken("a request that is prefilled has KV already");
      s.kv = KvPlace::kGpu;
      s.prefilling = true;
    }
    if (piece.tokens < 1 || s.prefilled + piece.tokens * steps > Context(piece.request)) Broken("a piece goes beyond its prompt");
    s.executing = true;
    chunks.push_back({s.prefilled, piece.tokens});
  }
  if (GpuUsed(i) > GpuCapacity(i)) Broken("a prefill that does not fit");
  BatchPtr batch = FindOrMake(i, grant.label, m);
  Transfer in;
  bool waiting = false;
  Fetch(i, batch, in, waiting);
  SendIn(i, in, waiting);
  while (!batch->stepping.empty() && GpuUsed(i) + Growth(*batch) > GpuCapacity(i) && !Leaving(i)) PreemptLatest(i, batch);
  batch = FindOrMake(i, grant.label, m);
  if (!batch->stepping.empty() && GpuUsed(i) + Growth(*batch) > GpuCapacity(i)) {
    // What was preempted has yet to leave: the pieces are taken back until then.
    for (const Grant::Piece& piece : grant.pieces) {
      State& s = states_[piece.request];
      s.executing = false;
      if (s.prefilled > 0) continue;
      s.kv = KvPlace::kNowhere;
      s.prefilling = false;
    }
    timer_[i] = kNever;
    SetPhase(i, Phase::kCopy);
    return true;
  }
  inst.parts.assign(1, batch);
  inst.mixed = true;
  inst.mixed_price = prices_.Mixed(m, inst.shape, static_cast<std::int64_t>(batch->stepping.size()), chunks);
  inst.steps_left = steps;
  inst.done = 0;
  inst.spent = 0;
  inst.stop = inst.stop_next = false;
  SetPhase(i, Phase::kRun);
  BeginStep(i);
  return true;
}

void TokenEngine::BeginStep(InstanceId i) {
  Instance& inst = instances_[i];
  const Batch& batch = *inst.parts[static_cast<std::size_t>(inst.done) % inst.parts.size()];
  const std::int64_t context = ContextOf(batch);
  const StepPrice lines =
      inst.mixed ? inst.mixed_price : prices_.Decode(batch.model, inst.shape, static_cast<std::int64_t>(batch.stepping.size()));
  const StepPrice slowed{Times(lines.a, inst.slowdown), Times(lines.b, inst.slowdown)};
  const TimePs price = slowed.At(context, inst.mixed ? inst.done : 0);
  inst.step_start = now_;
  inst.step_end = now_ + price;
  if (inst.done == 0) inst.first_step = price;
  timer_[i] = inst.step_end;
}

bool TokenEngine::NextStepFits(InstanceId i) const {
  const Instance& inst = instances_[i];
  const Batch& next = *inst.parts[static_cast<std::size_t>(inst.done) % inst.parts.size()];
  return GpuUsed(i) + Growth(next) <= GpuCapacity(i);
}

void TokenEngine::EndStep(InstanceId i) {
  Instance& inst = instances_[i];
  const BatchPtr batch = inst.parts[static_cast<std::size_t>(inst.done) % inst.parts.size()];
  ++steps_;
  bool somebody_finished = false;
  for (const RequestId id : batch->stepping) {
    Yield(id);
    somebody_finished = somebody_finished || Finished(id);
  }
  Busy(i, Activity::kDecode, inst.step_start);
  const TimePs length = now_ - inst.step_start;
  inst.spent += length;
  inst.step_time_since_switch += length;
  inst.last_step_end = now_;
  ++inst.done;
  if (inst.mixed) {
    for (const Grant::Piece& piece : inst.grant.pieces) states_[piece.request].prefilled += piece.tokens;
    --inst.steps_left;
  }
  bool over = somebody_finished || inst.stop || (inst.mixed && inst.steps_left == 0);
  if (inst.grant.quota != kNever) {
    const TimePs clock = inst.grant.quota_after_first ? inst.spent - inst.first_step : inst.spent;
    over = over || clock >= inst.grant.quota;
  }
  if (!over && NextStepFits(i)) {
    inst.stop = inst.stop_next;
    inst.stop_next = false;
    BeginStep(i);
    return;
  }
  inst.last_run_time = inst.spent;
  inst.last_run_label = batch->label;
  inst.phase = Phase::kBetween;
  const std::vector<BatchPtr> parts = inst.parts;
  inst.parts.clear();
  for (const BatchPtr& part : parts) {
    for (const RequestId id : std::vector<RequestId>(part->stepping)) {
      if (Finished(id)) Remove(id, Outcome::kFinished, true);
    }
  }
  if (inst.mixed) {
    for (const Grant::Piece& piece : std::vector<Grant::Piece>(inst.grant.pieces)) {
      State& s = states_[piece.request];
      s.executing = false;
      if (s.cancelled && s.prefilled < Context(piece.request)) {
        Remove(piece.request, Outcome::kTimeout, false);
      } else if (s.prefilled == Context(piece.request)) {
        FirstOrNextToken(piece.request);
      }
    }
    Forget(parts.front());
  }
  for (const BatchPtr& part : parts) {
    for (const RequestId id : std::vector<RequestId>(part->stepping)) {
      if (states_[id].cancelled) Remove(id, Outcome::kTimeout, true);
    }
  }
  Dispatch(i);
}

// A step that ends now is done for everybody, and the next one has begun: it is that one whose end is asked for.
void TokenEngine::AskForBoundary(InstanceId i) {
  Instance& inst = instances_[i];
  (StepEndsNow(inst) ? inst.stop_next : inst.stop) = true;
}

// -------------------------------------------------------------------------------------------------------------- switch

Tier TokenEngine::TierOf(InstanceId i, ModelId m) const {
  for (const auto& entry : nodes_[facts_[i].node].cache) {
    if (entry.first == m) return Tier::kHostCache;
  }
  return setup_.backing;
}

WeightSource TokenEngine::SourceOf(InstanceId i, ModelId m) const {
  switch (TierOf(i, m)) {
    case Tier::kHostCache:
      return WeightSource::kHostCache;
    case Tier::kNvme:
      return WeightSource::kNvme;
    default:
      return WeightSource::kRemote;
  }
}

std::int64_t TokenEngine::TakeFromTier(InstanceId i, ModelId m) {
  Node& node = nodes_[facts_[i].node];
  auto& cache = node.cache;
  const Tier tier = TierOf(i, m);
  const std::int64_t bytes = prices_.WeightBytes(m, instances_[i].shape) * instances_[i].node_gpus;
  switching.bytes[static_cast<std::size_t>(tier)] += prices_.WeightBytes(m, instances_[i].shape) * instances_[i].gpus;
  if (tier == Tier::kHostCache) {
    ++switching.cache_hits;
    const auto at = std::find_if(cache.begin(), cache.end(), [m](const auto& entry) { return entry.first == m; });
    const auto entry = *at;
    cache.erase(at);
    cache.push_back(entry);
    return setup_.host_load;
  }
  ++switching.cache_misses;
  if (bytes <= setup_.host_cache_bytes && node.cache_away == 0) {
    for (; HostCacheUsed(node) + bytes > setup_.host_cache_bytes; ++switching.cache_evictions) cache.erase(cache.begin());
    cache.push_back({m, bytes});
  }
  return std::min(setup_.host_load, setup_.backing_load);
}

bool TokenEngine::StartSwitch(InstanceId i, const Grant& grant) {
  Instance& inst = instances_[i];
  const ModelId m = grant.model;
  if (facts_[i].pinned) Broken("a pinned instance switches");
  const bool there = resident(i, m);
  std::vector<ModelId> next = {m};
  for (const ModelId k : grant.keep) {
    if (k != m && resident(i, k)) next.push_back(k);
  }
  std::sort(next.begin() + 1, next.end());
  const bool must_leave_first = !setup_.overlap_kv && !there && Leaving(i);
  if (must_leave_first || prices_.KvCapacityBytes(inst.shape, next, facts_[i].prefetch_bytes) < GpuUsed(i)) {
    if (!Leaving(i) && !Coming(i)) Broken("a switch leaves no room for the KV that is there");
    timer_[i] = kNever;
    SetPhase(i, Phase::kCopy);
    return true;
  }
  const bool from_buffer = grant.hiding == Grant::Hiding::kPrefetched && inst.prefetched == m;
  if (m != inst.loaded) {
    switches_.push_back({m, now_});
    WeightSource from = WeightSource::kResident;
    if (there) {
      switch_latencies.push_back(0);
    } else if (from_buffer) {
      from = inst.prefetch_ready ? WeightSource::kPrefetched : WeightSource::kPrefetching;
    } else {
      from = SourceOf(i, m);
    }
    ++switching.from[static_cast<std::size_t>(from)];
  }
  inst.loaded = m;
  inst.resident = next;
  const TimePs credit = inst.step_time_since_switch;
  inst.step_time_since_switch = 0;
  if (there) return false;
  SetPhase(i, Phase::kSwitch);
  const std::int64_t bytes = prices_.WeightBytes(m, inst.shape);
  inst.switch_earliest_end = now_ + grant.least;
  inst.switch_loads_after_timer = false;
  inst.switch_waits_for_prefetch = false;
  inst.switch_from_buffer = from_buffer;
  if (from_buffer) {
    if (inst.prefetch_ready) {
      SwitchGoesOn(i);
    } else {
      inst.switch_waits_for_prefetch = true;
      timer_[i] = kNever;
    }
    return true;
  }
  weight_bytes_moved += bytes * inst.gpus;
  if (grant.hiding == Grant::Hiding::kCredit) {
    const TimePs load = setup_.engine_init + TransferTime(bytes, TakeFromTier(i, m));
    timer_[i] = now_ + std::max(grant.least, load - credit);
    return true;
  }
  inst.switch_loads_after_timer = true;
  if (setup_.engine_init > 0) {
    timer_[i] = now_ + setup_.engine_init;
  } else {
    SwitchGoesOn(i);
  }
  return true;
}

void TokenEngine::SwitchGoesOn(InstanceId i) {
  Instance& inst = instances_[i];
  const std::int64_t bytes = prices_.WeightBytes(inst.loaded, inst.shape);
  if (inst.switch_loads_after_timer) {
    inst.switch_loads_after_timer = false;
    if (inst.prefetch_transfer >= 0) {
      // A prefetch of something else is in the way of these weights.
      links_[inst.link].Cancel(now_, inst.prefetch_transfer);
      std::erase_if(transfers_, [&](const Transfer& t) { return t.number == inst.prefetch_transfer; });
      inst.prefetch_transfer = -1;
      inst.prefetched = kNone;
    }
    timer_[i] = kNever;
    Transfer t;
    t.kind = Move::kWeights;
    t.instance = i;
    Load(t, inst.loaded);
    return;
  }
  if (inst.prefetched == inst.loaded) {
    // Out of the buffer: read and written once in GPU memory.
    inst.prefetched = kNone;
    inst.prefetch_ready = false;
    timer_[i] =
        std::max(inst.switch_earliest_end, now_ + setup_.engine_init + TransferTime(2 * bytes, setup_.gpu.hbm_bytes_per_s));
    return;
  }
  if (now_ < inst.switch_earliest_end) {
    timer_[i] = inst.switch_earliest_end;
    return;
  }
  FinishSwitch(i);
}

void TokenEngine::FinishSwitch(InstanceId i) {
  Instance& inst = instances_[i];
  const TimePs latency = now_ - inst.phase_start;
  switch_latencies.push_back(latency);
  TimePs copy = 0;
  if (inst.switch_from_buffer) copy = TransferTime(2 * prices_.WeightBytes(inst.loaded, inst.shape), setup_.gpu.hbm_bytes_per_s);
  const TimePs init = std::min(setup_.engine_init, latency);  // a credit may hide a part of it
  switching.engine_init += init;
  switching.copy += copy;
  switching.weights += latency - init - copy;
  Busy(i, Activity::kSwitch, inst.phase_start);
  Dispatch(i);
}

void TokenEngine::StartPrefetch(InstanceId i, ModelId m) {
  Instance& inst = instances_[i];
  const std::int64_t bytes = prices_.WeightBytes(m, inst.shape);
  if (!setup_.prefetch || inst.prefetched == m || resident(i, m) || bytes > facts_[i].prefetch_bytes ||
      inst.prefetch_transfer >= 0)
    return;
  inst.prefetched = m;
  inst.prefetch_ready = false;
  weight_bytes_moved += bytes * inst.gpus;
  Transfer t;
  t.kind = Move::kPrefetch;
  t.instance = i;
  ++switching.prefetches;
  inst.prefetch_transfer = Load(t, m);
}

// ----------------------------------------------------------------------------------------------------------- transfers

std::int64_t TokenEngine::Send(Transfer transfer, Direction direction, std::int64_t bytes, std::int64_t rate) {
  const Instance& inst = instances_[transfer.instance];
  transfer.number = next_transfer_++;
  links_[inst.link].Add(now_, inst.lane, direction, bytes, rate, transfer.number);
  LinkChanged(inst.link);
  transfers_.push_back(std::move(transfer));
  return transfers_.back().number;
}

std::int64_t TokenEngine::Load(Transfer transfer, ModelId m) {
  const InstanceId i = transfer.instance;
  const Instance& inst = instances_[i];
  const Tier tier = TierOf(i, m);
  transfer.number = next_transfer_++;
  links_[inst.link].Add(now_, inst.lane, Direction::kIn, prices_.WeightBytes(m, inst.shape), TakeFromTier(i, m), transfer.number,
                        transfer.kind == Move::kPrefetch, tier, inst.node_gpus);
  LinkChanged(inst.link);
  transfers_.push_back(std::move(transfer));
  return transfers_.back().number;
}

void TokenEngine::FinishTransfer(std::int64_t number) {
  const auto at = std::find_if(transfers_.begin(), transfers_.end(), [number](const Transfer& t) { return t.number == number; });
  if (at == transfers_.end()) Broken("a transfer ended twice");
  const Transfer t = std::move(*at);
  transfers_.erase(at);
  const InstanceId i = t.instance;
  Instance& inst = instances_[i];
  switch (t.kind) {
    case Move::kWeights:
      if (inst.weights_back != kNone) {
        switch_latencies.push_back(now_ - inst.phase_start);
        switching.weights += now_ - inst.phase_start;
        CutShort(i);
        ++inst.weights_back;
        LoadBack(i);
        RouteHeld();
      } else if (now_ < inst.switch_earliest_end) {
        timer_[i] = inst.switch_earliest_end;
      } else {
        FinishSwitch(i);
      }
      return;
    case Move::kPrefetch:
      inst.prefetch_ready = true;
      inst.prefetch_transfer = -1;
      if (inst.switch_waits_for_prefetch) {
        inst.switch_waits_for_prefetch = false;
        SwitchGoesOn(i);
      }
      return;
    case Move::kBatchOut:
      for (const BatchPtr& batch : t.batches) batch->place = Place::kHost;
      for (const RequestId id : t.requests) {
        if (states_[id].transfer != number) continue;  // it is gone
        states_[id].kv = KvPlace::kHost;
        states_[id].transfer = -1;
      }
      break;
    case Move::kIn:
      for (const BatchPtr& batch : t.batches) batch->place = Place::kGpu;
      for (const RequestId id : t.requests) {
        if (states_[id].transfer == number) {
          states_[id].kv = KvPlace::kGpu;
          states_[id].transfer = -1;
        }
      }
      break;
    case Move::kRequestOut:
    case Move::kHandover:
      for (const RequestId id : t.requests) {
        if (states_[id].transfer != number) continue;  // it is gone
        states_[id].transfer = -1;
        states_[id].kv = KvPlace::kHost;
        if (t.kind == Move::kHandover) {
          RouteToDecode(id);
        } else {
          scheduler_.OnQueued(id, i, *this);
        }
      }
      break;
  }
  if (inst.phase == Phase::kCopy) {
    Busy(i, Activity::kKvCopy, inst.phase_start);
    Dispatch(i);
  } else if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) {
    Dispatch(i);
  } else if (inst.phase == Phase::kRun && (t.kind == Move::kIn || t.kind == Move::kRequestOut)) {
    AskForBoundary(i);
  }
}

void TokenEngine::Evict(InstanceId i, const BatchPtr& batch) {
  std::vector<RequestId> all, beside;  // beside: members that have come to the batch on the GPU and have not stepped in it
  const bool stepping = batch->place == Place::kGpu && !batch->stepping.empty();
  if (stepping) all = batch->stepping;
  for (const RequestId id : batch->incoming) {
    if (states_[id].kv == KvPlace::kGpu) beside.push_back(id);
  }
  all.insert(all.end(), beside.begin(), beside.end());
  if (all.empty()) return;
  std::int64_t bytes = 0;
  for (const RequestId id : all) bytes += KvBytes(id);
  if (HostUsed() + bytes * instances_[i].gpus > setup_.host_kv_bytes) {
    std::sort(all.begin(), all.end());
    for (const RequestId id : all) Preempt(i, id);
    return;
  }
  kv_bytes_moved += bytes * instances_[i].gpus;
  for (const RequestId id : beside) states_[id].kv = setup_.kv_out_free ? KvPlace::kHost : KvPlace::kMoving;
  if (stepping) batch->place = setup_.kv_out_free ? Place::kHost : Place::kLeaving;
  if (setup_.kv_out_free) return;
  Transfer t;
  t.kind = Move::kBatchOut;
  t.instance = i;
  t.bytes = bytes;
  if (stepping) t.batches.push_back(batch);
  t.requests = beside;
  const std::int64_t number = Send(t, Direction::kOut, bytes, setup_.kv_copy);
  for (const RequestId id : beside) states_[id].transfer = number;
}

void TokenEngine::Preempt(InstanceId i, RequestId id) {
  ++preemptions_;
  State& s = states_[id];
  LeaveBatch(id);
  const std::int64_t bytes = KvBytes(id);
  const bool outgrown = Blocks(Context(id) + 1) * BlockBytes(i, records_[id].model) > GpuCapacity(i);
  if (!outgrown && setup_.swap && HostUsed() + bytes * instances_[i].gpus <= setup_.host_kv_bytes) {
    kv_bytes_moved += bytes * instances_[i].gpus;
    if (setup_.kv_out_free) {
      s.kv = KvPlace::kHost;
    } else {
      s.kv = KvPlace::kMoving;
      Transfer t;
      t.kind = Move::kRequestOut;
      t.instance = i;
      t.bytes = bytes;
      t.requests.push_back(id);
      s.transfer = Send(t, Direction::kOut, bytes, setup_.kv_copy);
    }
    scheduler_.OnPreempted(id, i, *this);
    if (setup_.kv_out_free) {
      scheduler_.OnQueued(id, i, *this);
    }
    return;
  }
  s.kv = KvPlace::kNowhere;
  if (outgrown) {
    Remove(id, Outcome::kKvGrowth, true);
  } else if (instances_[i].role == Role::kDecode) {
    scheduler_.OnRemoved(id, i, *this);
    RouteArrival(id);
  } else {
    scheduler_.OnPreempted(id, i, *this);
  }
}

// ------------------------------------------------------------------------------------------------- requests and batches

void TokenEngine::LeaveBatch(RequestId id) {
  State& s = states_[id];
  if (s.batch == nullptr) return;
  s.kv = PlaceOf(id);
  std::erase(s.batch->stepping, id);
  std::erase(s.batch->incoming, id);
  const BatchPtr batch = s.batch;
  s.batch = nullptr;
  s.stepping = false;
  Forget(batch);
}

void TokenEngine::Remove(RequestId id, Outcome outcome, bool known_to_policy) {
  State& s = states_[id];
  LeaveBatch(id);
  s.kv = KvPlace::kNowhere;
  s.transfer = -1;
  records_[id].outcome = outcome;
  records_[id].left = now_;
  if (known_to_policy) {
    scheduler_.OnRemoved(id, s.instance, *this);
  }
  states_[id].live = false;
  states_[id].held = false;
}

void TokenEngine::Cancel(RequestId id) {
  State& s = states_[id];
  if (s.held) {
    Remove(id, Outcome::kTimeout, false);
    return;
  }
  const InstanceId i = s.instance;
  Instance& inst = instances_[i];
  const bool in_run =
      inst.phase == Phase::kRun && s.stepping && std::find(inst.parts.begin(), inst.parts.end(), s.batch) != inst.parts.end();
  if (s.executing || in_run) {
    s.cancelled = true;
    if (s.executing) {
      scheduler_.OnRemoved(id, i, *this);  // the prefill goes on, but for nobody
    }
    if (inst.phase == Phase::kRun) AskForBoundary(i);
    return;
  }
  // A request that is being handed over is gone for the policy already.
  const bool handed_over = inst.role == Role::kPrefill && (s.kv == KvPlace::kMoving || s.kv == KvPlace::kHost);
  Remove(id, Outcome::kTimeout, !handed_over);
  if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) {
    Dispatch(i);
  } else if (inst.phase == Phase::kRun) {
    AskForBoundary(i);
  }
}

// ------------------------------------------------------------------------------------------------------------ failures

// Whether the run goes on to the next failure: not without requests, nor where all is up and those that are left wait for
// nothing.
bool TokenEngine::OutagesMatter(bool more_requests) const {
  if (more_requests) return true;
  if (std::none_of(states_.begin(), states_.end(), [](const State& s) { return s.live; })) return false;
  const bool pending = std::any_of(timer_.begin(), timer_.end(), [](TimePs t) { return t != kNever; });
  return pending || down() > 0 || in_force_ > 0;
}

void TokenEngine::OnOutage() {
  const Outages::Event e = outages_.Take();
  const bool fails = e.change == Outages::Change::kDown;
  if (fails) ++in_force_;
  if (e.change == Outages::Change::kUp) --in_force_;
  switch (e.kind) {
    case FailureKind::kGpu:
      fails ? Fail(e.index, e.kind) : Mend(e.index);
      break;
    case FailureKind::kNode:
    case FailureKind::kDrain: {
      const std::vector<InstanceId> here = nodes_[static_cast<std::size_t>(e.index)].here;
      if (fails) {
        nodes_[nodes_[static_cast<std::size_t>(e.index)].first].cache.clear();
        // Who waits for an instance to come up still has its KV in the memory of its last one's node.
        for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
          const State& s = states_[id];
          if (s.live && s.held && s.kv == KvPlace::kHost && std::find(here.begin(), here.end(), s.instance) != here.end())
            Hit(id, Context(id));
        }
      }
      for (const InstanceId i : here) {
        if (e.change == Outages::Change::kDrain) {
          Drain(i);
        } else {
          fails ? Fail(i, e.kind) : Mend(i);
        }
      }
      break;
    }
    case FailureKind::kCache: {
      Node& node = nodes_[static_cast<std::size_t>(e.index)];
      node.cache_away += fails ? 1 : -1;
      if (fails) {
        node.cache.clear();
        ++failures.failures[static_cast<std::size_t>(e.kind)];
      }
      break;
    }
    case FailureKind::kLink:
      if (fails) ++failures.failures[static_cast<std::size_t>(e.kind)];
      links_[static_cast<std::size_t>(e.index)].Outage(now_, fails, setup_.failures.links.factor);
      LinkChanged(static_cast<std::size_t>(e.index));
      break;
  }
  RouteHeld();
}

// A GPU takes what is on it along; a node, and a drain whose grace is over, what is in the host's memory too.
void TokenEngine::Fail(InstanceId i, FailureKind kind) {
  Instance& inst = instances_[i];
  const bool before = up(i);
  ++failures.failures[static_cast<std::size_t>(kind)];
  if (kind == FailureKind::kDrain) --inst.draining;
  if (inst.away++ > 0) return;
  CutShort(i);
  timer_[i] = kNever;
  SetPhase(i, Phase::kDown);
  const std::vector<Transfer> cut = transfers_;
  DropTransfers(i);
  for (const RequestId id : RequestsAt(i)) {
    const State& s = states_[id];
    // Of whom the policy has heard already that it is gone: one on its way to a decode instance, one that gave up in its prefill.
    const bool handed_over = std::any_of(cut.begin(), cut.end(), [&](const Transfer& t) {
      return t.kind == Move::kHandover && std::find(t.requests.begin(), t.requests.end(), id) != t.requests.end();
    });
    const bool gave_up_in_prefill = s.executing && s.cancelled;
    const KvPlace kv = PlaceOf(id);
    const bool hit = kv == KvPlace::kGpu || (kv == KvPlace::kHost && kind != FailureKind::kGpu);
    const std::int64_t computed = s.prefilling ? s.prefilled : Context(id);
    Leave(id, !handed_over && !gave_up_in_prefill);
    if (s.cancelled) {
      Remove(id, Outcome::kTimeout, false);
    } else if (hit) {
      Hit(id, computed);
    } else {
      ++failures.moved;
    }
  }
  inst.batches.clear();
  inst.parts.clear();
  inst.loaded = kNone;
  inst.resident.clear();
  inst.prefetched = kNone;
  inst.prefetch_ready = false;
  inst.prefetch_transfer = -1;
  inst.switch_waits_for_prefetch = false;
  inst.switch_loads_after_timer = false;
  inst.step_time_since_switch = 0;
  inst.last_run_time = 0;
  inst.last_run_label = kNone;
  inst.weights_back = kNone;
  TellWhetherUp(i, before);
}

// KV that was on its way is still whole where it came from.
void TokenEngine::DropTransfers(InstanceId i) {
  for (const Transfer& t : transfers_) {
    if (t.instance != i) continue;
    links_[instances_[i].link].Cancel(now_, t.number);
    const bool in = t.kind == Move::kIn;
    for (const BatchPtr& batch : t.batches) batch->place = in ? Place::kHost : Place::kGpu;
    for (const RequestId id : t.requests) {
      if (states_[id].transfer != t.number) continue;  // it is gone
      states_[id].kv = in ? KvPlace::kHost : KvPlace::kGpu;
      states_[id].transfer = -1;
    }
  }
  std::erase_if(transfers_, [i](const Transfer& t) { return t.instance == i; });
  LinkChanged(instances_[i].link);
}

void TokenEngine::Mend(InstanceId i) {
  Instance& inst = instances_[i];
  if (--inst.away > 0) return;
  CutShort(i);
  SetPhase(i, Phase::kBetween);
  if (facts_[i].pinned) inst.weights_back = 0;
  LoadBack(i);
}

// The next of the weights that are pinned; when all are there, or none are, the instance takes requests unless it is drained.
void TokenEngine::LoadBack(InstanceId i) {
  Instance& inst = instances_[i];
  const std::vector<ModelId>& pinned = facts_[i].resident;
  if (inst.weights_back != kNone && inst.weights_back < static_cast<int>(pinned.size())) {
    const ModelId m = pinned[static_cast<std::size_t>(inst.weights_back)];
    switches_.push_back({m, now_});
    ++switching.from[static_cast<std::size_t>(SourceOf(i, m))];
    weight_bytes_moved += prices_.WeightBytes(m, inst.shape) * inst.gpus;
    SetPhase(i, Phase::kSwitch);
    Transfer t;
    t.kind = Move::kWeights;
    t.instance = i;
    Load(t, m);
    return;
  }
  if (facts_[i].pinned) {
    inst.resident = pinned;
    inst.loaded = pinned.front();
  }
  inst.weights_back = kNone;
  TellWhetherUp(i, false);
  Dispatch(i);
}

void TokenEngine::Drain(InstanceId i) {
  const bool before = up(i);
  ++instances_[i].draining;
  for (const RequestId id : RequestsAt(i)) {
    const KvPlace kv = PlaceOf(id);
    if (kv != KvPlace::kNowhere && kv != KvPlace::kHost) continue;  // it runs, or is about to
    Leave(id, true);
    ++failures.moved;
  }
  TellWhetherUp(i, before);
  const Phase phase = instances_[i].phase;
  if (phase == Phase::kIdle || phase == Phase::kWait) Dispatch(i);
}

void TokenEngine::TellWhetherUp(InstanceId i, bool before) {
  if (up(i) == before) return;
  if (before) {
    scheduler_.OnDown(i, *this);
  } else {
    scheduler_.OnUp(i, *this);
  }
}

void TokenEngine::Leave(RequestId id, bool known_to_policy) {
  State& s = states_[id];
  LeaveBatch(id);
  s.executing = false;
  s.held = true;
  if (known_to_policy) scheduler_.OnRemoved(id, s.instance, *this);
}

// Its KV is gone.
void TokenEngine::Hit(RequestId id, std::int64_t computed) {
  State& s = states_[id];
  const FailuresConfig& config = setup_.failures;
  ++failures.hit;
  ++s.hits;
  s.kv = KvPlace::kNowhere;
  s.prefilling = false;
  s.prefilled = 0;
  if (config.in_flight == "lost" || s.hits > config.max_retries) {
    ++failures.lost;
    Remove(id, Outcome::kLost, false);
    return;
  }
  ++failures.retried;
  failures.recomputed += computed;
  if (config.in_flight == "retry") s.generated = 0;
}

bool TokenEngine::Hold(RequestId id, InstanceId i) {
  const bool nobody = i == kNone || (i >= 0 && i < static_cast<InstanceId>(instances_.size()) && !up(i));
  states_[id].held = nobody && down() > 0;
  return states_[id].held;
}

// Each is asked for once, in order of arrival.
void TokenEngine::RouteHeld() {
  std::vector<RequestId> waiting;
  for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
    if (states_[id].live && states_[id].held) waiting.push_back(id);
  }
  for (const RequestId id : waiting) {
    if (!states_[id].held) continue;  // it gave up meanwhile
    if (states_[id].kv == KvPlace::kHost) {
      RouteToDecode(id);
    } else {
      RouteArrival(id);
    }
  }
}

std::vector<RequestId> TokenEngine::RequestsAt(InstanceId i) const {
  std::vector<RequestId> ids;
  for (RequestId id = 0; id < static_cast<RequestId>(states_.size()); ++id) {
    if (states_[id].live && !states_[id].held && states_[id].instance == i) ids.push_back(id);
  }
  return ids;
}

TokenEngine::BatchPtr TokenEngine::Find(InstanceId i, int label) const {
  for (const BatchPtr& batch : instances_[i].batches) {
    if (batch->label == label) return batch;
  }
  return nullptr;
}

TokenEngine::BatchPtr TokenEngine::FindOrMake(InstanceId i, int label, ModelId m) {
  if (BatchPtr batch = Find(i, label)) return batch;
  auto batch = std::make_shared<Batch>();
  batch->instance = i;
  batch->label = label;
  batch->model = m;
  instances_[i].batches.push_back(batch);
  return batch;
}

void TokenEngine::Forget(const BatchPtr& batch) {
  Instance& inst = instances_[batch->instance];
  const bool runs = std::find(inst.parts.begin(), inst.parts.end(), batch) != inst.parts.end();  // with pieces of prompts only
  if (batch->stepping.empty() && batch->incoming.empty() && !runs) std::erase(inst.batches, batch);
}

// --------------------------------------------------------------------------------------------------------------- views

RequestView TokenEngine::request(RequestId id) const {
  const Record& r = records_[id];
  const State& s = states_[id];
  RequestView v;
  v.sequence = id;
  v.model = r.model;
  v.arrival = r.arrival;
  v.prompt_tokens = r.prompt;
  v.generated = s.generated;
  v.prefilled = s.prefilled;
  v.kv = PlaceOf(id);
  if (s.instance == kNone || !StepEndsNow(instances_[s.instance])) return v;
  const Instance& inst = instances_[s.instance];
  if (s.stepping && inst.parts[static_cast<std::size_t>(inst.done) % inst.parts.size()] == s.batch) ++v.generated;
  for (const Grant::Piece& piece : inst.grant.pieces) {
    if (s.executing && piece.request == id) v.prefilled += piece.tokens;
  }
  return v;
}

bool TokenEngine::resident(InstanceId i, ModelId m) const {
  const std::vector<ModelId>& list = instances_[i].resident;
  return std::find(list.begin(), list.end(), m) != list.end();
}

bool TokenEngine::busy(InstanceId i) const {
  const Phase phase = instances_[i].phase;
  return phase != Phase::kIdle && phase != Phase::kWait && phase != Phase::kDown;
}

bool TokenEngine::up(InstanceId i) const {
  const Instance& inst = instances_[i];
  return inst.away == 0 && inst.draining == 0 && inst.weights_back == kNone;
}

std::int64_t TokenEngine::down() const {
  std::int64_t n = 0;
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) n += up(i) ? 0 : 1;
  return n;
}

BatchView TokenEngine::batch(InstanceId i, int label) const {
  BatchView v;
  const BatchPtr batch = Find(i, label);
  if (batch == nullptr) return v;
  v.model = batch->model;
  v.size = static_cast<std::int64_t>(batch->stepping.size() + batch->incoming.size());
  for (const RequestId id : batch->stepping) v.context_tokens += request(id).context();
  for (const RequestId id : batch->incoming) v.context_tokens += request(id).context();
  return v;
}

bool TokenEngine::on_gpu(InstanceId i, int label) const {
  const BatchPtr batch = Find(i, label);
  if (batch == nullptr) return false;
  const auto here = [this](RequestId id) { return PlaceOf(id) == KvPlace::kGpu; };
  return std::any_of(batch->stepping.begin(), batch->stepping.end(), here) ||
         std::any_of(batch->incoming.begin(), batch->incoming.end(), here);
}

std::int64_t TokenEngine::kv_capacity_tokens(InstanceId i, ModelId m) const {
  return GpuCapacity(i) / BlockBytes(i, m) * setup_.block_tokens;
}

std::int64_t TokenEngine::kv_free_tokens(InstanceId i, ModelId m) const {
  const Instance& inst = instances_[i];
  const std::int64_t growing =
      StepEndsNow(inst) ? Growth(*inst.parts[static_cast<std::size_t>(inst.done) % inst.parts.size()]) : 0;
  return std::max<std::int64_t>(0, GpuCapacity(i) - GpuUsed(i) - growing) / BlockBytes(i, m) * setup_.block_tokens;
}

TimePs TokenEngine::last_step_end(InstanceId i) const { return StepEndsNow(instances_[i]) ? now_ : instances_[i].last_step_end; }

// ------------------------------------------------------------------------------------------------------------- metrics

// The share of a finished request's service time in which the targets hold.
double TokenEngine::ServiceOf(const Record& r) const {
  const TimePs ttft = setup_.models[r.model].ttft_slo;
  const TimePs tbt = setup_.models[r.model].tbt_slo;
  TimePs start = 0, target = ttft, ok = 0, pending = 0;
  for (const TimePs token : r.tokens) {
    const TimePs since = token - r.arrival;
    if (since - start <= target) {
      pending = target;
    } else {
      ok += pending;
      start = since;
      pending = 0;
    }
    target += tbt;
  }
  const TimePs last = r.tokens.back() - r.arrival;
  ok += std::min(target, last - start);
  return static_cast<double>(ok) / static_cast<double>(last);
}

std::vector<TokenEngine::ModelTotals> TokenEngine::Totals() const {
  std::vector<ModelTotals> all(setup_.models.size());
  for (const auto& [m, at] : switches_) ++all[m].switches;
  for (const Record& r : records_) {
    if (r.arrival < setup_.warmup) continue;
    ModelTotals& t = all[r.model];
    const TimePs ttft = setup_.models[r.model].ttft_slo;
    const TimePs tbt = setup_.models[r.model].tbt_slo;
    ++t.requests;
    ++t.outcomes[static_cast<std::size_t>(r.outcome)];
    t.prompt_tokens += r.prompt;
    t.wanted_tokens += r.output;
    bool all_on_time = true, smooth = true;
    for (std::size_t i = 0; i < r.tokens.size(); ++i) {
      ++t.output_tokens;
      const bool on_time = r.tokens[i] <= r.arrival + ttft + static_cast<TimePs>(i) * tbt;
      t.on_time_tokens += on_time ? 1 : 0;
      all_on_time = all_on_time && on_time;
      const TimePs gap = r.tokens[i] - (i == 0 ? r.arrival : r.tokens[i - 1]);
      (i == 0 ? t.ttft : t.tbt).push_back(gap);
      smooth = smooth && gap <= (i == 0 ? ttft : tbt);
    }
    if (r.outcome != Outcome::kFinished) continue;
    t.on_time_requests += all_on_time ? 1 : 0;
    t.smooth_requests += smooth ? 1 : 0;
    t.e2e.push_back(r.tokens.back() - r.arrival);
    if (r.tokens.size() > 1) t.tpot.push_back((r.tokens.back() - r.tokens.front()) / (static_cast<TimePs>(r.tokens.size()) - 1));
    t.service += ServiceOf(r);
  }
  return all;
}

std::vector<Window> TokenEngine::Windows() const {
  std::vector<Window> windows;
  const auto at = [&](TimePs t) -> Window& {
    const auto index = static_cast<std::size_t>(t / setup_.window);
    if (index >= windows.size()) windows.resize(index + 1);
    return windows[index];
  };
  for (const Record& r : records_) {
    ++at(r.arrival).arrived;
    if (r.outcome == Outcome::kFinished) at(r.arrival).service += ServiceOf(r);
    if (r.left != kNever) ++(r.outcome == Outcome::kFinished ? at(r.left).finished : at(r.left).failed);
    const ModelFacts& m = setup_.models[r.model];
    for (std::size_t i = 0; i < r.tokens.size(); ++i) {
      Window& w = at(r.tokens[i]);
      ++w.output_tokens;
      if (r.tokens[i] <= r.arrival + m.ttft_slo + static_cast<TimePs>(i) * m.tbt_slo) ++w.on_time_tokens;
    }
  }
  for (const auto& [m, t] : switches_) ++at(t).switches;
  for (const BusyTime& b : busy_) {
    for (TimePs from = b.from; from < b.to;) {
      const TimePs to = std::min(b.to, (from / setup_.window + 1) * setup_.window);
      at(from).activity[static_cast<std::size_t>(b.kind)] += (to - from) * b.gpus;
      from = to;
    }
  }
  return windows;
}

__int128 TokenEngine::ActiveModelTime() const {
  __int128 sum = 0;
  for (ModelId m = 0; m < static_cast<ModelId>(setup_.models.size()); ++m) {
    // Requests come in order of arrival: time that an earlier one has covered is not counted again.
    TimePs covered = 0;
    for (const Record& r : records_) {
      if (r.model != m) continue;
      const TimePs from = std::max(covered, r.arrival);
      const TimePs to = r.left == kNever ? now_ : r.left;
      if (to > from) sum += to - from;
      covered = std::max(covered, to);
    }
  }
  return sum;
}

}  // namespace poolsim
