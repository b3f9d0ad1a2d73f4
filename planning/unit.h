// What planning sizes on its own: a pool under a policy, or one model where the policy gives every model instances of its own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "planning/request_set.h"
#include "sim/archive.h"
#include "sim/policy.h"
#include "sim/report.h"
#include "sim/simulation.h"

namespace poolsim {

enum class AttainmentKind : std::uint8_t { kService, kToken, kRequest };
inline constexpr std::array<const char*, 3> kAttainmentNames = {"service", "token", "request"};

// A share of the requests' service that must be within the SLOs (sim/report.h, Attainment).
struct Target {
  AttainmentKind kind = AttainmentKind::kService;
  double share = 0.9;
};
// "service=0.9". `place` names it in messages. Throws InputError.
Target ParseTarget(const std::string& text, const std::string& place);

// How many instances, and how many of them prefill where a policy keeps prefill and decode apart (else 0).
struct Size {
  std::int64_t instances = 0;
  std::int64_t prefill = 0;
  auto operator<=>(const Size&) const = default;
};

// What a run leaves of the books that planning needs; tallies of units and of replications add up.
struct Tally {
  bool placed = true;
  std::string reason;  // when not placed
  // Given up after this share of the requests, for it could not come near the target any more; nothing else is known then. 1: run
  // to its end.
  double reached = 1;
  std::int64_t gpus = 0;
  std::int64_t instances = 0;
  std::int64_t requests = 0;
  double service = 0;  // sum of shares
  std::int64_t tokens_on_time = 0;
  std::int64_t tokens_wanted = 0;
  std::int64_t requests_on_time = 0;
  std::array<double, kActivities> activity{};  // GPU-seconds while requests arrive
  double owned = 0;                            // GPU-seconds while requests arrive
  std::int64_t switches = 0;
  double hours = 0;                        // in which requests arrive
  std::optional<double> usd_per_hour = 0;  // not set: no price
  std::optional<double> power_kw = 0;      // at most; not set: no figure
  struct Model {
    std::string name;
    std::string pool;
    std::int64_t requests = 0;
    double service = 0;
    std::int64_t tokens_on_time = 0;
    std::int64_t tokens_wanted = 0;
    std::int64_t requests_on_time = 0;
    std::int64_t switches = 0;
    double busy = 0;  // GPU-seconds, whole run
    void State(Archive& a) { a(name, pool, requests, service, tokens_on_time, tokens_wanted, requests_on_time, switches, busy); }
  };
  std::vector<Model> models;
  double wall_s = 0;  // that the run took
  void State(Archive& a) {
    a(placed, reason, reached, gpus, instances, requests, service, tokens_on_time, tokens_wanted, requests_on_time, activity);
    a(owned, switches, hours, usd_per_hour, power_kw, models, wall_s);
  }

  // Attainment of the requests together; 1 of none.
  double Share(AttainmentKind kind) const;
  // Units side by side.
  void Add(const Tally& other);
  // The requests of one more model, and it.
  void AddModel(const Model& model);
};
double ShareOf(const Tally::Model& m, AttainmentKind kind);
// `span_s`: in which counted requests arrive, after the scenario's warm-up.
Tally TallyOf(const Scenario& scenario, double span_s, const RunResult& result);

struct Unit {
  std::string pool;
  std::string model;  // of a unit that is one model's own instances, else empty
  const PolicyEntry* policy = nullptr;
  Scenario scenario;                                        // of one pool; its seed is that of replication 0
  WorkloadFacts facts;                                      // of the unit's models, numbered anew
  std::vector<std::shared_ptr<const RequestSet>> requests;  // by replication
  double span_s = 0;                                        // in which counted requests arrive
  double guess_gpus = 1;                                    // where a search may begin
  std::int64_t least = 1;                                   // instances
  std::int64_t node_gpus = 8;
  std::int64_t instance_gpus = 1;
  bool check = false;  // the books at every event

  const std::string& name() const { return model.empty() ? pool : model; }
  // Of these of its models alone; the guess is left as it is.
  Unit Only(const std::vector<std::int32_t>& models) const;
  // The policy's block, with its defaults.
  Json Params() const;
  bool splits() const { return policy->prefill_param != nullptr; }
  // GPUs of so many instances: those that nodes strand between them included.
  std::int64_t Gpus(std::int64_t instances) const;
  std::int64_t MostInstances(std::int64_t gpus) const;
  // One run: replication r has the scenario's seed + r. A policy that cannot place its models is a tally that says so. A run
  // whose service attainment will be below `give_up` for certain may be given up.
  Tally Run(const Size& size, int replication, double give_up = 0) const { return Run(scenario, size, replication, give_up); }
  // As another scenario would have it, of the same requests.
  Tally Run(const Scenario& changed, const Size& size, int replication, double give_up = 0) const;
};

// Sets a size, as a user would write it.
void SetSize(PolicyConfig& policy, FleetConfig& fleet, const Unit& unit, const Size& size);

}  // namespace poolsim
