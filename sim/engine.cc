#include "sim/engine.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <map>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/nodes.h"

namespace poolsim {
namespace {

TimePs Times(TimePs time, double factor) { return PsFromSeconds(ToSeconds(time) * factor); }

Line Times(const Line& line, double factor) {
  return {Times(line.base, factor), Times(line.per_token, factor), Times(line.per_chunk, factor)};
}

std::vector<Targets> TargetsOf(const std::vector<ModelFacts>& models) {
  std::vector<Targets> targets;
  for (const ModelFacts& m : models) targets.push_back({m.ttft_slo, m.tbt_slo});
  return targets;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------- set-up

Engine::Engine(PoolSetup setup, const Prices& prices, Placement& placement, Router& router, Scheduler& scheduler)
    : setup_(std::move(setup)),
      prices_(prices),
      router_(router),
      scheduler_(scheduler),
      metrics_(TargetsOf(setup_.models), setup_.warmup, setup_.window),
      padding_table_(setup_.block_tokens) {
  PlaceInstances(placement);
  const auto slots = static_cast<std::int64_t>(instances_.size() + links_.size());
  events_.Resize(slots + 1);  // the last one is for failures
  if (outages_.next() != kNever) events_.Set(slots, outages_.next());
}

Engine::~Engine() = default;

void Engine::PlaceInstances(Placement& placement) {
  facts_ = placement.Place(setup_.fleet, setup_.models, prices_);
  const std::int64_t per_node = setup_.fleet.gpus_per_node;
  NodePacking packing(per_node);
  std::vector<std::vector<std::pair<std::int64_t, int>>> links_of_node;
  std::vector<int> lanes;
  std::vector<NodePacking::Place> places;  // in the pool
  std::map<NodeId, NodeId> here;           // of a part of a pool: the nodes that it has GPUs in
  const auto take = [&](std::size_t i, std::int64_t size) {
    if (setup_.places.empty()) {
      places.push_back(packing.Take(size));
      nodes_.resize(packing.nodes());
      return places.back();
    }
    NodePacking::Place place = setup_.places[i];
    places.push_back(place);
    const auto [at, fresh] = here.insert({place.node, static_cast<NodeId>(nodes_.size())});
    if (fresh) nodes_.resize(nodes_.size() + static_cast<std::size_t>(std::max<std::int64_t>(1, size / per_node)));
    place.node = at->second;
    return place;
  };
  for (std::size_t i = 0; i < facts_.size(); ++i) {
    InstanceFacts& f = facts_[i];
    f.shape.node_gpus = static_cast<int>(per_node);
    CheckShapeOnNodes(f.shape, [this](const char* key) { return fmt::format("pool \"{}\": {}", setup_.name, key); });
    const std::int64_t size = f.shape.gpus();
    const std::int64_t in_node = std::min(size, per_node);
    const NodePacking::Place place = take(i, size);
    const auto at = static_cast<std::size_t>(place.node);
    f.node = place.node;
    links_of_node.resize(nodes_.size());
    result_.gpus += size;

    Instance inst;
    inst.shape = prices_.Id(f.shape);
    inst.gpus = static_cast<int>(size);
    inst.node_gpus = static_cast<int>(in_node);
    inst.node = f.node;
    inst.role = f.role;
    // Instances whose first GPUs lie under one uplink share it.
    const std::int64_t uplink = place.first_gpu / setup_.gpus_per_link;
    auto& uplinks = links_of_node[at];
    const auto found = std::find_if(uplinks.begin(), uplinks.end(), [&](const auto& u) { return u.first == uplink; });
    if (found == uplinks.end()) {
      inst.link = static_cast<std::int32_t>(lanes.size());
      uplinks.push_back({uplink, inst.link});
      lanes.push_back(0);
      link_node_.push_back(f.node);
      nodes_[at].links.push_back(inst.link);
    } else {
      inst.link = found->second;
    }
    inst.lane = lanes[inst.link]++;
    std::sort(f.models.begin(), f.models.end());
    for (const ModelId m : f.models) prices_.Bind(m, inst.shape);
    instances_.push_back(std::move(inst));
    SetResident(static_cast<InstanceId>(i), f.resident);
    if (!f.resident.empty()) instances_.back().loaded = f.resident.front();
  }
  Link::Config config;
  config.rate[0] = config.rate[1] = setup_.gpu.pcie_bytes_per_s;
  config.both_ways_share[0] = setup_.both_ways_share[0];
  config.both_ways_share[1] = setup_.both_ways_share[1];
  for (const int n : lanes) links_.emplace_back(config, n);
  if (instances_.empty())
    throw InfeasibleError(fmt::format("pool \"{}\": policy {} planned no instance", setup_.name, setup_.policy_name));
  // Stranded: what whole instances leave over. A policy that brings its own GPUs does not own the rest of its last node.
  if (setup_.fleet.gpus > 0) {
    result_.stranded_gpus = setup_.fleet.gpus - setup_.fleet.Instances() * setup_.fleet.shape.gpus();
  } else {
    result_.stranded_gpus = packing.Stranded();
  }
  if (setup_.failures.Any()) ExpectFailures(places);
  // Every model must fit wherever it may run: found out now, not in the middle of a run.
  std::vector<std::pair<ShapeId, std::int64_t>> checked;  // shapes of instances that may run everything
  for (std::size_t i = 0; i < facts_.size(); ++i) {
    const InstanceFacts& f = facts_[i];
    const Instance& inst = instances_[i];
    if (f.pinned) continue;
    const std::pair<ShapeId, std::int64_t> shape{inst.shape, f.prefetch_bytes};
    if (f.models.empty() && std::find(checked.begin(), checked.end(), shape) != checked.end()) continue;
    if (f.models.empty()) checked.push_back(shape);
    for (ModelId m = 0; m < static_cast<ModelId>(setup_.models.size()); ++m) {
      if (!f.models.empty() && !std::binary_search(f.models.begin(), f.models.end(), m)) continue;
      if (prices_.KvCapacityBytes(inst.shape, {&m, 1}, f.prefetch_bytes) <= 0) ThrowTooLarge({m}, inst);
    }
  }
  // Host caches start warm: as many weights as fit, in the order of the model table. Nodes that never load have none; instances
  // that do are all of one shape.
  const Instance* loader = nullptr;
  std::vector<bool> loads(nodes_.size(), false);
  for (std::size_t i = 0; i < facts_.size(); ++i) {
    if (facts_[i].pinned) continue;
    if (loader == nullptr) loader = &instances_[i];
    loads[static_cast<std::size_t>(facts_[i].node)] = true;
  }
  for (std::size_t n = 0; setup_.host_cache_warm && n < nodes_.size(); ++n) {
    if (!loads[n]) continue;
    Node& node = nodes_[n];
    for (std::size_t m = 0; m < setup_.models.size(); ++m) {
      const std::int64_t bytes = prices_.WeightBytes(static_cast<ModelId>(m), loader->shape) * loader->node_gpus;
      if (node.cache_used + bytes > setup_.host_cache_bytes) break;
      node.cache_used += bytes;
      node.cache.push_back({static_cast<ModelId>(m), bytes});
    }
  }
}

void Engine::ExpectFailures(const std::vector<NodePacking::Place>& places) {
  const FailuresConfig& config = setup_.failures;
  const std::int64_t per_node = setup_.fleet.gpus_per_node;
  outages_ = Outages(config, setup_.failure_seed, setup_.name);
  std::vector<std::int64_t> uplinks(links_.size(), -1);  // the number of each's first GPU
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) {
    Instance& inst = instances_[i];
    const NodePacking::Place& place = places[static_cast<std::size_t>(i)];
    const std::int64_t first_gpu = config.first_gpu + place.node * per_node + place.first_gpu;
    const auto nodes = static_cast<NodeId>(std::max<std::int64_t>(1, inst.gpus / per_node));
    for (NodeId n = 0; n < nodes; ++n) {
      Node& node = nodes_[static_cast<std::size_t>(inst.node + n)];
      node.number = static_cast<NodeId>(config.first_gpu / per_node) + place.node + n;
      node.first = inst.node;
      node.here.push_back(i);
    }
    for (std::int64_t g = first_gpu; g < first_gpu + inst.gpus; ++g) {
      outages_.Add(FailureKind::kGpu, g, i);
      if (IsStraggler(setup_.failure_seed, setup_.name, FailureKind::kGpu, g, config.stragglers.fraction))
        inst.slowdown = config.stragglers.slowdown;
    }
    uplinks[static_cast<std::size_t>(inst.link)] = first_gpu - place.first_gpu % setup_.gpus_per_link;
  }
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    outages_.Add(FailureKind::kNode, nodes_[n].number, static_cast<std::int32_t>(n));
    outages_.Add(FailureKind::kCache, nodes_[n].number, nodes_[n].first);
  }
  for (std::size_t l = 0; l < links_.size(); ++l) {
    outages_.Add(FailureKind::kLink, uplinks[l], static_cast<std::int32_t>(l));
    if (IsStraggler(setup_.failure_seed, setup_.name, FailureKind::kLink, uplinks[l], config.stragglers.link_fraction))
      links_[l].Slow(0, 1 / config.stragglers.link_slowdown);
  }
}

void Engine::SetResident(InstanceId i, std::vector<ModelId> resident) {
  Instance& inst = instances_[i];
  inst.resident = std::move(resident);
  inst.kv_capacity = prices_.KvCapacityBytes(inst.shape, inst.resident, facts_[i].prefetch_bytes);
  if (inst.kv_capacity <= 0) ThrowTooLarge(inst.resident, inst);
}

void Engine::ThrowTooLarge(const std::vector<ModelId>& models, const Instance& inst) const {
  std::string names;
  double gigabytes = 0;
  for (const ModelId m : models) {
    names += fmt::format("{}{} ({})", names.empty() ? "" : ", ", setup_.models[m].name, setup_.models[m].llm);
    gigabytes += static_cast<double>(prices_.WeightBytes(m, inst.shape)) / 1e9;
  }
  throw InfeasibleError(fmt::format(
      "pool \"{}\": {} with {:.1f} GB of weights per GPU fits no group of {} x {}, where {:.1f} GB per GPU are usable",
      setup_.name, names, gigabytes, inst.gpus, setup_.fleet.gpu, static_cast<double>(setup_.fleet.usable_bytes) / 1e9));
}

// ---------------------------------------------------------------------------------------------------------------- loop

void Engine::Begin() {
  begun_ = true;
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) Dispatch(i);
}

void Engine::Feed(std::span<const RequestSpec> requests) {
  if (!begun_ && !requests.empty()) Begin();
  for (const RequestSpec& spec : requests) {
    AdvanceTo(spec.arrival);
    if (over_) return;
    now_ = spec.arrival;
    ++result_.events;
    OnArrival(spec);
    if (setup_.check) CheckInvariants();
  }
}

void Engine::AdvanceTo(TimePs arrival) {
  const auto first_link = static_cast<std::int64_t>(instances_.size());
  const auto stale = [this](const Deadline& d, bool first_token) {
    const Request& r = requests_[d.id];
    return !r.live || r.sequence != d.sequence || (first_token && r.first_token != kNever) || r.cancelled;
  };
  const std::int64_t outage = first_link + static_cast<std::int64_t>(links_.size());
  for (;;) {
    while (!first_token_deadlines_.empty() && stale(first_token_deadlines_.front(), true)) first_token_deadlines_.pop_front();
    while (!total_deadlines_.empty() && stale(total_deadlines_.front(), false)) total_deadlines_.pop_front();
    TimePs timeout = kNever;
    if (setup_.exact_timeouts) {
      if (!first_token_deadlines_.empty()) timeout = first_token_deadlines_.front().at;
      if (!total_deadlines_.empty()) timeout = std::min(timeout, total_deadlines_.front().at);
    }
    // Failures that nothing is left for do not keep the run going, nor those that could change nothing.
    if (arrival == kNever && (requests_.in_flight() == 0 || (events_.size() == 1 && down_ == 0 && in_force_ == 0)))
      events_.Clear(outage);
    const TimePs event = events_.next_time();
    const TimePs next = std::min({event, timeout, arrival});
    if (next == kNever) return;
    if (next > setup_.horizon) {
      over_ = true;
      return;
    }
    if (event != next && timeout != next) return;  // the arrival is next
    now_ = next;
    ++result_.events;
    if (event == next) {
      const EventQueue::Event e = events_.Take();
      Mark(static_cast<std::uint64_t>(e.time), static_cast<std::uint64_t>(e.slot));
      if (e.slot < first_link) {
        OnInstance(static_cast<InstanceId>(e.slot));
      } else if (e.slot < outage) {
        OnLink(static_cast<std::int32_t>(e.slot - first_link));
      } else {
        OnOutage();
      }
      events_.Done();
    } else {
      OnTimeouts();
    }
    if (setup_.check) CheckInvariants();
  }
}

