// The whole market on GPUs of its own: how many those are, and how many of them the cold models hold (Aegaeon, figure 1).
#include <numeric>

#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {

TEST_CASE("Dedicated, the market holds about 30,000 GPUs and its cold models 17.7 % of them", "[reference]") {
  for (const int seed : {1, 2, 3}) {
    CAPTURE(seed);
    const Scenario s =
        LoadScenario(std::string(POOLSIM_SOURCE_DIR) + "/results/market/scenario.json", {"seed=" + std::to_string(seed)});
    const WorkloadFacts facts = SurveyWorkload(s);
    const auto& models = facts.names.models();
    std::vector<std::int32_t> all(models.size());
    std::iota(all.begin(), all.end(), 0);
    const PoolConfig config = s.Pools().front();
    const PreparedPool pool(s, config, all, facts);
    const PoolParts parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
    std::int64_t gpus = 0, cold_gpus = 0, cold_models = 0;
    for (const auto& model : models) cold_models += model.name.starts_with("flagship-") ? 0 : 1;
    for (const InstanceFacts& instance : parts.placement->Place(pool.setup.fleet, pool.setup.models, *pool.prices)) {
      gpus += instance.shape.gpus();
      const std::string& name = models[static_cast<std::size_t>(instance.models.front())].name;
      if (!name.starts_with("flagship-")) cold_gpus += instance.shape.gpus();
    }
    CHECK(cold_models == 733);
    // "About 30,000": the paper rounds, and bursts that are drawn move the peaks for which the head is sized; 17.7 % follows them
    // within 0.7 points, as the cold models' 5,295 GPUs (three replicas each) do not change.
    CHECK(gpus >= 29'000);
    CHECK(gpus <= 31'500);
    CHECK(static_cast<double>(cold_gpus) / static_cast<double>(gpus) * 100 == Approx(17.7).margin(0.7));
  }
}

}  // namespace poolsim
