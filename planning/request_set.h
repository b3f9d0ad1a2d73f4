// Requests in memory: a search reads the same ones again and again.
#pragma once

#include <memory>
#include <vector>

#include "sim/request_source.h"
#include "sim/simulation.h"

namespace poolsim {

struct RequestSet {
  ModelNames names;
  std::vector<RequestSpec> rows;  // by arrival; `model` is an index into names

  // Of these models alone, as 0, 1, ... in their order.
  RequestSet Only(const std::vector<std::int32_t>& models) const;
};

// All requests of the scenario's workload.
RequestSet ReadRequests(const Scenario& scenario);
// A source of its own over the set, which is shared.
std::unique_ptr<RequestSource> OpenRequests(std::shared_ptr<const RequestSet> set);
// What is known of these models alone, as 0, 1, ... in their order.
WorkloadFacts FactsOf(const WorkloadFacts& facts, const std::vector<std::int32_t>& models);

}  // namespace poolsim