void Engine::OnArrival(const RequestSpec& spec) {
  const RequestId id = requests_.Allocate();
  Request& r = requests_[id];
  r.sequence = next_sequence_++;
  r.arrival = spec.arrival;
  r.model = spec.model;
  r.prompt = spec.prompt_tokens;
  r.output = spec.output_tokens;
  Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(r.prompt) << 32 | static_cast<std::uint32_t>(r.model));
  metrics_.Arrive(r, now_);
  if (setup_.first_token_timeout != kNever) first_token_deadlines_.push_back({now_ + setup_.first_token_timeout, id, r.sequence});
  if (setup_.total_timeout != kNever) total_deadlines_.push_back({now_ + setup_.total_timeout, id, r.sequence});
  RouteArrival(id);
  if (!setup_.exact_timeouts) OverdueAtScheduling();
}

void Engine::State(Archive& a) {
  a(instances_, nodes_);
  for (Link& link : links_) a(link);
  std::size_t batches = batches_.size();
  a(batches);
  if (a.reads()) batches_.resize(batches);
  for (Batch& batch : batches_) batch.State(a, padding_table_);
  a(places_, free_batches_, tickets_, free_tickets_, requests_, events_, first_token_deadlines_, total_deadlines_);
  a(outages_, held_, down_, in_force_, host_kv_used_, now_, next_sequence_, begun_, over_, result_, finished_, failed_);
  metrics_.State(a);
}

EngineResult Engine::Finish() {
  const bool cut = over_;
  if (!begun_) Begin();
  if (!over_) AdvanceTo(kNever);
  // The horizon cuts what is running; what is done by then counts.
  if (setup_.horizon != kNever && (cut || requests_.in_flight() > 0)) now_ = setup_.horizon;
  result_.end = now_;
  for (InstanceId i = 0; i < static_cast<InstanceId>(instances_.size()); ++i) CutShort(i);
  if (spans_ != nullptr) {
    std::vector<const Ticket*> under_way;
    for (const Ticket& ticket : tickets_) {
      if (ticket.kind != Ticket::Kind::kFree) under_way.push_back(&ticket);
    }
    std::stable_sort(under_way.begin(), under_way.end(), [](const Ticket* a, const Ticket* b) { return a->begun < b->begun; });
    for (const Ticket* ticket : under_way) Observe(*ticket, false, true);
  }
  result_.requests = next_sequence_;
  result_.unfinished = requests_.in_flight();
  for (RequestId id = 0; id < static_cast<RequestId>(requests_.slots()); ++id) {
    Request& r = requests_[id];
    if (!r.live) continue;
    if (r.batch != kNone) batches_[r.batch].Leave(id, requests_);
    metrics_.Leave(r, now_);
    if (spans_ != nullptr) spans_->OnLeave(r.sequence, r.instance, r.outcome, now_);
    if (request_sink_) request_sink_(r, metrics_.targets(r.model));
  }
  metrics_.End(now_);
  CheckEnd();
  return result_;
}

void Engine::Mark(std::uint64_t a, std::uint64_t b) {
  std::uint64_t h = result_.fingerprint;
  h = (std::rotl(h, 23) ^ a) * 0x9e3779b97f4a7c15u;
  h = (std::rotl(h, 29) ^ b) * 0xd1342543de82ef95u;
  result_.fingerprint = h ^ (h >> 31);
}

void Engine::OnInstance(InstanceId i) {
  Instance& inst = instances_[i];
  switch (inst.phase) {
    case Phase::kWait:
      Dispatch(i);
      break;
    case Phase::kPrefill:
      FinishPrefill(i);
      Dispatch(i);
      break;
    case Phase::kRun:
      FinishRun(i);
      if (inst.phase == Phase::kRun) {
        BeginSegment(i);
      } else {
        Dispatch(i);
      }
      break;
    case Phase::kSwitch:
      SwitchTimerEnded(i);
      break;
    default:
      Broken(fmt::format("instance {} has an event in no phase for one", i));
  }
}

void Engine::OnLink(std::int32_t link) {
  for (;;) {
    const std::int64_t ticket = links_[link].PopFinished(now_);
    if (ticket < 0) break;
    FinishTicket(ticket);
  }
  UpdateLink(link);
}

// Something on the link has begun or ended: its node's tiers are shared anew.
void Engine::UpdateLink(std::int32_t link) {
  Node& node = nodes_[link_node_[link]];
  if (ShareTiers(now_, links_, node.links, link, setup_.node_load, node.loading)) {
    for (const std::int32_t other : node.links) SetLinkEvent(other);
  } else {
    SetLinkEvent(link);
  }
}

void Engine::SetLinkEvent(std::int32_t link) {
  const auto slot = static_cast<std::int64_t>(instances_.size()) + link;
  const TimePs end = links_[link].next_end();
  if (end == kNever) {
    events_.Clear(slot);
  } else {
    events_.Set(slot, end);
  }
}

void Engine::OnTimeouts() {
  const auto take = [this](std::deque<Deadline>& deadlines) {
    if (deadlines.empty() || deadlines.front().at > now_) return false;
    const Deadline d = deadlines.front();
    deadlines.pop_front();
    Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(d.sequence));
    Cancel(d.id);
    return true;
  };
  // One at a time: cancelling may have made the next entry stale, which the loop looks at.
  if (!take(first_token_deadlines_)) take(total_deadlines_);
}

void Engine::OverdueAtScheduling() {
  while (!first_token_deadlines_.empty() && first_token_deadlines_.front().at < now_) {
    const Deadline d = first_token_deadlines_.front();
    first_token_deadlines_.pop_front();
    const Request& r = requests_[d.id];
    if (r.live && r.sequence == d.sequence && r.first_token == kNever && !r.cancelled) Cancel(d.id);
  }
  while (!total_deadlines_.empty() && total_deadlines_.front().at <= now_) {
    const Deadline d = total_deadlines_.front();
    total_deadlines_.pop_front();
    const Request& r = requests_[d.id];
    if (r.live && r.sequence == d.sequence && !r.cancelled) Cancel(d.id);
  }
}

void Engine::RouteArrival(RequestId id) {
  Request& r = requests_[id];
  const InstanceId i = router_.RouteArrival(id, *this);
  if (down_ > 0 && (i == kNone || (i < static_cast<InstanceId>(instances_.size()) && !instances_[i].up))) return Hold(id);
  if (i < 0 || i >= static_cast<InstanceId>(instances_.size()))
    Broken(fmt::format("request {} routed to instance {}", r.sequence, i));
  const Instance& inst = instances_[i];
  const InstanceFacts& f = facts_[i];
  if (inst.role == Role::kDecode) Broken(fmt::format("request {} routed to decode-only instance {}", r.sequence, i));
  if (!f.models.empty() && !std::binary_search(f.models.begin(), f.models.end(), r.model)) {
    Broken(fmt::format("model {} may not run on instance {}", setup_.models[r.model].name, i));
  }
  const InstanceId before = r.instance;
  if (r.held) Release(id);
  r.instance = i;
  if (!FitsAlone(i, r)) {
    Remove(id, r.delivered() == 0 ? Outcome::kKvPrompt : Outcome::kKvGrowth, false);
    return;
  }
  if (spans_ != nullptr) {
    if (before == kNone) {
      spans_->OnArrival(r.sequence, r.model, i, now_);
    } else {
      spans_->OnRerouted(r.sequence, before, i, now_);
    }
  }
  QueueAt(id, i);
}

// Whether an instance with nothing else on it can hold the request and its next token.
bool Engine::FitsAlone(InstanceId i, const Request& r) const {
  const Instance& inst = instances_[i];
  const InstanceFacts& f = facts_[i];
  const std::int64_t capacity =
      f.pinned ? inst.kv_capacity : prices_.KvCapacityBytes(inst.shape, {&r.model, 1}, f.prefetch_bytes);
  return BlocksOf(r.context() + 1) * BlockBytes(inst, r.model) <= capacity;
}

void Engine::QueueAt(RequestId id, InstanceId i) {
  requests_[id].instance = i;
  requests_[id].spent.settled = now_;
  scheduler_.OnQueued(id, i, *this);
  Poke(i, id);
}

void Engine::Poke(InstanceId i, RequestId id) {
  Instance& inst = instances_[i];
  if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) {
    Dispatch(i);
  } else if (inst.phase == Phase::kRun && scheduler_.Preempts(id, i, *this)) {
    Truncate(i);
  }
}

// ------------------------------------------------------------------------------------------------------------ dispatch

void Engine::Dispatch(InstanceId i) {
  Instance& inst = instances_[i];
  SetPhase(i, Phase::kBetween);
  if (spans_ != nullptr) spans_->OnMemory(i, inst.kv_used * inst.gpus, now_);
  for (int tries = 0;; ++tries) {
    if (tries > 10000) Broken(fmt::format("instance {} was granted 10000 things in a row that take no time", i));
    inst.grant.Clear();
    scheduler_.Next(i, *this, inst.grant);
    if (Start(i, inst.grant)) return;
  }
}

