// Token-level auto-scaling (Aegaeon, SOSP 2025): prefill and decode on instances of their own, any model on any of them, and a
// model may be changed between two tokens.
//
// Prefill is grouped first come first served: every prefill instance has a queue of groups of requests of one model. A new
// request joins the first group of its model that has room, over the instances in order; else it starts a group at the end of the
// least loaded instance's queue. Requests are taken one at a time from the first group.
//
// Decode is weighted round-robin. At the top of a round an instance rebuilds its batches, puts batches of one model next to each
// other and gives batch i a time quota
//
//     q_i = c / (n_i (alpha - sum_k 1/n_k)),  n_i = d / t_i,  alpha = max(c / (Q_MAX min_k n_k) + sum_k 1/n_k, 0.5)
//
// with d the TBT target, t_i the batch's step time, c the switch time of all distinct models of the round. 1/alpha estimates the
// share of the SLO that can be attained. A turn is a switch if the model differs, the batch's KV in and the last batch's out, and
// steps until the quota is used. Requests join a running batch at the next step; a batch that is started during a round waits for
// the next.
#include <algorithm>
#include <cmath>
#include <deque>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/policy.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

class Aegaeon final : public Policy {
 public:
  struct Params {
    std::optional<std::int64_t> prefill_instances;
    double prefill_share = 0.375;
    std::int64_t group_size = 8;
    std::string load = "wait";
    double q_max_s = 4;
    double alpha_min = 0.5;
    std::string quota_clock = "after-first-step";
    std::string prefetch = "if-fits";
    double min_switch_ms = 0;
    std::string batch_order = "oldest-first";
    std::int64_t resident_models = 0;
    double resident_kv_share = 0.25;

    void Describe(Fields& f) {
      f.OptInt("prefill_instances", prefill_instances, "instances that prefill; not set: prefill_share of them", 1);
      f.Real("prefill_share", prefill_share, "share of the instances that prefill, rounded (paper: 6 of 16)", 0.001, 0.999);
      f.Int("group_size", group_size, "most requests that a prefill group takes in all; 0: as many as fit in KV memory");
      f.Choice("load", load, "of a prefill instance: estimated waiting and switching time, waiting requests, or groups",
               {"wait", "requests", "groups"});
      f.Real("q_max_s", q_max_s, "longest quota of a turn, in seconds", 1e-6, 1e6);
      f.Real("alpha_min", alpha_min, "floor of alpha; 1/alpha estimates the attainable SLO share", 0.001, 1e6);
      f.Choice("quota_clock", quota_clock, "when a turn's quota starts to run", {"after-first-step", "from-first-step"});
      f.Choice("prefetch", prefetch,
               "if-fits: the next model's weights beside the running ones; credit: all time in steps since the last switch "
               "counts (the authors' simulator); none",
               {"if-fits", "credit", "none"});
      f.Real("min_switch_ms", min_switch_ms, "a switch never takes less, in ms", 0, 1e6);
      f.Choice("batch_order", batch_order,
               "order of a round's models, by their first batch; arbitrary: drawn for each batch when it is started (the "
               "authors' simulator: by address)",
               {"oldest-first", "newest-first", "arbitrary"});
      f.Int("resident_models", resident_models, "weights kept on the GPU beside the running model while memory allows (paper: 0)",
            0, 64);
      f.Real("resident_kv_share", resident_kv_share, "share of a model's KV memory that prefetched and kept weights must leave",
             0, 1);
    }
  };

