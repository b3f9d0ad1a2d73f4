// ServerlessLLM+ (the Aegaeon paper's stronger baseline): request-level auto-scaling with an oracle. Groups of at most `slots`
// requests of one model queue at an instance; the group whose first request has the shortest remaining time goes next. A request
// joins a group of its model that has a free slot, the smallest one; else it starts a group, as in ServerlessLLM on an instance
// that has neither queue nor model, else on the least recently used one; or (the authors' simulator) where there are fewest
// groups.
//
// By default a group runs to its end, as request-level scaling means. With `preemptive` the order is looked at anew whenever a
// request arrives and the running group may be sent back, its KV thrown away: what the authors' simulator does, which thrashes
// past saturation.
#include <algorithm>

#include "policies/request_level.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

class ServerlessLlmPlus final : public Policy {
 public:
  struct Params {
    std::int64_t slots = 4;
    std::string new_group = "least-recently-used";
    bool preemptive = false;

    void Describe(Fields& f) {
      f.Int("slots", slots, "most requests of one group", 1, 65536);
      f.Choice("new_group", new_group, "instance that a new group goes to", {"least-recently-used", "fewest-groups"});
      f.Bool("preemptive", preemptive,
             "an arrival may send the running group back, its KV thrown away; a prefill then counts as all that remains");
    }
  };

  ServerlessLlmPlus(Params params, const PolicyContext& context) : params_(params), oracle_(context.oracle) {}

  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>&, const PriceView& prices) override {
    std::vector<InstanceFacts> plan(static_cast<std::size_t>(fleet.Instances()));
    for (InstanceFacts& f : plan) f.shape = fleet.shape;
    queues_.resize(plan.size());
    shape_ = prices.Id(fleet.shape);
    return plan;
  }

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override {
    const ModelId model = view.request(r).model;
    const auto count = static_cast<InstanceId>(queues_.size());
    InstanceId joined = kNone;
    std::size_t smallest = 0;
    InstanceId fewest = kNone, unused = kNone, oldest = kNone;
    const bool all_up = view.down() == 0;
    for (InstanceId i = 0; i < count; ++i) {
      if (!all_up && !view.up(i)) continue;
      const std::vector<Group>& groups = queues_[i].groups;
      for (const Group& g : groups) {
        if (!HasRoom(g, model) || (joined != kNone && g.requests.size() >= smallest)) continue;
        joined = i;
        smallest = g.requests.size();
      }
      // An instance that holds the model and has nothing to do is a group without requests.
      if (params_.new_group != "fewest-groups" && groups.empty() && view.loaded(i) == model &&
          (joined == kNone || smallest > 0)) {
        joined = i;
        smallest = 0;
      }
      if (fewest == kNone || groups.size() < queues_[fewest].groups.size()) fewest = i;
      if (unused == kNone && groups.empty() && view.loaded(i) == kNone) unused = i;
      if (oldest == kNone || view.last_step_end(i) < view.last_step_end(oldest)) oldest = i;
    }
    if (joined != kNone) return joined;
    if (params_.new_group == "fewest-groups") return fewest;
    return unused != kNone ? unused : oldest;
  }

  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override {
    const RequestView v = view.request(r);
    if (v.generated > 0 && Has(i, r)) return;  // swapped out for want of memory: it has kept its place
    for (Queue& q : queues_) q.reorder = params_.preemptive;
    for (Group& g : queues_[i].groups) {
      if (!HasRoom(g, v.model)) continue;
      g.requests.push_back(r);
      return;
    }
    queues_[i].groups.push_back({v.model, {r}});
  }
  void OnPreempted(RequestId, InstanceId, const ClusterView&) override {}  // it keeps its place
  void OnRemoved(RequestId r, InstanceId i, const ClusterView&) override {
    std::vector<Group>& groups = queues_[i].groups;
    for (std::size_t n = 0; n < groups.size(); ++n) {
      const auto at = std::find(groups[n].requests.begin(), groups[n].requests.end(), r);
      if (at == groups[n].requests.end()) continue;
      groups[n].requests.erase(at);
      if (groups[n].requests.empty()) {
        groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(n));
        if (n == 0) queues_[i].running = false;
      }
      return;
    }
  }

  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) override {
    if (params_.preemptive) return true;
    const Group& front = queues_[i].groups.front();
    return view.request(r).model == front.model &&
           std::find(front.requests.begin(), front.requests.end(), r) != front.requests.end();
  }

  void Next(InstanceId i, const ClusterView& view, Grant& grant) override {
    Queue& q = queues_[i];
    if (q.groups.empty()) return;
    if (!q.running || q.reorder) {
      q.reorder = false;
      const Group* before = &q.groups.front();
      const RequestId first = before->requests.front();
      std::stable_sort(q.groups.begin(), q.groups.end(),
                       [&](const Group& a, const Group& b) { return Remaining(a, view) < Remaining(b, view); });
      if (q.running && q.groups.front().requests.front() != first) grant.drop.push_back(0);
      q.running = true;
    }
    const Group& g = q.groups.front();
    // Also when only a group of the same model is sent back: what its KV leaves free is there once it is dropped.
    if (view.loaded(i) != g.model || !grant.drop.empty()) {
      grant.kind = Grant::Kind::kSwitch;
      grant.model = g.model;
      if (grant.drop.empty()) grant.drop.push_back(0);
      return;
    }
    GrantRun(g.requests, i, g.model, view, grant);
  }

  bool State(Archive& a) override {
    a(queues_);
    return true;
  }

 private:
  struct Group {
    ModelId model = kNone;
    std::vector<RequestId> requests;
    void State(Archive& a) { a(model, requests); }
  };
  struct Queue {
    std::vector<Group> groups;  // the first one runs
    bool running = false;
    bool reorder = false;  // a request has arrived somewhere since the groups were put in order
    void State(Archive& a) { a(groups, running, reorder); }
  };

  bool Has(InstanceId i, RequestId r) const {
    const std::vector<Group>& groups = queues_[i].groups;
    return std::any_of(groups.begin(), groups.end(),
                       [r](const Group& g) { return std::find(g.requests.begin(), g.requests.end(), r) != g.requests.end(); });
  }
  bool HasRoom(const Group& g, ModelId model) const {
    return g.model == model && static_cast<std::int64_t>(g.requests.size()) < params_.slots;
  }

  // Time that a group's first request still needs when it runs alone.
  TimePs Remaining(const Group& g, const ClusterView& view) const {
    const RequestId r = g.requests.front();
    const RequestView v = view.request(r);
    const std::int64_t tokens = v.context();
    const TimePs prefill = v.kv == KvPlace::kNowhere ? view.prices().Prefill(g.model, shape_, 1, tokens, tokens * tokens) : 0;
    if (prefill > 0 && params_.preemptive) return prefill;
    return prefill + (oracle_->output_tokens(r) - v.generated) * view.prices().DecodeStep(g.model, shape_, 1, tokens);
  }

  Params params_;
  const Oracle* oracle_;
  ShapeId shape_ = 0;
  std::vector<Queue> queues_;
};

PolicyEntry Entry() {
  PolicyEntry entry = MakePolicyEntry<ServerlessLlmPlus>(
      "serverless-llm-plus", "request-level auto-scaling, shortest remaining time first; knows output lengths");
  entry.oracle = true;
  return entry;
}

const Register<PolicyEntry> kRegistered{Entry()};

}  // namespace
}  // namespace poolsim