bool Engine::Start(InstanceId i, Grant& grant) {
  ApplyMembership(i, grant);
  if (grant.kind != Grant::Kind::kSwitch) instances_[i].switch_asked = kNone;
  if (grant.prefetch != kNone) StartPrefetch(i, grant.prefetch);
  if (grant.kind != Grant::Kind::kIdle && grant.kind != Grant::Kind::kWait) {
    instances_[i].last_run_time = 0;
    instances_[i].last_run_label = kNone;
  }
  switch (grant.kind) {
    case Grant::Kind::kIdle:
      events_.Clear(i);
      SetPhase(i, Phase::kIdle);
      return true;
    case Grant::Kind::kWait:
      if (grant.until <= now_) Broken(fmt::format("instance {} was told to wait until a time that has passed", i));
      events_.Set(i, grant.until);
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

void Engine::ApplyMembership(InstanceId i, Grant& grant) {
  for (const Grant::Join& join : grant.joins) {
    Request& r = requests_[join.request];
    if (!r.live || r.instance != i) Broken(fmt::format("instance {} was granted a request that is not there", i));
    if (r.generated < 1 && !r.stepping) Broken(fmt::format("request {} joins a decode batch without a first token", r.sequence));
    if (r.kv == KvPlace::kNowhere) Broken(fmt::format("request {} joins a decode batch without KV", r.sequence));
    if (r.batch != kNone) {
      Batch& old = batches_[r.batch];
      if (old.label == join.label) continue;
      if (r.stepping) {
        const Place place = places_[r.batch];
        if (place == Place::kLeaving || place == Place::kComing)
          Broken(fmt::format("request {} changes batch while its KV moves", r.sequence));
        r.kv = place == Place::kGpu ? KvPlace::kGpu : KvPlace::kHost;
      }
      const std::int32_t number = r.batch;
      old.Leave(join.request, requests_);
      Retire(number);
    }
    Batch& batch = BatchFor(i, join.label, r.model);
    if (batch.model != r.model) Broken(fmt::format("request {} joins a batch of another model", r.sequence));
    batch.AddIncoming(join.request, requests_);
  }
  for (const int label : grant.drop) {
    if (Batch* batch = FindBatch(i, label)) Drop(i, *batch);
  }
  for (const int label : grant.evict) {
    if (Batch* batch = FindBatch(i, label)) Evict(i, *batch);
  }
}

// ------------------------------------------------------------------------------------------------------------- prefill

bool Engine::StartPrefill(InstanceId i, Grant& grant) {
  Instance& inst = instances_[i];
  if (inst.role == Role::kDecode) Broken(fmt::format("prefill granted to decode-only instance {}", i));
  if (grant.requests.empty()) Broken(fmt::format("instance {} was granted a prefill of nothing", i));
  const ModelId model = requests_[grant.requests.front()].model;
  if (!resident(i, model))
    Broken(fmt::format("prefill of {} on instance {}, which does not hold its weights", setup_.models[model].name, i));
  inst.busy_for = model;
  std::int64_t sum = 0, squares = 0;
  for (const RequestId id : grant.requests) {
    Request& r = requests_[id];
    if (!r.live || r.instance != i || r.executing || r.batch != kNone || r.kv != KvPlace::kNowhere || r.model != model) {
      Broken(fmt::format("request {} cannot be prefilled now", r.sequence));
    }
    Settle(r);
    r.executing = true;
    r.kv = KvPlace::kGpu;
    r.blocks = static_cast<std::int32_t>(BlocksOf(r.context() + 1));
    inst.kv_used += r.blocks * BlockBytes(inst, model);
    sum += r.context();
    squares += r.context() * r.context();
  }
  if (inst.kv_used > inst.kv_capacity) Broken(fmt::format("prefill on instance {} needs more KV memory than is free", i));
  SetPhase(i, Phase::kPrefill);
  const TimePs time = prices_.Prefill(model, inst.shape, static_cast<std::int64_t>(grant.requests.size()), sum, squares);
  events_.Set(i, now_ + (inst.slowdown == 1 ? time : Times(time, inst.slowdown)));
  return true;
}

void Engine::FinishPrefill(InstanceId i) {
  Instance& inst = instances_[i];
  Busy(i, Activity::kPrefill, inst.phase_start);
  Observe(i, Span::Kind::kPrefill);
  inst.last_step_end = now_;
  inst.last_run_time = now_ - inst.phase_start;
  inst.step_time_since_switch += now_ - inst.phase_start;
  inst.phase = Phase::kBetween;
  for (std::size_t n = 0; n < inst.grant.requests.size(); ++n) {
    const RequestId id = inst.grant.requests[n];
    requests_[id].executing = false;
    requests_[id].spent.prefill += inst.last_run_time;
    Token(id);
  }
}

// The token at the end of a prefill, and where the request goes from there.
void Engine::Token(RequestId id) {
  Request& r = requests_[id];
  Instance& inst = instances_[r.instance];
  r.prefilled = 0;
  if (r.cancelled) {
    --inst.cancelled;
    Remove(id, Outcome::kTimeout, false);
    return;
  }
  if (r.replaying()) {
    ++r.generated;
  } else {
    if (observer_ != nullptr) observer_->OnTokens(r.sequence, now_, 0, 0, 1);
    if (r.generated == 0) r.spent.prefill_wait = now_ - r.arrival - r.spent.prefill - r.spent.switching;
    if (spans_ != nullptr && r.generated == 0) spans_->OnFirstToken(r.sequence, r.instance, now_);
    metrics_.Token(r, now_);
  }
  if (r.generated == r.output) {
    Remove(id, Outcome::kFinished, true);
  } else if (inst.role == Role::kPrefill) {
    Handover(id);
  } else {
    Join(BatchFor(r.instance, inst.grant.label, r.model), id);
  }
}

// -------------------------------------------------------------------------------------------------------------- decode

void Engine::Fetch(InstanceId i, Batch& batch, std::int64_t& ticket, bool& waiting) {
  Instance& inst = instances_[i];
  const std::int64_t block_bytes = BlockBytes(inst, batch.model);
  Place& place = places_[batch.number];
  const auto the_ticket = [&]() -> Ticket& {
    if (ticket < 0) ticket = NewTicket(Ticket::Kind::kIn, i, batch.model);
    return tickets_[ticket];
  };
  if (place == Place::kLeaving || place == Place::kComing) {
    waiting = true;
    return;
  }
  if (place == Place::kHost) {
    const std::int64_t bytes = batch.Blocks() * block_bytes;
    if (batch.size() == 0) {
      place = Place::kGpu;
    } else if (inst.kv_used + bytes <= inst.kv_capacity) {
      inst.kv_used += bytes;
      place = Place::kComing;
      the_ticket().batches.push_back({batch.number, bytes});
    } else if (inst.leaving + inst.coming > 0) {
      waiting = true;
      return;
    } else {
      // It does not fit as a whole any more: its members come in one by one.
      while (!batch.stepping.empty()) {
        const RequestId id = batch.stepping.back();
        batch.Leave(id, requests_);
        requests_[id].kv = KvPlace::kHost;
        batch.AddIncoming(id, requests_);
      }
      place = Place::kGpu;
    }
  }
  if (batch.incoming.empty()) return;
  scratch_ = batch.incoming;
  std::sort(scratch_.begin(), scratch_.end(),
            [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
  const bool running = place == Place::kGpu && batch.size() > 0;
  bool full = false;
  std::int64_t growth = -1;
  for (const RequestId id : scratch_) {
    Request& r = requests_[id];
    if (r.kv == KvPlace::kMoving) {
      waiting = true;
      continue;
    }
    if (r.kv == KvPlace::kHost) {
      const std::int64_t bytes = r.blocks * block_bytes;
      // It comes in only with room for a step of everybody: else somebody would have to go out for it at once, for ever. One that
      // cannot grow any more comes in to be failed.
      if (growth < 0) growth = StepGrowth(i);
      const std::int64_t own = (BlocksOf(r.context() + 1) - r.blocks) * block_bytes;
      const std::int64_t beside = bytes + own > inst.kv_capacity ? 0 : growth + own;
      full = full || inst.kv_used + bytes + beside > inst.kv_capacity;
      if (full) {
        waiting = waiting || inst.leaving + inst.coming > 0;
        continue;
      }
      growth += own;
      inst.kv_used += bytes;
      if (running && setup_.kv_join_free) {
        host_kv_used_ -= bytes * inst.gpus;
        r.kv = KvPlace::kGpu;
      } else {
        r.kv = KvPlace::kMoving;
        Settle(r);
        the_ticket().requests.push_back({id, r.stamp, bytes});
        continue;
      }
    }
    if (place == Place::kGpu) Join(batch, id);
  }
}

std::int64_t Engine::StepGrowth(InstanceId i) const {
  const Instance& inst = instances_[i];
  std::int64_t bytes = 0;
  for (const std::int32_t number : inst.labels) {
    if (number == kNone) continue;
    const Batch& batch = batches_[number];
    std::int64_t blocks = 0;
    if (places_[number] == Place::kGpu || places_[number] == Place::kComing) blocks += batch.Blocks(1) - batch.Blocks();
    for (const RequestId id : batch.incoming) {
      const Request& r = requests_[id];
      if (r.kv == KvPlace::kGpu || r.kv == KvPlace::kMoving) blocks += BlocksOf(r.context() + 1) - r.blocks;
    }
    bytes += blocks * BlockBytes(inst, batch.model);
  }
  return bytes;
}

// KV that has been booked comes in, in one transfer.
void Engine::SendIn(InstanceId i, std::int64_t ticket) {
  Instance& inst = instances_[i];
  std::int64_t bytes = 0;
  for (const auto& b : tickets_[ticket].batches) bytes += b.second;
  for (const MovingRequest& r : tickets_[ticket].requests) bytes += r.bytes;
  metrics_.kv_bytes_moved += bytes * inst.gpus;
  Send(i, Direction::kIn, bytes, setup_.kv_copy, ticket);
  ++inst.coming;
}

RequestId Engine::LatestOf(const Batch& batch) const {
  return *std::max_element(batch.stepping.begin(), batch.stepping.end(),
                           [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
}

Engine::Room Engine::MakeRoom(InstanceId i, std::int32_t number) {
  Instance& inst = instances_[i];
  const std::int64_t block_bytes = BlockBytes(inst, batches_[number].model);
  for (;;) {
    const Batch& first = batches_[number];  // a preemption may set off another instance's grant, and batches_ may grow
    if (inst.kv_used + first.size() * block_bytes <= inst.kv_capacity ||
        inst.kv_used + (first.Blocks(1) - first.Blocks()) * block_bytes <= inst.kv_capacity) {
      return Room::kThere;
    }
    if (inst.leaving > 0) return Room::kWait;
    const RequestId victim = LatestOf(first);
    const bool last = first.members() == 1;
    Preempt(i, victim);
    if (last || batches_[number].size() == 0) return Room::kAskAgain;
  }
}

bool Engine::StartDecode(InstanceId i, Grant& grant) {
  Instance& inst = instances_[i];
  std::int64_t ticket = -1;
  bool waiting = false;
  RunState& run = inst.run;
  run.parts.clear();
  for (const int label : grant.batches) {
    Batch* batch = FindBatch(i, label);
    if (batch == nullptr) Broken(fmt::format("instance {} was granted batch {}, which does not exist", i, label));
    if (!resident(i, batch->model)) {
      Broken(fmt::format("decode of {} on instance {}, which does not hold its weights", setup_.models[batch->model].name, i));
    }
    if (label == grant.batches.front()) inst.busy_for = batch->model;
    Settle(*batch);
    Fetch(i, *batch, ticket, waiting);
    if (places_[batch->number] == Place::kGpu && batch->size() > 0) run.parts.push_back({batch->number, 0, 0, 0, 0});
  }
  if (ticket >= 0) {
    SendIn(i, ticket);
    waiting = true;
  }
  const auto wait = [&] {
    events_.Clear(i);
    SetPhase(i, Phase::kCopy);
    return true;
  };
  if (run.parts.empty() || (waiting && !setup_.overlap_kv)) {
    if (!waiting && inst.leaving + inst.coming == 0)
      Broken(fmt::format("instance {} was granted a decode of which nothing can run", i));
    return wait();
  }
  switch (MakeRoom(i, run.parts.front().batch)) {
    case Room::kWait:
      return wait();
    case Room::kAskAgain:
      return false;
    case Room::kThere:
      break;
  }
  run.mixed = false;
  run.before = 0;
  run.steps_before = 0;
  run.steps = 0;
  run.tokens = 0;
  run.first_step = 0;
  run.truncated = false;
  SetPhase(i, Phase::kRun);
  BeginSegment(i);
  return true;
}

bool Engine::StartMixed(InstanceId i, Grant& grant) {
  Instance& inst = instances_[i];
  if (inst.role == Role::kDecode) Broken(fmt::format("prefill granted to decode-only instance {}", i));
  if (grant.pieces.empty() || grant.steps < 1) Broken(fmt::format("instance {} was granted a mixed step without a piece", i));
  const ModelId model = requests_[grant.pieces.front().request].model;
  if (!resident(i, model))
    Broken(fmt::format("prefill of {} on instance {}, which does not hold its weights", setup_.models[model].name, i));
  inst.busy_for = model;
  Batch& batch = BatchFor(i, grant.label, model);
  std::int64_t ticket = -1;
  bool waiting = false;
  std::vector<Chunk> chunks;
  const std::int64_t block_bytes = BlockBytes(inst, model);
  for (const Grant::Piece& piece : grant.pieces) {
    Request& r = requests_[piece.request];
    if (!r.live || r.instance != i || r.executing || r.batch != kNone || r.model != model) {
      Broken(fmt::format("request {} cannot be prefilled now", r.sequence));
    }
    if (r.prefilled == 0) {
      if (r.kv != KvPlace::kNowhere) Broken(fmt::format("request {} has KV already", r.sequence));
      r.kv = KvPlace::kGpu;
      r.blocks = static_cast<std::int32_t>(BlocksOf(r.context() + 1));
      inst.kv_used += r.blocks * block_bytes;
      if (inst.kv_used > inst.kv_capacity) Broken(fmt::format("prefill on instance {} needs more KV memory than is free", i));
    }
    const std::int64_t steps = grant.pieces.size() == 1 ? grant.steps : 1;
    if (piece.tokens < 1 || r.prefilled + piece.tokens * steps > r.context()) {
      Broken(fmt::format("a piece of request {} goes beyond its prompt", r.sequence));
    }
    r.executing = true;
    Settle(r);
    chunks.push_back({r.prefilled, piece.tokens});
  }
  Settle(batch);
  Fetch(i, batch, ticket, waiting);
  if (ticket >= 0) {
    SendIn(i, ticket);
  }
  while (batch.size() > 0 && inst.kv_used + (batch.Blocks(1) - batch.Blocks()) * block_bytes > inst.kv_capacity &&
         inst.leaving == 0) {
    const RequestId victim = LatestOf(batch);
    const bool last = batch.members() == 1;
    Preempt(i, victim);
    if (last) break;
  }
  Batch& present = BatchFor(i, grant.label, model);  // preemption may have retired it
  if (present.size() > 0 && inst.kv_used + (present.Blocks(1) - present.Blocks()) * block_bytes > inst.kv_capacity) {
    // What was preempted has yet to leave. The pieces are taken back, and the policy is asked again then.
    for (const Grant::Piece& piece : grant.pieces) {
      Request& r = requests_[piece.request];
      r.executing = false;
      if (r.prefilled > 0) continue;
      inst.kv_used -= r.blocks * block_bytes;
      r.kv = KvPlace::kNowhere;
      r.blocks = 0;
    }
    events_.Clear(i);
    SetPhase(i, Phase::kCopy);
    return true;
  }
  RunState& run = inst.run;
  run.parts.assign(1, {present.number, 0, 0, 0, 0});
  run.mixed = true;
  run.mixed_price = prices_.Mixed(model, inst.shape, present.size(), chunks);
  run.steps_left = grant.pieces.size() == 1 ? grant.steps : 1;
  run.before = 0;
  run.steps_before = 0;
  run.steps = 0;
  run.tokens = 0;
  run.first_step = 0;
  run.truncated = false;
  SetPhase(i, Phase::kRun);
  BeginSegment(i);
  return true;
}

TimePs Engine::Elapsed(const RunState& run, std::int64_t n) const {
  const auto m = static_cast<std::int64_t>(run.parts.size());
  if (m == 1) return run.cycle.Elapsed(n);
  const std::int64_t cycles = n / m, rest = n % m;
  return run.cycle.Elapsed(cycles) + (rest > 0 ? run.parts[rest - 1].a_sum + run.parts[rest - 1].d_sum * cycles : 0);
}

std::int64_t Engine::SubStepsWithin(const RunState& run, TimePs t, std::int64_t limit) const {
  const auto m = static_cast<std::int64_t>(run.parts.size());
  const std::int64_t cycles = run.cycle.StepsWithin(t, limit / m);
  std::int64_t n = cycles * m;
  if (m == 1) return n;
  while (n < limit && Elapsed(run, n + 1) <= t) ++n;
  return n;
}

std::int64_t Engine::Growth(const Instance& inst, std::int64_t n) const {
  if (n == 0) return 0;
  const auto m = static_cast<std::int64_t>(inst.run.parts.size());
  std::int64_t bytes = 0;
  for (std::int64_t p = 0; p < m; ++p) {
    const Batch& batch = batches_[inst.run.parts[p].batch];
    const std::int64_t steps = n / m + (p < n % m ? 1 : 0);
    bytes += (batch.Blocks(steps) - batch.Blocks()) * BlockBytes(inst, batch.model);
  }
  return bytes;
}

void Engine::BeginSegment(InstanceId i) {
  Instance& inst = instances_[i];
  RunState& run = inst.run;
  run.start = now_;
  run.asked_at = -1;
  const auto m = static_cast<std::int64_t>(run.parts.size());
  run.cycle = {0, 0};
  std::int64_t kink = kIntMax, end = kIntMax;  // bounds on sub-steps
  for (std::int64_t p = 0; p < m; ++p) {
    Part& part = run.parts[p];
    Batch& batch = batches_[part.batch];
    const StepPrice& price = run.mixed ? run.mixed_price : prices_.Decode(batch.model, inst.shape, batch.size());
    Line upper = price.a, lower = price.b;
    if (inst.slowdown != 1) {
      upper = Times(upper, inst.slowdown);
      lower = Times(lower, inst.slowdown);
    }
    const auto slope = [&](const Line& line) { return line.per_token * batch.size() + line.per_chunk; };
    TimePs high = upper.At(batch.context(), run.steps_before), low = lower.At(batch.context(), run.steps_before);
    if (low > high || (low == high && slope(lower) > slope(upper))) {
      std::swap(upper, lower);
      std::swap(high, low);
    }
    part.a = high;
    part.d = slope(upper);
    run.cycle.a += part.a;
    run.cycle.d += part.d;
    part.a_sum = run.cycle.a;
    part.d_sum = run.cycle.d;
    if (slope(lower) > part.d) {
      const std::int64_t valid = (high - low) / (slope(lower) - part.d) + 1;  // steps before the other line is the larger one
      kink = std::min(kink, valid < kIntMax / m - 1 ? valid * m + p : kIntMax);
    }
    if (batch.size() == 0) continue;
    end = std::min(end, (batch.StepsToFinish(requests_) - 1) * m + p + 1);
    const std::int64_t replayed = batch.StepsToReplayed(requests_);
    if (replayed != kNever) kink = std::min(kink, (replayed - 1) * m + p + 1);
  }
  if (run.mixed) end = std::min(end, run.steps_left);
  if (run.truncated) end = 1;  // asked for at the very moment of a kink
  run.truncated = false;
  if (run.before == 0) run.first_step = run.parts.front().a;
  run.kink = kink;
  run.end = end;
  run.quota = kIntMax;
  if (inst.grant.quota != kNever) {
    const TimePs quota = inst.grant.quota + (inst.grant.quota_after_first ? run.first_step : 0) - run.before;
    run.quota = 1 + (quota > 1 ? SubStepsWithin(run, quota - 1, std::min(kink, end)) : 0);
  }
  PlanSegment(i);
}

void Engine::PlanSegment(InstanceId i) {
  Instance& inst = instances_[i];
  RunState& run = inst.run;
  const auto m = static_cast<std::int64_t>(run.parts.size());
  std::int64_t n = std::min({run.kink, run.end, run.quota});
  const std::int64_t free = inst.kv_capacity - inst.kv_used;
  // Most of the time memory is nowhere near: a member never grows by more than its tokens and one block.
  std::int64_t most = 0;
  for (const Part& part : run.parts) {
    const Batch& batch = batches_[part.batch];
    most += batch.size() * (n / m / setup_.block_tokens + 2) * BlockBytes(inst, batch.model);
  }
  if (most > free && Growth(inst, n) > free) {
    std::int64_t fits = 1, too_many = n;  // one step fits: room was made, or the segment before would not have gone on
    while (too_many - fits > 1) {
      const std::int64_t middle = fits + (too_many - fits) / 2;
      (Growth(inst, middle) > free ? too_many : fits) = middle;
    }
    n = fits;
  }
  run.planned = n;
  run.asked_at = -1;
  run.goes_on = n == run.kink && n < run.end && n < run.quota && Growth(inst, n + 1) <= free;
  events_.Set(i, run.start + Elapsed(run, n));
}

void Engine::ApplySteps(InstanceId i, std::int64_t n) {
  Instance& inst = instances_[i];
  RunState& run = inst.run;
  if (n == 0) return;
  const auto m = static_cast<std::int64_t>(run.parts.size());
  TimePs before = run.start;  // for the record the parts come one after the other, not in turn
  for (std::int64_t p = 0; p < m; ++p) {
    const Part& part = run.parts[p];
    Batch& batch = batches_[part.batch];
    const std::int64_t steps = n / m + (p < n % m ? 1 : 0);
    const std::int64_t blocks = batch.Blocks();
    if (spans_ != nullptr) batch.ForEachFresh(requests_, [&](const Request& r) { spans_->OnMember(r.sequence, i, false); });
    run.tokens += steps * batch.size();
    batch.Account(run.start + part.a_sum, run.cycle.a + part.d_sum, run.cycle.d, steps, requests_, metrics_, observer_);
    const std::int64_t block_bytes = BlockBytes(inst, batch.model);
    inst.kv_used += (batch.Blocks() - blocks) * block_bytes;
    const TimePs stepped = Series{part.a, part.d}.Elapsed(steps);
    batch.in_steps += stepped;
    metrics_.RecordBusy(i, Activity::kDecode, before, before + stepped, inst.gpus, batch.model);
    before += stepped;
    const GpuTime gpu_time = static_cast<GpuTime>(stepped) * inst.gpus;
    metrics_.model(batch.model).busy += gpu_time;
    KvHeld& held = metrics_.kv_held;
    held.tokens += gpu_time * (batch.context() * prices_.KvBytesPerToken(batch.model, inst.shape));
    held.blocks += gpu_time * (batch.Blocks() * block_bytes);
    held.slabs += gpu_time * SlabBytes(batch.Blocks(), block_bytes);
  }
  const TimePs end = run.start + Elapsed(run, n);
  metrics_.Busy(Activity::kDecode, run.start, end, inst.gpus);
  inst.busy += end - run.start;
  run.before += end - run.start;
  run.steps += n;
  inst.step_time_since_switch += end - run.start;
  inst.last_step_end = end;
  if (run.mixed) {
    for (const Grant::Piece& piece : inst.grant.pieces)
      requests_[piece.request].prefilled += static_cast<std::int32_t>(piece.tokens * n);
    run.steps_before += n;
    run.steps_left -= n;
  }
  Mark(static_cast<std::uint64_t>(end), static_cast<std::uint64_t>(n));
}

void Engine::FinishRun(InstanceId i) {
  Instance& inst = instances_[i];
  RunState& run = inst.run;
  const auto m = static_cast<std::int64_t>(run.parts.size());
  const std::int64_t n = run.planned;
  ApplySteps(i, n);
  for (const Part& part : run.parts) {
    Batch& batch = batches_[part.batch];
    for (RequestId id = batch.PopReplayed(requests_); id != kNone; id = batch.PopReplayed(requests_)) {
      batch.Leave(id, requests_);
      Join(batch, id);
    }
  }
  if (run.goes_on) {
    std::rotate(run.parts.begin(), run.parts.begin() + n % m, run.parts.end());  // whose turn it is
    return;
  }
  inst.last_run_time = run.before;
  inst.last_run_label = batches_[run.parts[(n - 1) % m].batch].label;
  Observe(i, run.mixed ? Span::Kind::kMixed : Span::Kind::kDecode);
  inst.phase = Phase::kBetween;
  for (const Part& part : run.parts) {
    for (;;) {
      const RequestId id = batches_[part.batch].PopFinished(requests_);
      if (id == kNone) break;
      if (requests_[id].cancelled) --inst.cancelled;
      Remove(id, Outcome::kFinished, true);
    }
  }
  if (run.mixed) {
    // Not by reference: what follows may start the next grant's bookkeeping on other instances only, never on this one.
    for (const Grant::Piece& piece : inst.grant.pieces) {
      Request& r = requests_[piece.request];
      r.executing = false;
      r.spent.prefill += run.before;
      if (r.cancelled && r.prefilled < r.context()) {
        --inst.cancelled;
        Remove(piece.request, Outcome::kTimeout, false);
      } else if (r.prefilled == r.context()) {
        Token(piece.request);
      }
    }
    Retire(run.parts.front().batch);
  }
  if (inst.cancelled > 0) {
    for (const Part& part : run.parts) {
      scratch_ = batches_[part.batch].stepping;
      for (const RequestId id : scratch_) {
        if (!requests_[id].cancelled) continue;
        --inst.cancelled;
        Remove(id, Outcome::kTimeout, true);
      }
    }
  }
}

void Engine::Truncate(InstanceId i) {
  Instance& inst = instances_[i];
  RunState& run = inst.run;
  const std::int64_t n = StepsByNow(inst) + 1;
  if (n > run.planned) {
    run.truncated = run.goes_on;
    return;
  }
  run.truncated = true;
  run.planned = n;
  run.goes_on = false;
  events_.Set(i, run.start + Elapsed(run, n));
}

std::int64_t Engine::StepsByNow(const Instance& inst) const {
  const RunState& run = inst.run;
  if (inst.phase != Phase::kRun) return 0;
  if (run.asked_at != now_) {
    run.asked_steps = SubStepsWithin(run, now_ - run.start, run.planned);
    run.asked_at = now_;
  }
  return run.asked_steps;
}

// -------------------------------------------------------------------------------------------------------------- switch

bool Engine::InHostCache(NodeId n, ModelId m) const {
  const std::vector<CacheEntry>& cache = nodes_[n].cache;
  return std::any_of(cache.begin(), cache.end(), [m](const CacheEntry& e) { return e.model == m; });
}

WeightSource Engine::TierOf(InstanceId i, ModelId m) const {
  if (InHostCache(instances_[i].node, m)) return WeightSource::kHostCache;
  return setup_.backing == Tier::kNvme ? WeightSource::kNvme : WeightSource::kRemote;
}

Engine::WeightsAt Engine::TakeWeights(InstanceId i, ModelId m) {
  const Instance& inst = instances_[i];
  Node& node = nodes_[inst.node];
  SwitchMetrics& counts = metrics_.switching;
  const std::int64_t per_gpu = prices_.WeightBytes(m, inst.shape);
  const std::int64_t bytes = per_gpu * inst.node_gpus;  // of each node
  const auto at = std::find_if(node.cache.begin(), node.cache.end(), [m](const CacheEntry& e) { return e.model == m; });
  if (at != node.cache.end()) {
    std::rotate(at, at + 1, node.cache.end());
    ++counts.cache_hits;
    counts.bytes[static_cast<std::size_t>(Tier::kHostCache)] += per_gpu * inst.gpus;
    return {Tier::kHostCache, setup_.host_load};
  }
  ++counts.cache_misses;
  counts.bytes[static_cast<std::size_t>(setup_.backing)] += per_gpu * inst.gpus;
  if (bytes <= setup_.host_cache_bytes && node.cache_down == 0) {
    while (node.cache_used + bytes > setup_.host_cache_bytes) {
      node.cache_used -= node.cache.front().bytes;
      node.cache.erase(node.cache.begin());
      ++counts.cache_evictions;
    }
    node.cache.push_back({m, bytes});
    node.cache_used += bytes;
  }
  // It is staged through host memory, and cannot come faster than from there.
  return {setup_.backing, std::min(setup_.host_load, setup_.backing_load)};
}

bool Engine::StartSwitch(InstanceId i, Grant& grant) {
  Instance& inst = instances_[i];
  const InstanceFacts& f = facts_[i];
  const ModelId m = grant.model;
  if (m < 0 || m >= static_cast<ModelId>(setup_.models.size())) Broken(fmt::format("instance {} switches to model {}", i, m));
  if (f.pinned) Broken(fmt::format("instance {} is pinned and cannot switch", i));
  if (!f.models.empty() && !std::binary_search(f.models.begin(), f.models.end(), m)) {
    Broken(fmt::format("model {} may not run on instance {}", setup_.models[m].name, i));
  }
  inst.busy_for = m;
  const bool there = resident(i, m);
  std::vector<ModelId> next = {m};
  for (const ModelId k : grant.keep) {
    if (k != m && resident(i, k)) next.push_back(k);
  }
  std::sort(next.begin() + 1, next.end());
  // One after the other: weights come when KV has left.
  const bool in_turn = !there && !setup_.overlap_kv && inst.leaving > 0;
  if (in_turn || prices_.KvCapacityBytes(inst.shape, next, f.prefetch_bytes) < inst.kv_used) {
    if (inst.leaving + inst.coming == 0)
      Broken(fmt::format("switch to {} on instance {} leaves no room for the KV that is there", setup_.models[m].name, i));
    if (inst.switch_asked != m) {
      inst.switch_asked = m;
      inst.switch_began = now_;
      inst.switched_to = kNone;  // whoever waits for the switch before is served by it no more
    }
    events_.Clear(i);
    SetPhase(i, Phase::kCopy);
    return true;
  }
  const bool prefetched = grant.hiding == Grant::Hiding::kPrefetched && inst.prefetched == m;
  if (m != inst.loaded) {
    inst.switch_source = there                 ? WeightSource::kResident
                         : !prefetched         ? TierOf(i, m)
                         : inst.prefetch_ready ? WeightSource::kPrefetched
                                               : WeightSource::kPrefetching;
    metrics_.Switch(m, inst.switch_source, now_);
  }
  inst.loaded = m;
  SetResident(i, std::move(next));
  Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(m) << 1 | 1u);
  const TimePs credit = inst.step_time_since_switch;
  inst.step_time_since_switch = 0;
  if (there) return false;

  SetPhase(i, Phase::kSwitch);
  if (inst.switch_asked != m) inst.switch_began = now_;
  inst.switch_asked = kNone;
  inst.switched_to = kNone;  // until it has ended
  const std::int64_t bytes = prices_.WeightBytes(m, inst.shape);
  metrics_.weight_bytes_moved += bytes * inst.gpus;
  inst.switch_earliest_end = now_ + grant.least;
  inst.switch_loads_after_timer = false;
  inst.switch_waits_for_prefetch = false;
  inst.switch_engine_init = setup_.engine_init;
  inst.switch_copy = 0;
  if (grant.hiding == Grant::Hiding::kCredit) {
    const TimePs load = setup_.engine_init + TransferTime(bytes, TakeWeights(i, m).rate);
    const TimePs end = now_ + std::max(grant.least, load - credit);
    inst.switch_engine_init = std::min(setup_.engine_init, end - now_);
    events_.Set(i, end);
    return true;
  }
  if (prefetched) {
    metrics_.weight_bytes_moved -= bytes * inst.gpus;  // counted when the prefetch began
    if (inst.prefetch_ready) {
      SwitchTimerEnded(i);
    } else {
      inst.switch_waits_for_prefetch = true;
      events_.Clear(i);
    }
    return true;
  }
  inst.switch_loads_after_timer = true;
  if (setup_.engine_init > 0) {
    events_.Set(i, now_ + setup_.engine_init);
  } else {
    SwitchTimerEnded(i);
  }
  return true;
}

// A stage of a switch is over: engine stages, the arrival of prefetched weights, or the copy out of the prefetch buffer.
void Engine::SwitchTimerEnded(InstanceId i) {
  Instance& inst = instances_[i];
  const std::int64_t bytes = prices_.WeightBytes(inst.loaded, inst.shape);
  if (inst.switch_loads_after_timer) {
    inst.switch_loads_after_timer = false;
    if (inst.prefetch_ticket >= 0) {
      // A prefetch of something else is in the way of these weights.
      links_[inst.link].Cancel(now_, inst.prefetch_ticket);
      if (spans_ != nullptr) Observe(tickets_[inst.prefetch_ticket], true, false);
      tickets_[inst.prefetch_ticket].kind = Ticket::Kind::kFree;
      free_tickets_.push_back(inst.prefetch_ticket);
      inst.prefetch_ticket = -1;
      inst.prefetched = kNone;
    }
    events_.Clear(i);
    SendWeights(i, inst.loaded, TakeWeights(i, inst.loaded), NewTicket(Ticket::Kind::kWeights, i, inst.loaded), false);
    return;
  }
  if (inst.prefetched == inst.loaded) {
    // Out of the buffer: read and written once in GPU memory.
    inst.prefetched = kNone;
    inst.prefetch_ready = false;
    inst.switch_copy = TransferTime(2 * bytes, setup_.gpu.hbm_bytes_per_s);
    events_.Set(i, std::max(inst.switch_earliest_end, now_ + setup_.engine_init + inst.switch_copy));
    return;
  }
  if (now_ < inst.switch_earliest_end) {
    events_.Set(i, inst.switch_earliest_end);
    return;
  }
  FinishSwitch(i);
}

void Engine::FinishSwitch(InstanceId i) {
  Instance& inst = instances_[i];
  inst.switched_to = inst.loaded;
  inst.switch_ended = now_;
  metrics_.SwitchEnded(now_ - inst.phase_start, inst.switch_engine_init, inst.switch_copy);
  Busy(i, Activity::kSwitch, inst.phase_start);
  Observe(i, Span::Kind::kSwitch);
  if (inst.reload != kNone) {
    ++inst.reload;
    Reload(i);
    return RouteHeld();
  }
  Dispatch(i);
}

void Engine::StartPrefetch(InstanceId i, ModelId m) {
  Instance& inst = instances_[i];
  if (!setup_.prefetch || inst.prefetched == m || resident(i, m)) return;
  if (prices_.WeightBytes(m, inst.shape) > facts_[i].prefetch_bytes) return;
  if (inst.prefetch_ticket >= 0) return;  // one at a time; a mispredicted one is dropped when a switch needs the link
  if (inst.phase == Phase::kSwitch) return;
  inst.prefetched = m;
  inst.prefetch_ready = false;
  inst.prefetch_ticket = NewTicket(Ticket::Kind::kPrefetch, i, m);
  const std::int64_t bytes = prices_.WeightBytes(m, inst.shape);
  metrics_.weight_bytes_moved += bytes * inst.gpus;
  ++metrics_.switching.prefetches;
  SendWeights(i, m, TakeWeights(i, m), inst.prefetch_ticket, true);
}

// --------------------------------------------------------------------------------------------------------- KV movement

std::int64_t Engine::NewTicket(Ticket::Kind kind, InstanceId i, ModelId m) {
  if (free_tickets_.empty()) {
    tickets_.emplace_back();
    free_tickets_.push_back(static_cast<std::int64_t>(tickets_.size()) - 1);
  }
  const std::int64_t number = free_tickets_.back();
  free_tickets_.pop_back();
  Ticket& ticket = tickets_[number];
  ticket.kind = kind;
  ticket.instance = i;
  ticket.begun = now_;
  ticket.model = m;
  ticket.batches.clear();
  ticket.requests.clear();
  return number;
}

void Engine::Send(InstanceId i, Direction direction, std::int64_t bytes, std::int64_t rate, std::int64_t ticket) {
  const Instance& inst = instances_[i];
  links_[inst.link].Add(now_, inst.lane, direction, bytes, rate, ticket);
  UpdateLink(inst.link);
}

void Engine::SendWeights(InstanceId i, ModelId m, WeightsAt from, std::int64_t ticket, bool background) {
  const Instance& inst = instances_[i];
  tickets_[ticket].tier = from.tier;
  links_[inst.link].Add(now_, inst.lane, Direction::kIn, prices_.WeightBytes(m, inst.shape), from.rate, ticket, background,
                        from.tier, inst.node_gpus);
  UpdateLink(inst.link);
}

void Engine::Evict(InstanceId i, Batch& batch) {
  Instance& inst = instances_[i];
  const std::int64_t block_bytes = BlockBytes(inst, batch.model);
  const bool stepping = places_[batch.number] == Place::kGpu && batch.size() > 0;
  std::int64_t bytes = stepping ? batch.Blocks() * block_bytes : 0;
  // Members that have come to the batch on the GPU and have not stepped in it.
  std::vector<MovingRequest> beside;
  for (const RequestId id : batch.incoming) {
    const Request& r = requests_[id];
    if (r.kv != KvPlace::kGpu) continue;
    beside.push_back({id, r.stamp, r.blocks * block_bytes});
    bytes += r.blocks * block_bytes;
  }
  if (bytes == 0) return;
  if (!HostHasRoom(bytes * inst.gpus)) {
    // The hosts are full: the KV is lost, and its requests are prefilled again.
    scratch_.clear();
    if (stepping) scratch_ = batch.stepping;
    for (const MovingRequest& m : beside) scratch_.push_back(m.id);
    std::sort(scratch_.begin(), scratch_.end(),
              [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
    const std::vector<RequestId> all = scratch_;
    for (const RequestId id : all) Preempt(i, id);
    return;
  }
  host_kv_used_ += bytes * inst.gpus;
  metrics_.kv_bytes_moved += bytes * inst.gpus;
  for (const MovingRequest& m : beside) requests_[m.id].kv = setup_.kv_out_free ? KvPlace::kHost : KvPlace::kMoving;
  if (stepping) places_[batch.number] = setup_.kv_out_free ? Place::kHost : Place::kLeaving;
  if (setup_.kv_out_free) {
    inst.kv_used -= bytes;
    return;
  }
  ++inst.leaving;
  const std::int64_t ticket = NewTicket(Ticket::Kind::kBatchOut, i, batch.model);
  if (stepping) tickets_[ticket].batches.push_back({batch.number, batch.Blocks() * block_bytes});
  tickets_[ticket].requests = std::move(beside);
  Send(i, Direction::kOut, bytes, setup_.kv_copy, ticket);
}

void Engine::Drop(InstanceId i, Batch& batch) {
  Instance& inst = instances_[i];
  const std::int32_t number = batch.number;
  if (places_[number] != Place::kGpu && places_[number] != Place::kHost)
    Broken(fmt::format("instance {} drops KV that is moving", i));
  const bool on_gpu = places_[number] == Place::kGpu;
  std::vector<RequestId> outgrown;  // could never be prefilled again
  while (batches_[number].members() > 0) {
    const RequestId id = batches_[number].stepping.empty() ? batches_[number].incoming.back() : batches_[number].stepping.back();
    Request& r = requests_[id];
    const bool stepping = r.stepping;
    batches_[number].Leave(id, requests_);
    const std::int64_t bytes = r.blocks * BlockBytes(inst, r.model);
    if (stepping ? on_gpu : r.kv == KvPlace::kGpu) {
      inst.kv_used -= bytes;
    } else if (stepping || r.kv == KvPlace::kHost) {
      host_kv_used_ -= bytes * inst.gpus;
    } else if (r.kv == KvPlace::kMoving) {
      ++r.stamp;  // the transfer finds a stranger and gives the memory back
    }
    r.kv = KvPlace::kNowhere;
    r.blocks = 0;
    if (!FitsAlone(i, r)) outgrown.push_back(id);
  }
  Retire(number);
  std::sort(outgrown.begin(), outgrown.end(),
            [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
  for (const RequestId id : outgrown) Remove(id, Outcome::kKvGrowth, true);
}

void Engine::Preempt(InstanceId i, RequestId id) {
  Instance& inst = instances_[i];
  Request& r = requests_[id];
  const std::int32_t number = r.batch;
  batches_[number].Leave(id, requests_);
  const std::int64_t bytes = r.blocks * BlockBytes(inst, r.model);
  Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(r.sequence) << 2 | 2u);
  Retire(number);
  const bool outgrown = BlocksOf(r.context() + 1) * BlockBytes(inst, r.model) > inst.kv_capacity;
  if (!outgrown && setup_.swap && HostHasRoom(bytes * inst.gpus)) {
    host_kv_used_ += bytes * inst.gpus;
    metrics_.kv_bytes_moved += bytes * inst.gpus;
    if (setup_.kv_out_free) {
      inst.kv_used -= bytes;
      r.kv = KvPlace::kHost;
    } else {
      r.kv = KvPlace::kMoving;
      ++inst.leaving;
      const std::int64_t ticket = NewTicket(Ticket::Kind::kRequestsOut, i, r.model);
      tickets_[ticket].requests.push_back({id, r.stamp, bytes});
      Send(i, Direction::kOut, bytes, setup_.kv_copy, ticket);
    }
    scheduler_.OnPreempted(id, i, *this);
    if (setup_.kv_out_free) {
      scheduler_.OnQueued(id, i, *this);
    }
    return;
  }
  inst.kv_used -= bytes;
  r.kv = KvPlace::kNowhere;
  r.blocks = 0;
  if (outgrown) {
    Remove(id, Outcome::kKvGrowth, true);
  } else if (inst.role == Role::kDecode) {
    scheduler_.OnRemoved(id, i, *this);
    RouteArrival(id);
  } else {
    scheduler_.OnPreempted(id, i, *this);
  }
}

void Engine::Handover(RequestId id) {
  Request& r = requests_[id];
  const InstanceId i = r.instance;
  Instance& inst = instances_[i];
  scheduler_.OnRemoved(id, i, *this);
  const std::int64_t bytes = r.blocks * BlockBytes(inst, r.model);
  if (!HostHasRoom(bytes * inst.gpus)) {
    inst.kv_used -= bytes;
    r.kv = KvPlace::kNowhere;
    r.blocks = 0;
    RouteArrival(id);
    return;
  }
  host_kv_used_ += bytes * inst.gpus;
  if (setup_.handover_free) {
    inst.kv_used -= bytes;
    r.kv = KvPlace::kHost;
    RouteToDecode(id);
    return;
  }
  metrics_.kv_bytes_moved += bytes * inst.gpus;
  r.kv = KvPlace::kMoving;
  ++inst.leaving;
  const std::int64_t ticket = NewTicket(Ticket::Kind::kHandover, i, r.model);
  tickets_[ticket].requests.push_back({id, r.stamp, bytes});
  Send(i, Direction::kOut, bytes, setup_.kv_copy, ticket);
}

void Engine::RouteToDecode(RequestId id) {
  Request& r = requests_[id];
  if (!setup_.exact_timeouts) {
    const std::int64_t sequence = r.sequence;
    OverdueAtScheduling();
    if (!r.live || r.sequence != sequence) return;
  }
  const InstanceId from = r.instance;
  // An instance that does both is asked for as at an arrival, by one whose own has failed.
  const bool both = instances_[from].role == Role::kBoth;
  const InstanceId to = both ? router_.RouteArrival(id, *this) : router_.RouteHandover(id, *this);
  if (down_ > 0 && (to == kNone || (to < static_cast<InstanceId>(instances_.size()) && !instances_[to].up))) return Hold(id);
  if (r.held) Release(id);
  if (to < 0 || to >= static_cast<InstanceId>(instances_.size()) || instances_[to].role == Role::kPrefill) {
    Broken(fmt::format("request {} handed over to instance {}", r.sequence, to));
  }
  const Instance& inst = instances_[to];
  if (inst.shape != instances_[from].shape) {
    // The KV is laid out anew for the other shape.
    host_kv_used_ +=
        r.blocks * (BlockBytes(inst, r.model) * inst.gpus - BlockBytes(instances_[from], r.model) * instances_[from].gpus);
  }
  r.instance = to;
  if (!FitsAlone(to, r)) {
    Remove(id, Outcome::kKvGrowth, false);
    return;
  }
  QueueAt(id, to);
}

void Engine::FinishTicket(std::int64_t number) {
  // Taken out whole: what follows may make new tickets.
  Ticket ticket = std::move(tickets_[number]);
  tickets_[number].kind = Ticket::Kind::kFree;
  free_tickets_.push_back(number);
  const InstanceId i = ticket.instance;
  Instance& inst = instances_[i];
  Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(i) << 3 | 3u);
  if (spans_ != nullptr) Observe(ticket, false, false);
  switch (ticket.kind) {
    case Ticket::Kind::kWeights:
      if (now_ < inst.switch_earliest_end) {
        events_.Set(i, inst.switch_earliest_end);
      } else {
        FinishSwitch(i);
      }
      return;
    case Ticket::Kind::kPrefetch:
      inst.prefetch_ready = true;
      inst.prefetch_ticket = -1;
      if (inst.switch_waits_for_prefetch) {
        inst.switch_waits_for_prefetch = false;
        SwitchTimerEnded(i);
      }
      return;
    case Ticket::Kind::kBatchOut:
      --inst.leaving;
      for (const MovingRequest& m : ticket.requests) {
        inst.kv_used -= m.bytes;
        Request& r = requests_[m.id];
        if (r.live && r.stamp == m.stamp) {
          r.kv = KvPlace::kHost;
        } else {
          host_kv_used_ -= m.bytes * inst.gpus;
        }
      }
      for (const auto& [batch, bytes] : ticket.batches) {
        inst.kv_used -= bytes;
        const std::int64_t left = batches_[batch].Blocks() * BlockBytes(inst, batches_[batch].model);
        host_kv_used_ -= (bytes - left) * inst.gpus;
        places_[batch] = Place::kHost;
        Retire(batch);
      }
      break;
    case Ticket::Kind::kIn:
      --inst.coming;
      for (const auto& [batch, bytes] : ticket.batches) {
        host_kv_used_ -= bytes * inst.gpus;
        inst.kv_used -= bytes - batches_[batch].Blocks() * BlockBytes(inst, batches_[batch].model);
        places_[batch] = Place::kGpu;
        batches_[batch].in_kv += now_ - ticket.begun;
        batches_[batch].settled = now_;
        Retire(batch);
      }
      for (const MovingRequest& m : ticket.requests) {
        host_kv_used_ -= m.bytes * inst.gpus;
        Request& r = requests_[m.id];
        if (r.live && r.stamp == m.stamp) {
          r.kv = KvPlace::kGpu;
          r.spent.kv += now_ - ticket.begun;
          r.spent.settled = now_;
        } else {
          inst.kv_used -= m.bytes;
        }
      }
      break;
    case Ticket::Kind::kRequestsOut:
    case Ticket::Kind::kHandover:
      --inst.leaving;
      for (const MovingRequest& m : ticket.requests) {
        inst.kv_used -= m.bytes;
        Request& r = requests_[m.id];
        if (!r.live || r.stamp != m.stamp) {
          host_kv_used_ -= m.bytes * inst.gpus;
          continue;
        }
        r.kv = KvPlace::kHost;
        r.spent.kv += now_ - ticket.begun;
        r.spent.settled = now_;
        if (ticket.kind == Ticket::Kind::kHandover) {
          RouteToDecode(m.id);
        } else {
          scheduler_.OnQueued(m.id, i, *this);
        }
      }
      break;
    case Ticket::Kind::kFree:
      Broken("a transfer ended twice");
  }
  if (inst.phase == Phase::kCopy) {
    Busy(i, Activity::kKvCopy, inst.phase_start);
    Observe(i, Span::Kind::kKvCopy);
    Dispatch(i);
  } else if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) {
    Dispatch(i);
  } else if (inst.phase == Phase::kRun && (ticket.kind == Ticket::Kind::kIn || ticket.kind == Ticket::Kind::kRequestsOut)) {
    Truncate(i);
  } else if (inst.phase == Phase::kRun && !inst.run.truncated) {
    PlanSegment(i);  // the run may go further in the memory that is free now
  }
}

// ------------------------------------------------------------------------------------------------------------ requests

void Engine::Detach(RequestId id) {
  Request& r = requests_[id];
  Place place = r.kv == KvPlace::kGpu ? Place::kGpu : r.kv == KvPlace::kHost ? Place::kHost : Place::kLeaving;
  if (r.kv == KvPlace::kNowhere && !r.stepping) return;
  Instance& inst = instances_[r.instance];
  if (r.batch != kNone) {
    const std::int32_t number = r.batch;
    if (r.stepping) place = places_[number];
    batches_[number].Leave(id, requests_);
    Retire(number);
  }
  const std::int64_t bytes = r.blocks * BlockBytes(inst, r.model);
  if (place == Place::kGpu) {
    inst.kv_used -= bytes;
  } else if (place == Place::kHost) {
    host_kv_used_ -= bytes * inst.gpus;
  }  // else: the transfer gives the memory back when it ends
  r.kv = KvPlace::kNowhere;
  r.blocks = 0;
}

void Engine::Remove(RequestId id, Outcome outcome, bool known_to_policy) {
  Request& r = requests_[id];
  Detach(id);
  r.outcome = outcome;
  Mark(static_cast<std::uint64_t>(now_), static_cast<std::uint64_t>(r.sequence) << 3 | static_cast<std::uint64_t>(outcome));
  if (known_to_policy) {
    scheduler_.OnRemoved(id, r.instance, *this);
  }
  metrics_.Leave(r, now_);
  if (spans_ != nullptr) spans_->OnLeave(r.sequence, r.instance, outcome, now_);
  ++(outcome == Outcome::kFinished ? finished_ : failed_);
  if (request_sink_) request_sink_(r, metrics_.targets(r.model));
  requests_.Free(id);
}

void Engine::Cancel(RequestId id) {
  Request& r = requests_[id];
  if (r.held) {
    Release(id);
    Remove(id, Outcome::kTimeout, false);
    return;
  }
  Instance& inst = instances_[r.instance];
  const auto in_run = [&] {
    if (inst.phase != Phase::kRun || !r.stepping) return false;
    return std::any_of(inst.run.parts.begin(), inst.run.parts.end(), [&](const Part& p) { return p.batch == r.batch; });
  };
  if (r.executing || in_run()) {
    r.cancelled = true;
    ++inst.cancelled;
    if (r.executing) {
      scheduler_.OnRemoved(id, r.instance, *this);  // the prefill goes on, but for nobody
    }
    if (inst.phase == Phase::kRun) Truncate(r.instance);
    return;
  }
  const InstanceId i = r.instance;
  const bool handed_over = inst.role == Role::kPrefill && (r.kv == KvPlace::kMoving || r.kv == KvPlace::kHost);
  Remove(id, Outcome::kTimeout, !handed_over);
  // What waited behind it may be able to run now.
  if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) {
    Dispatch(i);
  } else if (inst.phase == Phase::kRun) {
    Truncate(i);
  }
}

// ------------------------------------------------------------------------------------------------------------ failures

void Engine::OnOutage() {
  const Outages::Event e = outages_.Take();
  Mark(static_cast<std::uint64_t>(e.kind) << 8 | static_cast<std::uint64_t>(e.change), static_cast<std::uint64_t>(e.index));
  const bool down = e.change == Outages::Change::kDown;
  in_force_ += down ? 1 : e.change == Outages::Change::kUp ? -1 : 0;
  if (down && (e.kind == FailureKind::kCache || e.kind == FailureKind::kLink))
    ++metrics_.failures.failures[static_cast<std::size_t>(e.kind)];
  switch (e.kind) {
    case FailureKind::kGpu:
      down ? Fault(e.index, e.kind) : Mend(e.index);
      break;
    case FailureKind::kNode:
    case FailureKind::kDrain: {
      Node& node = nodes_[static_cast<std::size_t>(e.index)];
      if (down) {
        Empty(nodes_[static_cast<std::size_t>(node.first)]);
        // KV there of requests that wait for a place.
        const std::vector<RequestId> held = held_;
        for (const RequestId id : held) {
          const Request& r = requests_[id];
          if (r.kv == KvPlace::kHost && std::find(node.here.begin(), node.here.end(), r.instance) != node.here.end())
            Hit(id, r.context());
        }
      }
      for (const InstanceId i : node.here) {
        if (e.change == Outages::Change::kDrain) {
          Drain(i);
        } else {
          down ? Fault(i, e.kind) : Mend(i);
        }
      }
      break;
    }
    case FailureKind::kCache: {
      Node& node = nodes_[static_cast<std::size_t>(e.index)];
      node.cache_down += down ? 1 : -1;
      if (down) Empty(node);
      break;
    }
    case FailureKind::kLink: {
      const double factor = setup_.failures.links.factor;
      Link& link = links_[static_cast<std::size_t>(e.index)];
      link.Outage(now_, down, factor);
      SetLinkEvent(e.index);
      break;
    }
  }
  RouteHeld();
  const auto slot = static_cast<std::int64_t>(instances_.size() + links_.size());
  if (outages_.next() != kNever) events_.Set(slot, outages_.next());
}

void Engine::Empty(Node& node) {
  node.cache.clear();
  node.cache_used = 0;
}

void Engine::Fault(InstanceId i, FailureKind kind) {
  Instance& inst = instances_[i];
  if (kind == FailureKind::kDrain) --inst.draining;
  ++metrics_.failures.failures[static_cast<std::size_t>(kind)];
  if (inst.faults++ > 0) return;
  const bool was_up = UpdateUp(i);
  Abandon(i, kind != FailureKind::kGpu);
  if (was_up) scheduler_.OnDown(i, *this);
}

// The instance stops here: what is on its GPUs is lost, and what its requests have on the host too when that goes with it. All
// leave the policy's books of the instance before any is routed anew.
void Engine::Abandon(InstanceId i, bool host) {
  Instance& inst = instances_[i];
  const bool cut_run = inst.phase == Phase::kRun;
  CutShort(i);
  events_.Clear(i);
  SetPhase(i, Phase::kDown);
  CancelTransfers(i);
  for (const RequestId id : RequestsAt(i)) {
    Request& r = requests_[id];
    // Who gave up in a prefill is known to nobody, and who was on the way to a decode instance neither.
    const bool handed_over = inst.role == Role::kPrefill && !r.executing && r.prefilled == 0 && r.kv == KvPlace::kGpu;
    const bool known = !handed_over && !(r.executing && r.cancelled);
    const bool hit = OnGpu(r) || (host && OnHost(r));
    const bool in_prefill = r.executing || r.prefilled > 0;
    r.executing = false;
    LeaveInstance(id);
    if (known) scheduler_.OnRemoved(id, i, *this);
    if (r.cancelled) {
      Remove(id, Outcome::kTimeout, false);
      continue;
    }
    Hold(id);
    if (hit) {
      Hit(id, in_prefill ? r.prefilled : r.context());
    } else {
      ++metrics_.failures.moved;
    }
  }
  inst.cancelled = 0;
  if (cut_run && inst.run.mixed) Retire(inst.run.parts.front().batch);  // it need not have had members
  if (inst.kv_used != 0) Broken(fmt::format("I1: KV is left on instance {}, which has failed", i));
  SetResident(i, {});
  inst.loaded = kNone;
  inst.prefetched = kNone;
  inst.prefetch_ready = false;
  inst.prefetch_ticket = -1;
  inst.switch_waits_for_prefetch = false;
  inst.switch_loads_after_timer = false;
  inst.switched_to = kNone;
  inst.switch_asked = kNone;
  inst.step_time_since_switch = 0;
  inst.last_run_time = 0;
  inst.last_run_label = kNone;
  inst.reload = kNone;
}

void Engine::Mend(InstanceId i) {
  Instance& inst = instances_[i];
  if (--inst.faults > 0) return;
  CutShort(i);
  SetPhase(i, Phase::kBetween);
  inst.reload = facts_[i].pinned ? 0 : static_cast<std::int32_t>(facts_[i].resident.size());
  Reload(i);
}

// Weights that are pinned come back one model after the other; then, or at once without any, the instance is up. They count as
// switches.
void Engine::Reload(InstanceId i) {
  Instance& inst = instances_[i];
  const std::vector<ModelId>& resident = facts_[i].resident;
  if (inst.reload < static_cast<std::int32_t>(resident.size())) {
    const ModelId m = resident[static_cast<std::size_t>(inst.reload)];
    inst.busy_for = m;
    inst.switch_source = TierOf(i, m);
    inst.switch_earliest_end = now_;
    inst.switch_engine_init = 0;
    inst.switch_copy = 0;
    metrics_.Switch(m, inst.switch_source, now_);
    metrics_.weight_bytes_moved += prices_.WeightBytes(m, inst.shape) * inst.gpus;
    SetPhase(i, Phase::kSwitch);
    SendWeights(i, m, TakeWeights(i, m), NewTicket(Ticket::Kind::kWeights, i, m), false);
    return;
  }
  inst.reload = kNone;
  if (facts_[i].pinned) {
    SetResident(i, resident);
    inst.loaded = resident.front();
  }
  if (UpdateUp(i)) scheduler_.OnUp(i, *this);
  Dispatch(i);
}

// No new requests; what has not begun to run, or has its KV on the host, goes elsewhere.
void Engine::Drain(InstanceId i) {
  Instance& inst = instances_[i];
  ++inst.draining;
  const bool was_up = UpdateUp(i);
  for (const RequestId id : RequestsAt(i)) {
    const Request& r = requests_[id];
    const bool waits = OnHost(r) || (!r.stepping && r.kv == KvPlace::kNowhere);
    if (!waits || r.executing || r.cancelled) continue;
    LeaveInstance(id);
    scheduler_.OnRemoved(id, i, *this);
    Hold(id);
    ++metrics_.failures.moved;
  }
  if (was_up) scheduler_.OnDown(i, *this);
  if (inst.phase == Phase::kIdle || inst.phase == Phase::kWait) Dispatch(i);
}

bool Engine::UpdateUp(InstanceId i) {
  Instance& inst = instances_[i];
  const bool up = inst.faults == 0 && inst.draining == 0 && inst.reload == kNone;
  if (up == inst.up) return false;
  inst.up = up;
  down_ += up ? -1 : 1;
  return true;
}

void Engine::CutShort(InstanceId i) {
  Instance& inst = instances_[i];
  switch (inst.phase) {
    case Phase::kRun: {
      const std::int64_t n = StepsByNow(inst);
      ApplySteps(i, n);
      inst.busy_for = batches_[inst.run.parts[n % static_cast<std::int64_t>(inst.run.parts.size())].batch].model;
      Busy(i, Activity::kDecode, std::max(inst.phase_start, inst.last_step_end));
      Observe(i, inst.run.mixed ? Span::Kind::kMixed : Span::Kind::kDecode, true);
      break;
    }
    case Phase::kPrefill:
      Busy(i, Activity::kPrefill, inst.phase_start);
      Observe(i, Span::Kind::kPrefill, true);
      break;
    case Phase::kSwitch:
      Busy(i, Activity::kSwitch, inst.phase_start);
      Observe(i, Span::Kind::kSwitch, true);
      break;
    case Phase::kCopy:
      Busy(i, Activity::kKvCopy, inst.phase_start);
      Observe(i, Span::Kind::kKvCopy, true);
      break;
    case Phase::kDown:
      metrics_.Busy(Activity::kDown, inst.phase_start, now_, inst.gpus);
      metrics_.RecordBusy(i, Activity::kDown, inst.phase_start, now_, inst.gpus, kNone);
      Observe(i, Span::Kind::kDown, inst.faults > 0);
      break;
    default:
      break;
  }
}

// KV that was on its way is where it was before: its copy there is whole.
void Engine::CancelTransfers(InstanceId i) {
  Instance& inst = instances_[i];
  for (std::int64_t number = 0; number < static_cast<std::int64_t>(tickets_.size()); ++number) {
    Ticket& ticket = tickets_[number];
    if (ticket.kind == Ticket::Kind::kFree || ticket.instance != i) continue;
    links_[inst.link].Cancel(now_, number);
    if (spans_ != nullptr) Observe(ticket, true, false);
    const bool in = ticket.kind == Ticket::Kind::kIn;
    for (const auto& [batch, bytes] : ticket.batches) {
      const std::int64_t left = batches_[batch].Blocks() * BlockBytes(inst, batches_[batch].model);
      inst.kv_used -= in ? bytes : bytes - left;
      host_kv_used_ -= (in ? bytes - left : bytes) * inst.gpus;
      places_[batch] = in ? Place::kHost : Place::kGpu;
      Retire(batch);
    }
    for (const MovingRequest& m : ticket.requests) {
      Request& r = requests_[m.id];
      const bool there = r.live && r.stamp == m.stamp;
      if (in || !there) inst.kv_used -= m.bytes;
      if (!in || !there) host_kv_used_ -= m.bytes * inst.gpus;
      if (there) r.kv = in ? KvPlace::kHost : KvPlace::kGpu;
    }
    ticket.kind = Ticket::Kind::kFree;
    free_tickets_.push_back(number);
  }
  inst.leaving = 0;
  inst.coming = 0;
  UpdateLink(inst.link);
}

std::vector<RequestId> Engine::RequestsAt(InstanceId i) const {
  std::vector<RequestId> ids;
  for (RequestId id = 0; id < static_cast<RequestId>(requests_.slots()); ++id) {
    if (requests_[id].live && requests_[id].instance == i && !requests_[id].held) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(), [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
  return ids;
}

void Engine::LeaveInstance(RequestId id) {
  Request& r = requests_[id];
  if (r.batch == kNone) return;
  const std::int32_t number = r.batch;
  if (r.stepping) r.kv = OnGpu(r) ? KvPlace::kGpu : KvPlace::kHost;
  batches_[number].Leave(id, requests_);
  Retire(number);
}

// The KV of a request that is held is gone with what held it.
void Engine::Hit(RequestId id, std::int64_t computed) {
  Request& r = requests_[id];
  const FailuresConfig& config = setup_.failures;
  FailureMetrics& counts = metrics_.failures;
  ++counts.hit;
  Detach(id);
  r.prefilled = 0;
  if (config.in_flight == "lost" || r.retries == config.max_retries) {
    ++counts.lost;
    Release(id);
    Remove(id, Outcome::kLost, false);
    return;
  }
  ++r.retries;
  ++counts.retried;
  counts.recomputed += computed;
  if (config.in_flight == "recompute") return;
  r.replay = r.delivered();
  r.generated = 0;
}

void Engine::Hold(RequestId id) {
  if (requests_[id].held) return;
  requests_[id].held = true;
  held_.push_back(id);
}

void Engine::Release(RequestId id) {
  requests_[id].held = false;
  std::erase(held_, id);
}

// Whoever finds a place goes there, in order of arrival.
void Engine::RouteHeld() {
  if (held_.empty()) return;
  std::vector<RequestId> waiting = held_;
  std::sort(waiting.begin(), waiting.end(),
            [this](RequestId a, RequestId b) { return requests_[a].sequence < requests_[b].sequence; });
  for (const RequestId id : waiting) {
    const Request& r = requests_[id];
    if (!r.live || !r.held) continue;  // gave up meanwhile
    if (r.kv == KvPlace::kHost) {
      RouteToDecode(id);
    } else {
      RouteArrival(id);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- batches

const Batch* Engine::FindBatch(InstanceId i, int label) const {
  const std::vector<std::int32_t>& labels = instances_[i].labels;
  if (label < 0 || label >= static_cast<int>(labels.size()) || labels[label] == kNone) return nullptr;
  return &batches_[labels[label]];
}

Batch* Engine::FindBatch(InstanceId i, int label) { return const_cast<Batch*>(std::as_const(*this).FindBatch(i, label)); }

Batch& Engine::BatchFor(InstanceId i, int label, ModelId m) {
  if (Batch* batch = FindBatch(i, label)) return *batch;
  if (label < 0 || label > 1'000'000) Broken(fmt::format("instance {} was granted a batch with label {}", i, label));
  if (free_batches_.empty()) {
    batches_.emplace_back();
    places_.push_back(Place::kGpu);
    free_batches_.push_back(static_cast<std::int32_t>(batches_.size()) - 1);
  }
  const std::int32_t number = free_batches_.back();
  free_batches_.pop_back();
  batches_[number].Reset(number, i, label, m, padding_table_);
  places_[number] = Place::kGpu;
  std::vector<std::int32_t>& labels = instances_[i].labels;
  if (label >= static_cast<int>(labels.size())) labels.resize(static_cast<std::size_t>(label) + 1, kNone);
  labels[label] = number;
  return batches_[number];
}

void Engine::Join(Batch& batch, RequestId id) {
  Settle(batch);
  Settle(requests_[id]);
  batch.Join(id, requests_, metrics_.targets(batch.model));
}

void Engine::Retire(std::int32_t number) {
  Batch& batch = batches_[number];
  if (batch.members() > 0 || batch.instance == kNone) return;
  const Instance& inst = instances_[batch.instance];
  if (inst.phase == Phase::kRun && inst.run.mixed && inst.run.parts.front().batch == number) return;  // again when the run ends
  if (batch.label != kNone) instances_[batch.instance].labels[batch.label] = kNone;
  batch.label = kNone;                                                                  // the policy may use its name again
  if (places_[number] == Place::kLeaving || places_[number] == Place::kComing) return;  // again when the transfer ends
  batch.instance = kNone;
  free_batches_.push_back(number);
}

// --------------------------------------------------------------------------------------------------------------- views

RequestView Engine::request(RequestId id) const {
  const Request& r = requests_[id];
  RequestView v;
  v.sequence = r.sequence;
  v.model = r.model;
  v.arrival = r.arrival;
  v.prompt_tokens = r.prompt;
  v.generated = r.generated;
  v.prefilled = r.prefilled;
  v.kv = r.kv;
  if (r.executing) {
    const Instance& inst = instances_[r.instance];
    const std::int64_t steps = inst.phase == Phase::kRun ? StepsByNow(inst) : 0;
    for (const Grant::Piece& piece : inst.grant.pieces) {
      if (piece.request == id) v.prefilled += static_cast<std::int32_t>(piece.tokens * steps);
    }
  }
  if (r.stepping) {
    const Instance& inst = instances_[r.instance];
    std::int64_t more = 0;
    if (inst.phase == Phase::kRun) {
      const auto m = static_cast<std::int64_t>(inst.run.parts.size());
      for (std::int64_t p = 0; p < m; ++p) {
        if (inst.run.parts[p].batch != r.batch) continue;
        const std::int64_t n = StepsByNow(inst);
        more = n / m + (p < n % m ? 1 : 0);
      }
    }
    v.generated = static_cast<std::int32_t>(batches_[r.batch].Generated(r) + more);
    switch (places_[r.batch]) {
      case Place::kGpu:
        v.kv = KvPlace::kGpu;
        break;
      case Place::kHost:
        v.kv = KvPlace::kHost;
        break;
      default:
        v.kv = KvPlace::kMoving;
    }
  }
  return v;
}

bool Engine::resident(InstanceId i, ModelId m) const {
  const std::vector<ModelId>& list = instances_[i].resident;
  return std::find(list.begin(), list.end(), m) != list.end();
}

bool Engine::busy(InstanceId i) const {
  const Phase p = instances_[i].phase;
  return p != Phase::kIdle && p != Phase::kWait && p != Phase::kDown;
}

BatchView Engine::batch(InstanceId i, int label) const {
  BatchView v;
  const Batch* batch = FindBatch(i, label);
  if (batch == nullptr) return v;
  v.model = batch->model;
  v.size = batch->members();
  v.context_tokens = batch->context() + batch->incoming_context();
  const Instance& inst = instances_[i];
  if (inst.phase == Phase::kRun) {
    const auto m = static_cast<std::int64_t>(inst.run.parts.size());
    for (std::int64_t p = 0; p < m; ++p) {
      if (inst.run.parts[p].batch != batch->number) continue;
      const std::int64_t n = StepsByNow(inst);
      v.context_tokens += (n / m + (p < n % m ? 1 : 0)) * batch->size();
    }
  }
  return v;
}

bool Engine::on_gpu(InstanceId i, int label) const {
  const Batch* batch = FindBatch(i, label);
  if (batch == nullptr) return false;
  return (places_[batch->number] == Place::kGpu && batch->size() > 0) ||
         std::any_of(batch->incoming.begin(), batch->incoming.end(),
                     [this](RequestId id) { return requests_[id].kv == KvPlace::kGpu; });
}

std::int64_t Engine::kv_capacity_tokens(InstanceId i, ModelId m) const {
  const Instance& inst = instances_[i];
  return inst.kv_capacity / BlockBytes(inst, m) * setup_.block_tokens;
}

std::int64_t Engine::kv_free_tokens(InstanceId i, ModelId m) const {
  const Instance& inst = instances_[i];
  const std::int64_t grown = inst.phase == Phase::kRun ? Growth(inst, StepsByNow(inst)) : 0;
  return std::max<std::int64_t>(0, inst.kv_capacity - inst.kv_used - grown) / BlockBytes(inst, m) * setup_.block_tokens;
}

TimePs Engine::last_step_end(InstanceId i) const {
  const Instance& inst = instances_[i];
  if (inst.phase == Phase::kRun) {
    const std::int64_t n = StepsByNow(inst);
    if (n > 0) return inst.run.start + Elapsed(inst.run, n);
  }
  return inst.last_step_end;
}

// --------------------------------------------------------------------------------------------------------------- books

void Engine::Busy(InstanceId i, Activity activity, TimePs from) {
  Instance& inst = instances_[i];
  metrics_.Busy(activity, from, now_, inst.gpus);
  metrics_.RecordBusy(i, activity, from, now_, inst.gpus, inst.busy_for);
  metrics_.model(inst.busy_for).busy += static_cast<GpuTime>(now_ - from) * inst.gpus;
  if (activity == Activity::kKvCopy) metrics_.switching.kv += now_ - from;
  inst.busy += now_ - from;
}

void Engine::Observe(InstanceId i, Span::Kind kind, bool cut) {
  if (spans_ == nullptr) return;
  const Instance& inst = instances_[i];
  Span span;
  span.kind = kind;
  span.instance = i;
  span.from = inst.phase_start;
  span.to = now_;
  if (kind != Span::Kind::kDown) span.model = inst.busy_for;
  span.cut = cut;
  if (kind == Span::Kind::kPrefill) {
    span.requests = static_cast<std::int64_t>(inst.grant.requests.size());
    for (const RequestId id : inst.grant.requests) {
      span.tokens += requests_[id].context();
      spans_->OnMember(requests_[id].sequence, i, true);
    }
  } else if (kind == Span::Kind::kDecode || kind == Span::Kind::kMixed) {
    span.batches = static_cast<std::int64_t>(inst.run.parts.size());
    for (const Part& part : inst.run.parts) span.requests += batches_[part.batch].size();
    span.steps = inst.run.steps;
    span.tokens = inst.run.tokens;
    if (kind == Span::Kind::kMixed) {
      for (const Grant::Piece& piece : inst.grant.pieces) spans_->OnMember(requests_[piece.request].sequence, i, true);
    }
  } else if (kind == Span::Kind::kSwitch) {
    span.source = inst.switch_source;
    span.engine_init = inst.switch_engine_init;
    span.copy = inst.switch_copy;
  }
  spans_->OnSpan(span);
}

void Engine::Observe(const Ticket& ticket, bool dropped, bool cut) {
  using Kind = Ticket::Kind;
  const std::int64_t gpus = instances_[ticket.instance].gpus;
  Move move;
  move.kind = ticket.kind == Kind::kWeights    ? Move::Kind::kWeights
              : ticket.kind == Kind::kPrefetch ? Move::Kind::kPrefetch
              : ticket.kind == Kind::kIn       ? Move::Kind::kKvIn
                                               : Move::Kind::kKvOut;
  move.instance = ticket.instance;
  move.from = ticket.begun;
  move.to = now_;
  move.model = ticket.model;
  move.tier = ticket.tier;
  move.dropped = dropped;
  move.cut = cut;
  if (ticket.kind == Kind::kWeights || ticket.kind == Kind::kPrefetch) {
    move.bytes = prices_.WeightBytes(ticket.model, instances_[ticket.instance].shape) * gpus;
  } else {
    for (const auto& [batch, bytes] : ticket.batches) move.bytes += bytes * gpus;
    for (const MovingRequest& m : ticket.requests) move.bytes += m.bytes * gpus;
  }
  spans_->OnMove(move);
}

std::int64_t Engine::SlabBytes(std::int64_t blocks, std::int64_t block_bytes) const {
  const std::int64_t slab = setup_.slab_bytes;
  if (slab == 0) return blocks * block_bytes;
  if (block_bytes > slab) return blocks * ((block_bytes + slab - 1) / slab) * slab;
  const std::int64_t in_slab = slab / block_bytes;
  return (blocks + in_slab - 1) / in_slab * slab;
}

void Engine::CheckInvariants() const {
  std::vector<std::int64_t> gpu(instances_.size(), 0);
  __int128 host = 0;
  for (RequestId id = 0; id < static_cast<RequestId>(requests_.slots()); ++id) {
    const Request& r = requests_[id];
    if (!r.live || r.stepping || r.kv == KvPlace::kNowhere || r.kv == KvPlace::kMoving) continue;
    const Instance& inst = instances_[r.instance];
    const std::int64_t bytes = r.blocks * BlockBytes(inst, r.model);
    if (r.kv == KvPlace::kGpu) gpu[r.instance] += bytes;
    if (r.kv == KvPlace::kHost) host += static_cast<__int128>(bytes) * inst.gpus;
  }
  for (const Batch& batch : batches_) {
    if (batch.instance == kNone) continue;
    const Instance& inst = instances_[batch.instance];
    std::int64_t blocks = 0, context = 0;
    for (const RequestId id : batch.stepping) {
      const std::int64_t tokens = batch.steps() + requests_[id].context_offset;
      context += tokens;
      blocks += BlocksOf(tokens);
    }
    if (blocks != batch.Blocks() || context != batch.context())
      Broken("I1: a batch's blocks or context are not those of its members");
    if (places_[batch.number] == Place::kGpu) gpu[batch.instance] += blocks * BlockBytes(inst, batch.model);
    if (places_[batch.number] == Place::kHost) host += static_cast<__int128>(blocks * BlockBytes(inst, batch.model)) * inst.gpus;
  }
  for (const Ticket& ticket : tickets_) {
    if (ticket.kind == Ticket::Kind::kFree || ticket.kind == Ticket::Kind::kWeights || ticket.kind == Ticket::Kind::kPrefetch)
      continue;
    for (const auto& b : ticket.batches) {
      gpu[ticket.instance] += b.second;
      host += static_cast<__int128>(b.second) * instances_[ticket.instance].gpus;
    }
    for (const MovingRequest& m : ticket.requests) {
      gpu[ticket.instance] += m.bytes;
      host += static_cast<__int128>(m.bytes) * instances_[ticket.instance].gpus;
    }
  }
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    const Instance& inst = instances_[i];
    if (inst.kv_used != gpu[i])
      Broken(fmt::format("I1: instance {} books {} bytes of KV, its requests hold {}", i, inst.kv_used, gpu[i]));
    const std::int64_t grown = inst.phase == Phase::kRun ? Growth(inst, StepsByNow(inst)) : 0;
    if (inst.kv_used + grown < 0 || inst.kv_used + grown > inst.kv_capacity) {
      Broken(fmt::format("I1: instance {} holds {} bytes of KV of {}", i, inst.kv_used + grown, inst.kv_capacity));
    }
  }
  if (host != host_kv_used_ || host < 0 || host_kv_used_ > setup_.host_kv_bytes) {
    Broken(fmt::format("I2: hosts book {} bytes of KV of {}", host_kv_used_, setup_.host_kv_bytes));
  }
  for (const Node& node : nodes_) {
    std::int64_t bytes = 0;
    for (const CacheEntry& e : node.cache) bytes += e.bytes;
    if (node.cache_used != bytes || bytes > setup_.host_cache_bytes)
      Broken("I2: a host's weight cache is over its size, or not what it holds");
  }
}

void Engine::CheckEnd() const {
  if (result_.requests != finished_ + failed_ + result_.unfinished)
    Broken("I3: requests in are not finished + failed + unfinished");
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    if (instances_[i].busy > result_.end) Broken(fmt::format("I5: instance {} was busy for longer than it was owned", i));
  }
  // Without a horizon whoever is held waits for an instance, and a transfer that is left is one of an uplink that stands still.
  const bool standstill =
      in_force_ > 0 && setup_.failures.links.factor == 0 &&
      std::any_of(tickets_.begin(), tickets_.end(), [](const Ticket& t) { return t.kind != Ticket::Kind::kFree; });
  if (setup_.horizon == kNever && held_.empty() && !standstill) {
    if (result_.unfinished != 0)
      Broken(fmt::format("I3: {} requests were left behind with nothing to wait for", result_.unfinished));
    if (host_kv_used_ != 0) Broken("I2: KV is left on the hosts after the last request");
    for (const Instance& inst : instances_) {
      if (inst.kv_used != 0) Broken("I1: KV is left on a GPU after the last request");
    }
  }
}

void Engine::Broken(const std::string& what) const {
  std::fprintf(stderr, "poolsim: invariant broken in pool %s, policy %s, at %.12f s, event %lld, fingerprint %016llx: %s\n",
               setup_.name.c_str(), setup_.policy_name.c_str(), ToSeconds(now_), static_cast<long long>(result_.events),
               static_cast<unsigned long long>(result_.fingerprint), what.c_str());
  std::abort();
}

}  // namespace poolsim