  Aegaeon(Params params, const PolicyContext& context)
      : p_(std::move(params)), min_switch_(PsFromSeconds(p_.min_switch_ms * 1e-3)), seed_(context.seed) {}

  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>& models,
                                   const PriceView& prices) override {
    const std::int64_t count = fleet.Instances();
    const std::int64_t rounded = std::clamp<std::int64_t>(std::llround(p_.prefill_share * static_cast<double>(count)), 1,
                                                          std::max<std::int64_t>(1, count - 1));
    const std::int64_t prefill = p_.prefill_instances.value_or(rounded);
    if (count < 2 || prefill >= count) {
      throw InfeasibleError(fmt::format("aegaeon: {} instances of {} GPUs leave none to decode beside {} that prefill", count,
                                        fleet.shape.gpus(), prefill));
    }
    shape_ = prices.Id(fleet.shape);
    // Prefetching needs room for any other model beside the largest; "only if it fits" is decided here, once.
    std::int64_t largest = 0;
    for (ModelId m = 0; m < static_cast<ModelId>(models.size()); ++m) largest = std::max(largest, prices.WeightBytes(m, shape_));
    const double left = static_cast<double>(fleet.usable_bytes - 2 * largest);
    const bool fits = left >= p_.resident_kv_share * static_cast<double>(fleet.usable_bytes - largest);
    std::vector<InstanceFacts> plan(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      plan[i].shape = fleet.shape;
      plan[i].role = i < prefill ? Role::kPrefill : Role::kDecode;
      plan[i].prefetch_bytes = p_.prefetch == "if-fits" && fits ? largest : 0;
    }
    prefill_.resize(static_cast<std::size_t>(prefill));
    work_.assign(static_cast<std::size_t>(prefill), 0);
    taken_prefill_.assign(static_cast<std::size_t>(prefill), 0);
    open_groups_of_.resize(models.size());
    decode_.resize(static_cast<std::size_t>(count - prefill));
    batches_.assign(static_cast<std::size_t>(count - prefill), 0);
    batches_of_.resize(models.size());
    first_decode_ = static_cast<InstanceId>(prefill);
    capacity_.assign(models.size(), 0);
    for (ModelId m = 0; m < static_cast<ModelId>(models.size()); ++m) {
      capacity_[m] = prices.KvCapacityTokens(m, shape_, {m}) - plan[0].prefetch_bytes / prices.KvBytesPerToken(m, shape_);
    }
    return plan;
  }

  // ------------------------------------------------------------------------------------------------------------ prefill

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override {
    const RequestView v = view.request(r);
    for (const std::int32_t i : open_groups_of_[v.model]) {
      for (const Group& g : prefill_[i].groups) {
        if (HasRoom(g, v)) return i;
      }
    }
    if (p_.load == "wait") return Least(work_, 0, view);
    InstanceId best = kNone;
    std::int64_t least = 0;
    for (std::size_t i = 0; i < prefill_.size(); ++i) {
      if (view.down() > 0 && !view.up(static_cast<InstanceId>(i))) continue;
      const std::int64_t load = Load(prefill_[i]);
      if (best == kNone || load < least) {
        best = static_cast<InstanceId>(i);
        least = load;
      }
    }
    return best;
  }

  InstanceId RouteHandover(RequestId r, const ClusterView& view) override {
    const RequestView v = view.request(r);
    for (const std::int32_t d : batches_of_[v.model]) {
      if (view.down() > 0 && !view.up(first_decode_ + d)) continue;  // its batch runs on, in a drain
      if (FindRoom(static_cast<std::size_t>(d), v, view) != nullptr) return first_decode_ + d;
    }
    return Least(batches_, first_decode_, view);
  }

  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override {
    const RequestView v = view.request(r);
    if (i < first_decode_) {
      Prefill& q = prefill_[i];
      work_[i] += PrefillTime(v, view);
      ++q.waiting;
      const std::vector<std::int32_t>& open = open_groups_of_[v.model];
      const bool any = std::binary_search(open.begin(), open.end(), i);
      for (auto g = q.groups.begin(); any && g != q.groups.end(); ++g) {
        if (!HasRoom(*g, v)) continue;
        g->waiting.push_back(r);
        ++g->joined;
        g->tokens += v.context();
        if (!Open(*g)) Remove(open_groups_of_[v.model], i);
        return;
      }
      const ModelId before = !q.groups.empty()  ? q.groups.back().model
                             : q.taken != kNone ? view.request(q.taken).model
                                                : view.loaded(i);
      const TimePs load = before == v.model ? 0 : view.prices().WeightLoad(v.model, shape_);
      q.groups.push_back({v.model, 1, v.context(), {r}, load});
      work_[i] += load;
      if (Open(q.groups.back())) Insert(open_groups_of_[v.model], i);
      return;
    }
    const std::size_t d = static_cast<std::size_t>(i - first_decode_);
    Work* work = FindRoom(d, v, view);
    if (work == nullptr) work = &NewWork(d, v.model);
    work->members.push_back(r);
    work->pending.push_back(r);
    work->pending_tokens += v.context();
  }

  void OnPreempted(RequestId r, InstanceId i, const ClusterView& view) override {
    // Swapped out by the engine: queued again, in whatever batch has room, when its KV is on the host.
    if (i >= first_decode_) Forget(r, static_cast<std::size_t>(i - first_decode_), view);
  }

  void OnRemoved(RequestId r, InstanceId i, const ClusterView& view) override {
    if (i >= first_decode_) {
      Forget(r, static_cast<std::size_t>(i - first_decode_), view);
      return;
    }
    Prefill& q = prefill_[i];
    if (q.taken == r) {
      q.taken = kNone;
      work_[i] -= q.taken_load + taken_prefill_[i];
      q.taken_load = 0;
      return;
    }
    for (auto g = q.groups.begin(); g != q.groups.end(); ++g) {
      const auto at = std::find(g->waiting.begin(), g->waiting.end(), r);
      if (at == g->waiting.end()) continue;
      g->waiting.erase(at);
      --q.waiting;
      work_[i] -= PrefillTime(view.request(r), view);
      if (g->waiting.empty()) {
        work_[i] -= g->load;
        if (Open(*g)) Remove(open_groups_of_[g->model], i);
        q.groups.erase(g);
      }
      return;
    }
  }

  bool Preempts(RequestId r, InstanceId i, const ClusterView&) override {
    if (i < first_decode_) return false;
    const Decode& d = decode_[i - first_decode_];
    const Work* work = Current(d);
    return work != nullptr && std::find(work->pending.begin(), work->pending.end(), r) != work->pending.end();
  }

  void OnUp(InstanceId i, const ClusterView&) override {
    if (i >= first_decode_) decode_[i - first_decode_].kept.clear();
  }

  void Next(InstanceId i, const ClusterView& view, Grant& grant) override {
    if (i < first_decode_) {
      NextPrefill(i, view, grant);
    } else {
      NextDecode(i, view, grant);
    }
  }

  bool State(Archive& a) override {
    a(started_, prefill_, taken_prefill_, work_, open_groups_of_, decode_, batches_, batches_of_);
    return true;
  }

 private:
  struct Group {
    ModelId model = kNone;
    std::int64_t joined = 0;  // requests that ever did
    std::int64_t tokens = 0;  // their contexts
    std::deque<RequestId> waiting;
    TimePs load = 0;  // switching to it, when the group before is of another model
    void State(Archive& a) { a(model, joined, tokens, waiting, load); }
  };
  struct Prefill {
    std::deque<Group> groups;  // a group is gone when its last request has been taken
    RequestId taken = kNone;   // the request that is switched for or prefilled
    TimePs taken_load = 0;     // the switch that it may need
    std::int64_t waiting = 0;  // requests
    void State(Archive& a) { a(groups, taken, taken_load, waiting); }
  };
  // A decode batch as the policy sees it; `label` is its name for the engine.
  struct Work {
    int label = 0;
    ModelId model = kNone;
    std::uint64_t rank = 0;           // place in a round's order
    std::vector<RequestId> members;   // pending ones included
    std::vector<RequestId> pending;   // not granted to the engine's batch yet
    std::int64_t pending_tokens = 0;  // their context, which does not grow while they wait
    void State(Archive& a) { a(label, model, rank, members, pending, pending_tokens); }
  };
  struct Turn {
    int label;
    TimePs quota;
  };
  struct Decode {
    std::vector<Work> batches;  // by rank as of the round's start, later ones behind
    std::vector<Turn> round;
    std::size_t turn = 0;
    TimePs used = 0;            // of the turn's quota
    bool started = false;       // the turn has made a step
    bool running = false;       // the last grant was a run of steps of this turn
    std::vector<ModelId> kept;  // most recently used first
    int next_label = 0;
    std::vector<int> free_labels;
    void State(Archive& a) { a(batches, round, turn, used, started, running, kept, next_label, free_labels); }
  };

  // Not full for good: a full group is not looked at again.
  bool Open(const Group& g) const { return p_.group_size == 0 || g.joined < p_.group_size; }
  bool HasRoom(const Group& g, const RequestView& v) const {
    if (g.model != v.model) return false;
    return p_.group_size > 0 ? g.joined < p_.group_size : g.tokens + v.context() < capacity_[v.model];
  }

  TimePs PrefillTime(const RequestView& v, const ClusterView& view) const {
    return view.prices().Prefill(v.model, shape_, 1, v.context(), v.context() * v.context());
  }

  // The instance with the least of those that are up; kNone when none is. load[n] is that of instance first + n.
  template <class Load>
  static InstanceId Least(const std::vector<Load>& load, InstanceId first, const ClusterView& view) {
    if (view.down() == 0) return first + static_cast<InstanceId>(std::min_element(load.begin(), load.end()) - load.begin());
    InstanceId best = kNone;
    for (InstanceId i = first; i < first + static_cast<InstanceId>(load.size()); ++i) {
      if (view.up(i) && (best == kNone || load[i - first] < load[best - first])) best = i;
    }
    return best;
  }

  std::int64_t Load(const Prefill& q) const {
    return p_.load == "groups" ? static_cast<std::int64_t>(q.groups.size()) : q.waiting;
  }

  // A sorted list with an entry for each thing of a model that an instance has.
  static void Insert(std::vector<std::int32_t>& instances, std::int32_t i) {
    instances.insert(std::upper_bound(instances.begin(), instances.end(), i), i);
  }
  static void Remove(std::vector<std::int32_t>& instances, std::int32_t i) {
    instances.erase(std::lower_bound(instances.begin(), instances.end(), i));
  }

  Grant::Hiding Hiding() const {
    return p_.prefetch == "credit"    ? Grant::Hiding::kCredit
           : p_.prefetch == "if-fits" ? Grant::Hiding::kPrefetched
                                      : Grant::Hiding::kNothing;
  }

  void NextPrefill(InstanceId i, const ClusterView& view, Grant& grant) {
    Prefill& q = prefill_[i];
    if (q.taken == kNone) {
      if (q.groups.empty()) return;
      Group& g = q.groups.front();
      q.taken = g.waiting.front();
      g.waiting.pop_front();
      --q.waiting;
      taken_prefill_[i] = PrefillTime(view.request(q.taken), view);
      q.taken_load = g.load;
      g.load = 0;
      if (g.waiting.empty()) {
        if (Open(g)) Remove(open_groups_of_[g.model], i);
        q.groups.pop_front();
      }
    }
    const RequestView v = view.request(q.taken);
    if (view.loaded(i) != v.model) {
      grant.kind = Grant::Kind::kSwitch;
      grant.model = v.model;
      grant.hiding = Hiding();
      grant.least = min_switch_;
      return;
    }
    if (p_.prefetch == "if-fits") {
      const auto next = std::find_if(q.groups.begin(), q.groups.end(), [&](const Group& g) { return g.model != v.model; });
      if (next != q.groups.end()) grant.prefetch = next->model;
    }
    if (view.kv_rounded_tokens(v.context() + 1) > view.kv_free_tokens(i, v.model)) return;  // until KV has left for the host
    grant.kind = Grant::Kind::kPrefill;
    grant.requests.push_back(q.taken);
  }

  // ------------------------------------------------------------------------------------------------------------- decode

  Work* FindRoom(std::size_t d, const RequestView& v, const ClusterView& view) {
    for (Work& w : decode_[d].batches) {
      if (w.model != v.model) continue;
      if (Tokens(w, d, view) + v.context() <= capacity_[v.model]) return &w;
    }
    return nullptr;
  }

  std::int64_t Tokens(const Work& w, std::size_t d, const ClusterView& view) const {
    return view.batch(first_decode_ + static_cast<InstanceId>(d), w.label).context_tokens + w.pending_tokens;
  }

  Work& NewWork(std::size_t d, ModelId model) {
    Decode& q = decode_[d];
    Work w;
    w.model = model;
    ++started_;
    w.rank = p_.batch_order == "oldest-first" ? started_ : p_.batch_order == "newest-first" ? ~started_ : HashAt(seed_, started_);
    if (q.free_labels.empty()) {
      w.label = q.next_label++;
    } else {
      w.label = q.free_labels.back();
      q.free_labels.pop_back();
    }
    q.batches.push_back(std::move(w));
    ++batches_[d];
    Insert(batches_of_[model], static_cast<std::int32_t>(d));
    return q.batches.back();
  }

  static Work* Find(Decode& q, int label) {
    for (Work& w : q.batches) {
      if (w.label == label) return &w;
    }
    return nullptr;
  }
  static const Work* Current(const Decode& q) {
    if (q.turn >= q.round.size()) return nullptr;
    for (const Work& w : q.batches) {
      if (w.label == q.round[q.turn].label) return &w;
    }
    return nullptr;
  }

  void Erase(std::size_t d, int label) {
    Decode& q = decode_[d];
    const auto at = std::find_if(q.batches.begin(), q.batches.end(), [label](const Work& w) { return w.label == label; });
    Remove(batches_of_[at->model], static_cast<std::int32_t>(d));
    --batches_[d];
    q.batches.erase(at);
    // A label that the round still names must not come to mean another batch: it is free again at the next round.
    for (Turn& t : q.round) {
      if (t.label == label) t.label = kNone;
    }
    q.free_labels.push_back(label);
  }

  void Forget(RequestId r, std::size_t d, const ClusterView& view) {
    Decode& q = decode_[d];
    for (Work& w : q.batches) {
      const auto at = std::find(w.members.begin(), w.members.end(), r);
      if (at == w.members.end()) continue;
      w.members.erase(at);
      if (std::erase(w.pending, r) > 0) w.pending_tokens -= view.request(r).context();
      if (w.members.empty()) Erase(d, w.label);
      return;
    }
  }

  // First come first served into same-model batches that fit. Models with one batch that fits stay as they are.
  void Rebuild(std::size_t d, const ClusterView& view, Grant& grant) {
    Decode& q = decode_[d];
    std::vector<ModelId> models;
    for (const Work& w : q.batches) {
      if (std::find(models.begin(), models.end(), w.model) == models.end()) models.push_back(w.model);
    }
    for (const ModelId m : models) {
      const auto batches = std::count_if(q.batches.begin(), q.batches.end(), [m](const Work& w) { return w.model == m; });
      if (batches < 2) continue;
      bool moving = false;
      for (const Work& w : q.batches) {
        if (w.model != m) continue;
        for (const RequestId r : w.members) moving = moving || view.request(r).kv == KvPlace::kMoving;
      }
      if (moving) continue;
      // Everybody in order of arrival, into the batches in order of creation.
      std::vector<RequestId> all;
      std::vector<int> labels;
      for (Work& w : q.batches) {
        if (w.model != m) continue;
        all.insert(all.end(), w.members.begin(), w.members.end());
        labels.push_back(w.label);
      }
      std::sort(all.begin(), all.end(),
                [&](RequestId a, RequestId b) { return view.request(a).sequence < view.request(b).sequence; });
      std::vector<std::vector<RequestId>> parts(1);
      std::int64_t here = 0;
      for (const RequestId r : all) {
        const std::int64_t context = view.request(r).context();
        if (here + context > capacity_[m] && !parts.back().empty()) {
          parts.emplace_back();
          here = 0;
        }
        here += context;
        parts.back().push_back(r);
      }
      while (labels.size() < parts.size()) labels.push_back(NewWork(d, m).label);
      for (std::size_t n = 0; n < labels.size(); ++n) {
        Work* w = Find(q, labels[n]);
        std::vector<RequestId> members = n < parts.size() ? parts[n] : std::vector<RequestId>{};
        for (const RequestId r : members) {
          const bool was_here = std::find(w->members.begin(), w->members.end(), r) != w->members.end();
          if (!was_here) grant.joins.push_back({r, labels[n]});
        }
        w->members = std::move(members);
      }
      // Whoever was pending somewhere is granted a batch with its move; the rest stay pending where they are.
      std::vector<RequestId> pending;
      for (const int label : labels) {
        Work* w = Find(q, label);
        pending.insert(pending.end(), w->pending.begin(), w->pending.end());
        w->pending.clear();
        w->pending_tokens = 0;
      }
      for (const RequestId r : pending) {
        const bool moved =
            std::any_of(grant.joins.begin(), grant.joins.end(), [r](const Grant::Join& j) { return j.request == r; });
        if (moved) continue;
        for (const int label : labels) {
          Work* w = Find(q, label);
          if (std::find(w->members.begin(), w->members.end(), r) == w->members.end()) continue;
          w->pending.push_back(r);
          w->pending_tokens += view.request(r).context();
        }
      }
      for (const int label : labels) {
        if (Find(q, label)->members.empty()) Erase(d, label);
      }
    }
  }

  void StartRound(std::size_t d, const ClusterView& view, Grant& grant) {
    Decode& q = decode_[d];
    const InstanceId i = first_decode_ + static_cast<InstanceId>(d);
    Rebuild(d, view, grant);
    q.round.clear();
    q.turn = 0;
    q.used = 0;
    q.started = false;
    q.running = false;
    // Batches of one model next to each other, models in order of their first batch.
    std::sort(q.batches.begin(), q.batches.end(), [](const Work& a, const Work& b) { return a.rank < b.rank; });
    std::vector<ModelId> models;
    for (const Work& w : q.batches) {
      if (std::find(models.begin(), models.end(), w.model) == models.end()) models.push_back(w.model);
    }
    const PriceView& prices = view.prices();
    double inverse_sum = 0, least_n = 0, switch_time = 0;
    std::vector<double> slack;  // n_i
    for (const ModelId m : models) {
      if (!(view.resident(i, m) && (models.size() == 1 || p_.resident_models > 0)))
        switch_time += ToSeconds(prices.WeightLoad(m, shape_));
      for (const Work& w : q.batches) {
        if (w.model != m) continue;
        const double step =
            ToSeconds(prices.DecodeStep(m, shape_, static_cast<std::int64_t>(w.members.size()), Tokens(w, d, view)));
        const double n = ToSeconds(view.models()[m].tbt_slo) / step;
        slack.push_back(n);
        inverse_sum += 1 / n;
        if (q.round.empty() || n < least_n) least_n = n;
        q.round.push_back({w.label, 0});
      }
    }
    const double alpha = std::max(switch_time / (p_.q_max_s * least_n) + inverse_sum, p_.alpha_min);
    for (std::size_t n = 0; n < q.round.size(); ++n) {
      const double quota = switch_time > 0 ? switch_time / (slack[n] * (alpha - inverse_sum)) : p_.q_max_s;
      q.round[n].quota = PsFromSeconds(std::min(quota, p_.q_max_s));
    }
  }

  void NextTurn(Decode& q) {
    ++q.turn;
    q.used = 0;
    q.started = false;
    q.running = false;
  }

  void NextDecode(InstanceId i, const ClusterView& view, Grant& grant) {
    const std::size_t d = static_cast<std::size_t>(i - first_decode_);
    Decode& q = decode_[d];
    // What was granted may have been a wait for KV only, which is no part of the quota.
    if (q.running && view.last_run_time(i) > 0) {
      q.used += view.last_run_time(i);
      if (!q.started && p_.quota_clock == "after-first-step") q.used -= view.last_run_first_step(i);
      q.started = true;
    }
    q.running = false;
    if (q.batches.empty()) {
      q.round.clear();
      q.turn = 0;
      return;
    }
    const Work* work = Current(q);
    if (work == nullptr || (q.started && q.used >= q.round[q.turn].quota)) {
      do NextTurn(q);
      while (q.turn < q.round.size() && Current(q) == nullptr);
      if (q.turn >= q.round.size()) StartRound(d, view, grant);
    }
    Work& w = *Find(q, q.round[q.turn].label);
    // What is on the GPU makes room, unless it is this very batch; also what moves to another batch by this grant.
    for (const Work& other : q.batches) {
      if (other.label != w.label && view.on_gpu(i, other.label)) grant.evict.push_back(other.label);
    }
    for (const Grant::Join& join : grant.joins) {
      if (join.label != w.label) grant.evict.push_back(join.label);
    }
    if (!view.resident(i, w.model) || TooLittleRoom(i, w, d, view)) {
      Switch(i, w, d, view, grant);
      return;
    }
    for (const RequestId r : w.pending) grant.joins.push_back({r, w.label});
    w.pending.clear();
    w.pending_tokens = 0;
    grant.kind = Grant::Kind::kDecode;
    grant.batches.push_back(w.label);
    grant.quota = std::max<TimePs>(0, q.round[q.turn].quota - q.used);
    grant.quota_after_first = !q.started && p_.quota_clock == "after-first-step";
    if (p_.prefetch == "if-fits") grant.prefetch = NextModel(q, w.model);
    q.running = true;
    Touch(q, w.model);
  }

  // The model of the next turn that needs another one; after the last turn the round begins anew.
  static ModelId NextModel(Decode& q, ModelId now) {
    for (std::size_t n = 1; n < q.round.size(); ++n) {
      const int label = q.round[(q.turn + n) % q.round.size()].label;
      const Work* next = label == kNone ? nullptr : Find(q, label);
      if (next != nullptr && next->model != now) return next->model;
    }
    return kNone;
  }

  // ------------------------------------------------------------------------------------------------ weights that are kept

  void Touch(Decode& q, ModelId m) {
    if (p_.resident_models == 0) return;
    std::erase(q.kept, m);
    q.kept.insert(q.kept.begin(), m);
  }

  // Kept weights leave too little room for the batch that is to run, and others would have to go.
  bool TooLittleRoom(InstanceId i, const Work& w, std::size_t d, const ClusterView& view) const {
    if (p_.resident_models == 0 || view.kv_capacity_tokens(i, w.model) >= capacity_[w.model] ||
        Tokens(w, d, view) + static_cast<std::int64_t>(w.members.size()) * 64 <= view.kv_capacity_tokens(i, w.model)) {
      return false;
    }
    for (ModelId m = 0; m < static_cast<ModelId>(capacity_.size()); ++m) {
      if (m != w.model && view.resident(i, m)) return true;
    }
    return false;
  }

  void Switch(InstanceId i, const Work& w, std::size_t d, const ClusterView& view, Grant& grant) {
    Decode& q = decode_[d];
    grant.kind = Grant::Kind::kSwitch;
    grant.model = w.model;
    grant.hiding = Hiding();
    grant.least = min_switch_;
    if (p_.resident_models == 0 || view.resident(i, w.model)) return;
    // The most recently used stay, as long as enough KV memory is left for this batch to grow in.
    std::vector<ModelId> resident = {w.model};
    const std::int64_t need = std::max(static_cast<std::int64_t>(p_.resident_kv_share * static_cast<double>(capacity_[w.model])),
                                       2 * Tokens(w, d, view));
    for (const ModelId m : q.kept) {
      if (m == w.model || static_cast<std::int64_t>(resident.size()) > p_.resident_models) continue;
      resident.push_back(m);
      const std::int64_t set_aside = view.instances()[i].prefetch_bytes / view.prices().KvBytesPerToken(w.model, shape_);
      if (view.prices().KvCapacityTokens(w.model, shape_, resident) - set_aside < need) {
        resident.pop_back();
        break;
      }
    }
    grant.keep.assign(resident.begin() + 1, resident.end());
  }

  Params p_;
  TimePs min_switch_;
  std::uint64_t seed_;
  std::uint64_t started_ = 0;  // batches so far
  ShapeId shape_ = 0;
  InstanceId first_decode_ = 0;
  std::vector<Prefill> prefill_;
  std::vector<TimePs>
      taken_prefill_;         // by instance: what the taken request adds to its work; its context may change before it goes
  std::vector<TimePs> work_;  // by prefill instance: prefills and switches of all that is there
  std::vector<std::vector<std::int32_t>> open_groups_of_;  // by model: the prefill instances of its open groups
  std::vector<Decode> decode_;
  std::vector<std::int32_t> batches_;                  // by decode instance
  std::vector<std::vector<std::int32_t>> batches_of_;  // by model: the decode instances of its batches
  std::vector<std::int64_t> capacity_;                 // KV tokens by model, beside its weights alone
};

PolicyEntry Entry() {
  PolicyEntry entry = MakePolicyEntry<Aegaeon>(
      "aegaeon", "token-level auto-scaling: any model on any GPU, switched between tokens; prefill and decode apart");
  entry.prefill_param = "prefill_instances";
  return entry;
}

const Register<PolicyEntry> kRegistered{Entry()};

}  // namespace
}  // namespace poolsim
