#include "sim/ownership.h"

#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using Catch::Matchers::Contains;

const char* kScenario = R"({
  "workload": {"source": "poisson", "params": {"models": 2, "rate_per_model": 0.1, "duration_s": 100, "llm": "qwen2.5-7b"}},
  "fleet": {"gpu": "h20", "gpus": 2}, "policy": {"name": "serverless-llm"}
})";

std::string Refusal(const std::vector<std::string>& assignments) {
  try {
    testing::Parse(kScenario, assignments);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

GpuFacts Gpu() {
  GpuFacts gpu;
  gpu.name = "gpu-x";
  gpu.board_power_w = 500;
  gpu.idle_power_w = 100;
  gpu.price_per_hour = 2;
  return gpu;
}

}  // namespace

TEST_CASE("A rented GPU costs its price per hour, a bought one its share of the purchase and its energy", "[unit]") {
  FleetConfig fleet;
  const double owned = 10 * 3600, busy = 4 * 3600;
  CHECK(*EnergyKwh(Gpu(), owned, busy) == Approx(4 * 0.5 + 6 * 0.1));
  CHECK(*OwnershipUsd(fleet, Gpu(), owned, busy) == Approx(20));
  fleet.gpu_price_per_hour = 3;
  CHECK(*OwnershipUsd(fleet, Gpu(), owned, busy) == Approx(30));
  fleet.gpu_price_per_hour.reset();
  fleet.gpu_purchase_usd = 35'064;  // 4 years are 35,064 hours
  fleet.gpu_life_years = 4;
  CHECK(*GpuHourUsd(fleet, Gpu()) == Approx(1));
  CHECK(*OwnershipUsd(fleet, Gpu(), owned, busy) == Approx(10));
  fleet.energy_usd_per_kwh = 0.5;
  fleet.pue = 1.2;
  CHECK(*OwnershipUsd(fleet, Gpu(), owned, busy) == Approx(10 + 2.6 * 1.2 * 0.5));
}

TEST_CASE("A figure that is missing leaves no cost, and is asked for by its key", "[unit]") {
  FleetConfig fleet;
  GpuFacts gpu = Gpu();
  RequireCost(fleet, gpu, "s.json", "/fleet");
  gpu.price_per_hour.reset();
  CHECK(!OwnershipUsd(fleet, gpu, 1, 1));
  CHECK_THROWS_WITH(RequireCost(fleet, gpu, "s.json", "/pools/1"),
                    Contains("s.json: /pools/1: the catalogue has no price of GPU \"gpu-x\"") && Contains("gpu_price_per_hour") &&
                        Contains("gpu_purchase_usd"));
  fleet.gpu_purchase_usd = 1000;
  fleet.gpu_life_years = 5;
  RequireCost(fleet, gpu, "s.json", "/fleet");
  gpu.idle_power_w.reset();
  RequireCost(fleet, gpu, "s.json", "/fleet");  // nobody pays for energy
  fleet.energy_usd_per_kwh = 0.1;
  CHECK(!EnergyKwh(gpu, 1, 1));
  CHECK(!OwnershipUsd(fleet, gpu, 1, 1));
  CHECK_THROWS_WITH(RequireCost(fleet, gpu, "s.json", "/fleet"),
                    Contains("s.json: /fleet/energy_usd_per_kwh") && Contains("idle_power_w"));
}

TEST_CASE("A fleet is rented or bought, not both and not half", "[unit]") {
  CHECK(Refusal({"fleet.gpu_purchase_usd=9000", "fleet.gpu_life_years=5", "fleet.energy_usd_per_kwh=0.08", "fleet.pue=1.3"}) ==
        "accepted");
  CHECK_THAT(Refusal({"fleet.gpu_purchase_usd=9000", "fleet.gpu_life_years=5", "fleet.gpu_price_per_hour=1"}),
             Contains("test.json: /fleet/gpu_purchase_usd: found beside gpu_price_per_hour"));
  CHECK_THAT(Refusal({"fleet.gpu_purchase_usd=9000"}), Contains("test.json: /fleet/gpu_life_years: not set"));
  for (const char* key : {"gpu_life_years=4", "energy_usd_per_kwh=0.1", "pue=1.5"}) {
    CHECK_THAT(Refusal({std::string("fleet.") + key}), Contains("found without gpu_purchase_usd"));
  }
}

TEST_CASE("A run pays for what its pools own, each in its way, and says what they draw", "[unit]") {
  const RunResult rented = testing::Run(kScenario, {"fleet.gpu_price_per_hour=36"});
  const GpuFacts h20 = FindGpu("h20");
  const double hours = static_cast<double>(rented.gpus) * ToSeconds(rented.end) / 3600;
  CHECK(*rented.cost_usd == Approx(36 * hours));
  CHECK(*rented.peak_power_kw == Approx(2 * *h20.board_power_w / 1000));
  const RunResult bought =
      testing::Run(kScenario, {"fleet.gpu_purchase_usd=8766", "fleet.gpu_life_years=1", "fleet.energy_usd_per_kwh=10"});
  CHECK(bought.fingerprint == rented.fingerprint);
  CHECK(*bought.energy_kwh == *rented.energy_kwh);
  CHECK(*bought.cost_usd == Approx(hours + 10 * *bought.energy_kwh));

  const auto pools = [](const std::string& more) {
    return fmt::format(R"({{
      "workload": {{"source": "poisson", "params": {{"models": 2, "rate_per_model": 0.1, "duration_s": 100, "llm": "qwen2.5-7b"}}}},
      "pools": [{{"name": "a", "gpu": "h20", "gpus": 1, "models": ["model_0000"], "gpu_price_per_hour": 2,
                  "policy": {{"name": "serverless-llm"}}}},
                {{"name": "b", "gpu": "h100", "gpus": 2, "policy": {{"name": "serverless-llm"}}, {}}}]}})",
                       more);
  };
  const RunResult both = testing::Run(pools(R"("gpu_purchase_usd": 8766, "gpu_life_years": 1)"));
  REQUIRE(both.gpus == 3);
  CHECK(*both.cost_usd == Approx((2 + 2) * ToSeconds(both.end) / 3600));
  CHECK(*both.peak_power_kw == Approx((*h20.board_power_w + 2 * *FindGpu("h100").board_power_w) / 1000));
}

}  // namespace poolsim
