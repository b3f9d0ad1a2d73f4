// Static multiplexing (MuxServe, ICML 2024, as the Aegaeon paper compares with it): an offline placement packs models that fit in
// memory together with room for their KV caches; all stay resident, and their steps take turns on the GPU. No SM partition is
// modelled.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "policies/continuous_batching.h"
#include "policies/up.h"
#include "sim/errors.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

class MuxServe final : public Policy {
 public:
  struct Params : BatchingParams {
    // KV cache and activations that a model needs beside its weights before the placement admits it. With 11 GB, two models of 7
    // to 13 B fit an 80 GB GPU and three do not, which is the limit that the authors' optimiser shows (32 models on 16 GPUs);
    // weights alone would let four of 7 B in. One figure per model cannot also give two of 14 B.
    double reserve_gb_per_model = 11;
    bool replicate = true;

    void Describe(Fields& f) {
      f.Real("reserve_gb_per_model", reserve_gb_per_model,
             "GPU memory that a model needs beside its weights, in GB over its GPUs", 0, 1e6);
      f.Bool("replicate", replicate, "GPUs that are left over get further copies of the most loaded models");
      BatchingParams::Describe(f);
    }
  };

  MuxServe(Params params, const PolicyContext&) : params_(std::move(params)), batching_(params_) {}

  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>& models,
                                   const PriceView& prices) override {
    const std::int64_t groups = fleet.Instances();
    const ShapeId shape = prices.Id(fleet.shape);
    std::vector<std::int64_t> left(static_cast<std::size_t>(groups), fleet.usable_bytes);
    std::vector<double> load(static_cast<std::size_t>(groups), 0);
    std::vector<std::vector<ModelId>> placed(static_cast<std::size_t>(groups));
    const auto need = [&](ModelId m) {
      return prices.WeightBytes(m, shape) + static_cast<std::int64_t>(params_.reserve_gb_per_model * 1e9 / fleet.shape.gpus());
    };
    // GPU seconds per second that a model's forecast asks for when it decodes alone.
    std::vector<double> work(models.size(), 0);
    for (ModelId m = 0; m < static_cast<ModelId>(models.size()); ++m) {
      const Forecast& f = models[m].forecast;
      if (f.requests == 0) continue;
      const auto prompt = static_cast<std::int64_t>(f.mean_prompt);
      work[m] = f.mean_rate * (ToSeconds(prices.Prefill(m, shape, 1, prompt, prompt * prompt)) +
                               f.mean_output * ToSeconds(prices.DecodeStep(m, shape, 1, prompt)));
    }
    std::vector<ModelId> order(models.size());
    std::iota(order.begin(), order.end(), 0);
    // Largest first, so that what is hard to place is placed while there is room; then the most loaded first.
    std::stable_sort(order.begin(), order.end(),
                     [&](ModelId a, ModelId b) { return need(a) != need(b) ? need(a) > need(b) : work[a] > work[b]; });
    const auto put = [&](ModelId m, bool need_empty) {
      std::int64_t best = kNone;
      for (std::int64_t g = 0; g < groups; ++g) {
        if (left[g] < need(m) || (need_empty && !placed[g].empty())) continue;
        if (best == kNone || load[g] < load[best] || (load[g] == load[best] && placed[g].size() < placed[best].size())) best = g;
      }
      if (best == kNone) return false;
      left[best] -= need(m);
      placed[best].push_back(m);
      return true;
    };
    std::vector<std::int64_t> copies(models.size(), 0);
    for (std::size_t n = 0; n < order.size(); ++n) {
      const ModelId m = order[n];
      if (!put(m, false)) {
        // What could be placed at most is what a planner wants to know: the smallest first.
        for (std::int64_t g = 0; g < groups; ++g) {
          left[g] = fleet.usable_bytes;
          placed[g].clear();
        }
        std::size_t most = 0;
        while (most < order.size() && put(order[order.size() - 1 - most], false)) ++most;
        throw InfeasibleError(
            fmt::format("muxserve: no more than {} of {} models fit on {} GPUs with {:g} GB reserve per model beside its weights "
                        "({:.1f} GB for {})",
                        std::max(n, most), models.size(), fleet.gpus, params_.reserve_gb_per_model,
                        static_cast<double>(prices.WeightBytes(m, shape)) * fleet.shape.gpus() / 1e9, models[m].name));
      }
      copies[m] = 1;
      for (std::int64_t g = 0; g < groups; ++g) {
        if (!placed[g].empty() && placed[g].back() == m) load[g] += work[m];
      }
    }
    // Left-over GPUs: copies of the model with the most work per copy.
    while (params_.replicate) {
      ModelId hottest = 0;
      for (const ModelId m : order) {
        if (work[m] / static_cast<double>(copies[m]) > work[hottest] / static_cast<double>(copies[hottest])) hottest = m;
      }
      if (work[hottest] <= 0 || !put(hottest, true)) break;
      ++copies[hottest];
    }
    std::vector<InstanceFacts> plan;
    homes_.assign(models.size(), {});
    for (std::int64_t g = 0; g < groups; ++g) {
      if (placed[g].empty()) continue;
      InstanceFacts f;
      f.shape = fleet.shape;
      f.models = placed[g];
      std::sort(f.models.begin(), f.models.end());
      f.resident = f.models;
      f.pinned = true;
      for (const ModelId m : f.models) homes_[m].push_back(static_cast<InstanceId>(plan.size()));
      plan.push_back(std::move(f));
    }
    batching_.Resize(plan.size());
    return plan;
  }

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override {
    const std::vector<InstanceId>& all = UpOf(homes_[view.request(r).model], view, up_);
    return *std::min_element(all.begin(), all.end(),
                             [this](InstanceId a, InstanceId b) { return batching_.outstanding(a) < batching_.outstanding(b); });
  }
  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override { batching_.OnQueued(r, i, view); }
  void OnPreempted(RequestId r, InstanceId i, const ClusterView& view) override { batching_.OnPreempted(r, i, view); }
  void OnRemoved(RequestId r, InstanceId i, const ClusterView&) override { batching_.OnRemoved(r, i); }
  void Next(InstanceId i, const ClusterView& view, Grant& grant) override { batching_.Next(i, view, grant); }
  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) override { return batching_.Preempts(r, i, view); }

  bool State(Archive& a) override {
    a(batching_);
    return true;
  }

 private:
  Params params_;
  ContinuousBatching batching_;
  std::vector<std::vector<InstanceId>> homes_;  // by model
  std::vector<InstanceId> up_;                  // reused
};

PolicyEntry Entry() {
  PolicyEntry entry =
      MakePolicyEntry<MuxServe>("muxserve", "static multiplexing: models packed by memory, all resident, steps take turns");
  entry.needs_forecast = true;
  entry.keeps_weights = true;
  return entry;
}

const Register<PolicyEntry> kRegistered{Entry()};

}  // namespace
}  // namespace poolsim
