// Dedicated: every model has instances of its own, sized for its peak. What pooling is compared with.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "policies/continuous_batching.h"
#include "policies/up.h"
#include "sim/errors.h"
#include "sim/policy.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

class Dedicated final : public Policy {
 public:
  struct Params : BatchingParams {
    Json replicas = "auto";
    double headroom = 0.85;
    std::string routing = "two-choices";
    std::int64_t prefill_replicas = 0;
    std::int64_t min_replicas = 1;

    void Describe(Fields& f) {
      f.Any("replicas", replicas,
            "instances per model: a number, or \"auto\": the fewest that hold the forecast peak; or an object of such, by the "
            "model's name, where \"*\" is for the others");
      f.Real("headroom", headroom, "auto: share of an instance's greatest rate within the TBT target that the peak may take",
             0.01, 1);
      f.Int("min_replicas", min_replicas, "auto: never fewer instances of a model than this", 1, 1'000'000);
      f.Choice("routing", routing,
               "among a model's instances: the less loaded of two drawn at random, the least loaded of all, or in turn",
               {"two-choices", "least-loaded", "round-robin"});
      f.Int("prefill_replicas", prefill_replicas,
            "instances per model that only prefill, beside `replicas` that then only decode; 0: all do both");
      BatchingParams::Describe(f);
    }
  };

  Dedicated(Params params, const PolicyContext& context) : params_(std::move(params)), batching_(params_), seed_(context.seed) {
    if (params_.replicas.is_object()) {
      for (const auto& [name, replicas] : params_.replicas.items()) CheckReplicas(replicas, "/" + name);
    } else {
      CheckReplicas(params_.replicas, "");
    }
  }

  std::vector<InstanceFacts> Place(const FleetFacts& fleet, const std::vector<ModelFacts>& models,
                                   const PriceView& prices) override {
    CheckNames(models);
    std::vector<InstanceFacts> plan;
    for (ModelId m = 0; m < static_cast<ModelId>(models.size()); ++m) {
      const Shape shape = models[m].shape.value_or(fleet.shape);
      const Json asked = ReplicasOf(models[m].name);
      const std::int64_t replicas = asked.is_string()
                                        ? std::max(params_.min_replicas, Replicas(models[m], m, prices.Id(shape), prices))
                                        : asked.get<std::int64_t>();
      for (std::int64_t n = 0; n < params_.prefill_replicas + replicas; ++n) {
        InstanceFacts f;
        f.shape = shape;
        f.models = {m};
        f.resident = {m};
        f.pinned = true;
        const bool split = params_.prefill_replicas > 0;
        f.role = !split ? Role::kBoth : n < params_.prefill_replicas ? Role::kPrefill : Role::kDecode;
        plan.push_back(std::move(f));
      }
    }
    Adopt(plan);
    return plan;
  }

