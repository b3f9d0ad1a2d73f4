// Small random scenarios for tests that hold for every policy, and what is needed to run them.
//
// They are made to hit edges often: KV memory for a handful of requests, bursts and simultaneous arrivals, outputs of one token,
// prices whose lines cross, models that share a GPU, clients that give up. A policy's parameters are drawn from its own schema,
// so that a new policy is tested the moment it registers.
#pragma once

#include <string>
#include <vector>

#include "sim/failures.h"
#include "sim/policy.h"
#include "sim/request_source.h"
#include "sim/rng.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace poolsim {

struct RandomScenario {
  Json json;                          // the scenario, without a workload
  std::vector<std::string> names;     // of the models
  std::vector<RequestSpec> requests;  // in order of arrival
  std::vector<ListedOutage> outages;  // of the list that `failures` would name
  std::string Text() const;           // the scenario, its requests as a trace in the format `poolsim`, and the list
};

RandomScenario MakeRandomScenario(const PolicyEntry& policy, std::uint64_t seed);
// A section `failures` with every kind of them; `rare`: of one a day on a hundred nodes, else some every few seconds.
Json RandomFailures(std::uint64_t seed, bool rare);

// What may fail: "gpus", "nodes", "caches", "links", "stragglers", "drains", "list", and all "together".
const std::vector<std::string>& SortsOfFailures();
// Failures of one sort every few seconds, often at the moment of something else, and an end to the run that does not wait for
// what fails faster than it loads.
void AddFailures(RandomScenario& scenario, const std::string& sort, std::uint64_t seed);

// A workload that lies in memory.
class ListSource final : public RequestSource {
 public:
  ListSource(const std::vector<std::string>& names, std::vector<RequestSpec> requests) : requests_(std::move(requests)) {
    for (const std::string& name : names) names_.Intern(name);
  }
  bool Next(RequestSpec& out) override {
    if (next_ == requests_.size()) return false;
    out = requests_[next_++];
    return true;
  }
  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return names_; }

 private:
  std::vector<RequestSpec> requests_;
  std::size_t next_ = 0;
  SourceCounts counts_;
  ModelNames names_;
};

}  // namespace poolsim
