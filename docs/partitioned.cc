// Partitioned: every model has a home, one instance, which it shares with other models. An instance serves the requests that wait
// at it first come first served, neighbours of one model together, and changes its model between two requests.
#include <algorithm>
#include <deque>
#include <vector>

#include "policies/request_level.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

class Partitioned final : public Policy {
 public:
  struct Params {
    std::int64_t max_batch = 16;
    void Describe(Fields& f) { f.Int("max_batch", max_batch, "most requests that run together", 1, 65536); }
  };

  Partitioned(Params params, const PolicyContext&) : params_(params) {}

  // Placement: all instances of the fleet, and a home for every model: the busiest first, each where least is forecast so far.
  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>& models, const PriceView&) override {
    std::vector<InstanceFacts> plan(static_cast<std::size_t>(fleet.Instances()));
    for (InstanceFacts& instance : plan) instance.shape = fleet.shape;
    std::vector<ModelId> order(models.size());
    for (std::size_t m = 0; m < order.size(); ++m) order[m] = static_cast<ModelId>(m);
    std::stable_sort(order.begin(), order.end(),
                     [&](ModelId a, ModelId b) { return models[a].forecast.mean_rate > models[b].forecast.mean_rate; });
    home_.resize(models.size());
    std::vector<double> load(plan.size(), 0);
    for (const ModelId m : order) {
      const auto least = std::min_element(load.begin(), load.end());
      home_[m] = static_cast<InstanceId>(least - load.begin());
      *least += models[m].forecast.mean_rate;
    }
    queues_.resize(plan.size());
    return plan;
  }

  // Router: where an arriving request goes.
  InstanceId RouteArrival(RequestId r, const ClusterView& view) override { return home_[view.request(r).model]; }

  // Scheduler: what waits at an instance, and what the instance does next. A request keeps its place in the queue until it is
  // gone, also while it runs, and when memory runs out and it has to stop.
  void OnQueued(RequestId r, InstanceId i, const ClusterView&) override {
    if (std::find(queues_[i].begin(), queues_[i].end(), r) == queues_[i].end()) queues_[i].push_back(r);
  }
  void OnPreempted(RequestId, InstanceId, const ClusterView&) override {}
  void OnRemoved(RequestId r, InstanceId i, const ClusterView&) override {
    queues_[i].erase(std::find(queues_[i].begin(), queues_[i].end(), r));
  }

  void Next(InstanceId i, const ClusterView& view, Grant& grant) override {
    if (queues_[i].empty()) return;  // idle
    const ModelId model = view.request(queues_[i].front()).model;
    if (view.loaded(i) != model) {
      grant.kind = Grant::Kind::kSwitch;
      grant.model = model;
      return;
    }
    run_.clear();
    for (const RequestId r : queues_[i]) {
      if (view.request(r).model != model || static_cast<std::int64_t>(run_.size()) == params_.max_batch) break;
      run_.push_back(r);
    }
    GrantRun(run_, i, model, view, grant);  // a prefill of those without KV, else a decode of all
  }

  // For checkpoints; run_ is filled anew each time.
  bool State(Archive& a) override {
    a(queues_);
    return true;
  }

 private:
  Params params_;
  std::vector<InstanceId> home_;               // by model
  std::vector<std::deque<RequestId>> queues_;  // by instance
  std::vector<RequestId> run_;
};

PolicyEntry Entry() {
  PolicyEntry entry = MakePolicyEntry<Partitioned>("partitioned", "models dealt over the instances; each serves its own in turn");
  entry.needs_forecast = true;
  return entry;
}

const Register<PolicyEntry> kRegistered{Entry()};

}  // namespace
}  // namespace poolsim