  void Adopt(const std::vector<InstanceFacts>& part) override {
    for (std::size_t i = 0; i < part.size(); ++i) {
      const auto m = static_cast<std::size_t>(part[i].models.front());
      if (m >= prefill_.size()) {
        prefill_.resize(m + 1);
        decode_.resize(m + 1);
        turn_.resize(m + 1, 0);
      }
      if (part[i].role != Role::kDecode) prefill_[m].push_back(static_cast<InstanceId>(i));
      if (part[i].role != Role::kPrefill) decode_[m].push_back(static_cast<InstanceId>(i));
    }
    batching_.Resize(part.size());
  }

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override { return Choose(prefill_, r, view); }
  InstanceId RouteHandover(RequestId r, const ClusterView& view) override { return Choose(decode_, r, view); }
  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override { batching_.OnQueued(r, i, view); }
  void OnPreempted(RequestId r, InstanceId i, const ClusterView& view) override { batching_.OnPreempted(r, i, view); }
  void OnRemoved(RequestId r, InstanceId i, const ClusterView&) override { batching_.OnRemoved(r, i); }
  void Next(InstanceId i, const ClusterView& view, Grant& grant) override { batching_.Next(i, view, grant); }
  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) override { return batching_.Preempts(r, i, view); }

  bool State(Archive& a) override {
    a(batching_, turn_);
    return true;
  }

 private:
  static constexpr const char* kReplicasPath = "scenario: /policy/params/dedicated/replicas";

  static void CheckReplicas(const Json& replicas, const std::string& key) {
    if (replicas == "auto" || (replicas.is_number_integer() && replicas.get<std::int64_t>() >= 1)) return;
    throw InputError(fmt::format("{}{}: found {}; expected a whole number above 0 or \"auto\"{}", kReplicasPath, key,
                                 replicas.dump(), key.empty() ? ", or an object of such by model" : ""));
  }

  // Whether every model that `replicas` names is there.
  void CheckNames(const std::vector<ModelFacts>& models) const {
    if (!params_.replicas.is_object()) return;
    std::vector<std::string> names;
    for (const ModelFacts& m : models) names.push_back(m.name);
    for (const auto& [name, replicas] : params_.replicas.items()) {
      if (name != "*" && std::find(names.begin(), names.end(), name) == names.end())
        throw InputError(fmt::format("{}: {}", kReplicasPath, UnknownName("model", name, names)));
    }
  }

  Json ReplicasOf(const std::string& model) const {
    const Json& asked = params_.replicas;
    if (!asked.is_object()) return asked;
    return asked.contains(model) ? asked[model] : asked.value("*", Json("auto"));
  }

  // The fewest instances that hold the forecast peak, by two estimates.
  //
  // Tokens: with B requests of mean lengths in steady state and prefill first, a token takes step(B) + B x prefill / output on
  // average, because every request's prefill stops the others once; that must stay within the TBT target, B must fit in KV
  // memory, and B / (output x that) requests/s, times `headroom`, is what an instance serves.
  //
  // First tokens: prefills queue as in M/G/1, with mean waiting time rate x E[S^2] / (2 (1 - rate x E[S])); S is priced at the
  // root mean square prompt. With an exponential tail, 99 % wait less than ln 100 = 4.6 times that, which plus the mean prefill
  // must stay within the TTFT target, unless the prefill alone does not. Prompts far longer than the mean may still miss it.
  std::int64_t Replicas(const ModelFacts& model, ModelId m, ShapeId shape, const PriceView& prices) const {
    const Forecast& f = model.forecast;
    if (f.requests == 0) return 1;
    const bool split = params_.prefill_replicas > 0;
    const double prefill = static_cast<double>(
        prices.Prefill(m, shape, 1, static_cast<std::int64_t>(f.mean_prompt), static_cast<std::int64_t>(f.mean_prompt2)));
    const double context = f.mean_prompt + f.mean_output / 2;
    const double longest = f.mean_prompt + f.mean_output;
    const auto fits = std::max<std::int64_t>(
        1, static_cast<std::int64_t>(static_cast<double>(prices.KvCapacityTokens(m, shape, {m})) / longest));
    double best = 0;  // requests/ps
    for (std::int64_t batch = 1; batch <= std::min(params_.max_batch, fits); ++batch) {
      const auto b = static_cast<double>(batch);
      const double token = static_cast<double>(prices.DecodeStep(m, shape, batch, static_cast<std::int64_t>(b * context))) +
                           (split ? 0 : b * prefill / f.mean_output);
      if (token > static_cast<double>(model.tbt_slo) && batch > 1) break;
      best = std::max(best, b / (f.mean_output * token));
    }
    auto replicas =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(f.peak_rate / (best * 1e12 * params_.headroom))));
    const double rms = std::sqrt(f.mean_prompt2);
    const double longer = static_cast<double>(
        prices.Prefill(m, shape, 1, static_cast<std::int64_t>(rms), static_cast<std::int64_t>(f.mean_prompt2)));
    const double slack = static_cast<double>(model.ttft_slo) - prefill;
    if (split || slack <= 0) return replicas;
    const auto waits_too_long = [&](std::int64_t n) {
      const double rate = f.peak_rate * 1e-12 / static_cast<double>(n);
      const double load = rate * prefill;
      return load >= 1 || 4.6 * rate * longer * longer / (2 * (1 - load)) > slack;
    };
    while (waits_too_long(replicas)) ++replicas;
    return replicas;
  }

  InstanceId Choose(const std::vector<std::vector<InstanceId>>& by_model, RequestId r, const ClusterView& view) {
    const RequestView v = view.request(r);
    const std::vector<InstanceId>& all = UpOf(by_model[v.model], view, up_);
    if (all.size() == 1) return all.front();
    if (params_.routing == "round-robin") return all[turn_[v.model]++ % all.size()];
    if (params_.routing == "least-loaded") {
      return *std::min_element(all.begin(), all.end(), [this](InstanceId a, InstanceId b) {
        return batching_.outstanding(a) < batching_.outstanding(b);
      });
    }
    const std::uint64_t draw = HashAt(seed_, static_cast<std::uint64_t>(v.sequence));
    const std::size_t first = (draw >> 32) % all.size();
    const std::size_t second = (first + 1 + (draw & 0xffffffffu) % (all.size() - 1)) % all.size();
    return batching_.outstanding(all[second]) < batching_.outstanding(all[first]) ? all[second] : all[first];
  }

  Params params_;
  ContinuousBatching batching_;
  std::uint64_t seed_;
  std::vector<std::vector<InstanceId>> prefill_;  // by model
  std::vector<std::vector<InstanceId>> decode_;
  std::vector<std::size_t> turn_;
  std::vector<InstanceId> up_;  // reused
};

PolicyEntry Entry() {
  PolicyEntry entry =
      MakePolicyEntry<Dedicated>("dedicated", "instances of its own for every model, sized for its peak; continuous batching");
  entry.owns_fleet = true;
  entry.needs_forecast = true;
  entry.separable = true;
  entry.keeps_weights = true;
  entry.instances_param = "replicas";
  return entry;
}

const Register<PolicyEntry> kRegistered{Entry()};

}  // namespace
}  // namespace poolsim
