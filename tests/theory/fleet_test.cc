// The cold models of figure "fleet" are those of the whole market.
#include <fstream>
#include <sstream>

#include "sim/simulation.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

std::string Committed(const std::string& file) {
  std::ifstream in(std::string(POOLSIM_SOURCE_DIR) + "/results/" + file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST_CASE("The cold fleet and the hot GPUs that it leaves out add up to the whole market's", "[theory]") {
  const Json fleet = Json::parse(Committed("aegaeon/fleet/fleet.json"));
  Scenario s = WithPolicy(ParseScenario(Committed("aegaeon/fleet/cold.json"), "cold.json", ".", {}), "dedicated");
  const WorkloadFacts facts = SurveyWorkload(s);
  s.metrics.horizon_s = 60;
  for (PoolConfig& pool : s.pools) pool.policy.params["dedicated"]["min_replicas"] = fleet["replicas"];
  const std::int64_t three = Simulate(s, facts, {}).gpus;
  const Json market = Json::parse(Committed("market/day-dedicated.json"));
  CHECK(three + fleet["hot_gpus"].get<std::int64_t>() == market["gpus"].get<std::int64_t>());
  // 389 small models on one GPU and 344 large ones on four.
  CHECK(three >= 3 * (389 + 4 * 344));
  for (PoolConfig& pool : s.pools) pool.policy.params["dedicated"]["min_replicas"] = 1;
  const std::int64_t one = Simulate(s, facts, {}).gpus;
  CHECK(one >= 389 + 4 * 344);
  CHECK(one < three);
}

}  // namespace
}  // namespace poolsim
