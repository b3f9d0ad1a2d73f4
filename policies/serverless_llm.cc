// Request-level auto-scaling (ServerlessLLM, OSDI 2024, as the authors of Aegaeon simulate it): an instance serves one model at a
// time and changes it only when no request of that model is left ahead of the next one.
//
// Routing looks at each instance's tail: the model of the last request in its queue (of the loaded model when the queue is empty)
// and how many requests of it end the queue. While instances with the request's model as tail have a free slot, the one with the
// fewest takes it. Otherwise a new model takes an instance that has neither queue nor model, else the least recently used one:
// the instance with another tail whose last step ended longest ago. When all tails are of the model, the fewest again.
#include <algorithm>
#include <deque>

#include "policies/request_level.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

class ServerlessLlm final : public Policy {
 public:
  struct Params {
    std::int64_t slots = 4;
    double lru_resolution_ms = 0;
    std::string failed_leave = "at-once";

    void Describe(Fields& f) {
      f.Int("slots", slots, "requests of one model that an instance takes before another instance is started", 1, 65536);
      f.Real("lru_resolution_ms", lru_resolution_ms,
             "last uses are compared in whole units of this many ms, rounded down; 0: exactly", 0, 1e6);
      f.Choice("failed_leave", failed_leave,
               "when a request that gave up before its first token frees its place: at once, or when the instance's step or "
               "switch ends",
               {"at-once", "at-step-end"});
    }
  };

  ServerlessLlm(Params params, const PolicyContext&)
      : params_(params), resolution_(std::max<TimePs>(1, PsFromSeconds(params.lru_resolution_ms * 1e-3))) {}

  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>&, const PriceView&) override {
    std::vector<InstanceFacts> plan(static_cast<std::size_t>(fleet.Instances()));
    for (InstanceFacts& f : plan) f.shape = fleet.shape;
    queues_.resize(plan.size());
    return plan;
  }

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override {
    const ModelId model = view.request(r).model;
    const auto count = static_cast<InstanceId>(queues_.size());
    std::int64_t free_slots = 0;
    InstanceId fewest = kNone, unused = kNone, oldest = kNone;
    std::int64_t fewest_count = 0;
    TimePs oldest_use = 0;
    const bool all_up = view.down() == 0;
    for (InstanceId i = 0; i < count; ++i) {
      if (!all_up && !view.up(i)) continue;
      const ModelId tail = Tail(i, view);
      if (tail == model) {
        const std::int64_t n = TailCount(i);
        free_slots += std::max<std::int64_t>(0, params_.slots - n);
        if (fewest == kNone || n < fewest_count) {
          fewest = i;
          fewest_count = n;
        }
        continue;
      }
      if (tail == kNone && unused == kNone) unused = i;
      const TimePs use = view.last_step_end(i) / resolution_;
      if (oldest == kNone || use < oldest_use) {
        oldest = i;
        oldest_use = use;
      }
    }
    if (free_slots > 0) return fewest;
    if (unused != kNone) return unused;
    return oldest != kNone ? oldest : fewest;
  }

  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override {
    const RequestView v = view.request(r);
    if (v.generated > 0 && Has(i, r)) return;  // swapped out for want of memory: it has kept its place
    queues_[i].push_back({r, v.model});
  }
  void OnPreempted(RequestId, InstanceId, const ClusterView&) override {}  // it keeps its place in the queue
  void OnRemoved(RequestId r, InstanceId i, const ClusterView& view) override {
    std::deque<Entry>& q = queues_[i];
    const auto at = std::find_if(q.begin(), q.end(), [r](const Entry& e) { return e.request == r; });
    // Only who has given up leaves without a token. A busy instance asks what is next when its step or switch ends.
    if (params_.failed_leave == "at-step-end" && view.request(r).generated == 0 && view.busy(i)) {
      at->request = kNone;
    } else {
      q.erase(at);
    }
  }

  // Whether r belongs to the run of requests that is being served.
  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) override {
    for (const Entry& e : queues_[i]) {
      if (e.model != view.loaded(i)) return false;
      if (e.request == r) return true;
    }
    return false;
  }

  void Next(InstanceId i, const ClusterView& view, Grant& grant) override {
    std::deque<Entry>& q = queues_[i];
    std::erase_if(q, [](const Entry& e) { return e.request == kNone; });
    if (q.empty()) return;
    const ModelId model = q.front().model;
    if (view.loaded(i) != model) {
      grant.kind = Grant::Kind::kSwitch;
      grant.model = model;
      grant.drop.push_back(0);
      return;
    }
    // The run of requests of the front's model, as far as KV memory allows.
    run_.clear();
    for (const Entry& e : q) {
      if (e.model != model) break;
      run_.push_back(e.request);
    }
    GrantRun(run_, i, model, view, grant);
  }

  bool State(Archive& a) override {
    a(queues_);
    return true;
  }

 private:
  struct Entry {
    RequestId request = kNone;  // kNone: gave up, and keeps its place until the instance looks at its queue
    ModelId model = kNone;
  };

  bool Has(InstanceId i, RequestId r) const {
    return std::any_of(queues_[i].begin(), queues_[i].end(), [r](const Entry& e) { return e.request == r; });
  }
  ModelId Tail(InstanceId i, const ClusterView& view) const {
    return queues_[i].empty() ? view.loaded(i) : queues_[i].back().model;
  }
  std::int64_t TailCount(InstanceId i) const {
    const std::deque<Entry>& q = queues_[i];
    std::int64_t n = 0;
    for (auto at = q.rbegin(); at != q.rend() && at->model == q.back().model; ++at) ++n;
    return n;
  }

  Params params_;
  TimePs resolution_;
  std::vector<std::deque<Entry>> queues_;
  std::vector<RequestId> run_;  // reused
};

const Register<PolicyEntry> kRegistered{MakePolicyEntry<ServerlessLlm>(
    "serverless-llm", "request-level auto-scaling: first come first served, the least recently used instance changes model")};

}  // namespace
}  // namespace poolsim
