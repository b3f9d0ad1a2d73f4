// The ablation of Aegaeon, section 7: what each stage of a switch is worth, on results/ablation/scenario.json.
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

RunResult RunAt(const std::string& preset, const std::string& more = "switch.preset=T3") {
  return testing::Run(
      LoadScenario(std::string(POOLSIM_SOURCE_DIR) + "/results/ablation/scenario.json", {more, "switch.preset=" + preset}), {});
}

}  // namespace

TEST_CASE("Switch ablation: 26.9 s at T0, at least 80 % less at T1+T2, about 97 % less at T3", "[reference]") {
  const SwitchMetrics t0 = RunAt("T0").switching;
  CHECK(t0.latency.MeanSeconds() == Approx(26.9).epsilon(0.001));
  CHECK(ToSeconds(t0.latency.max()) == Approx(26.9).epsilon(0.001));
  const auto saved = [&](const SwitchMetrics& s) { return 1 - s.latency.MeanSeconds() / t0.latency.MeanSeconds(); };

  CHECK(saved(RunAt("T1").switching) == Approx(1 - 26 / 2.83 / 26.9).margin(0.01));
  CHECK(saved(RunAt("T2").switching) >= 0.80);

  // The mean counts the switches that prefetching hides. Published: 97 %; within 1.5 points of that at the 16 GB/s of the
  // authors' simulator and at the 25.5 GB/s that were measured over PCIe 4.
  const SwitchMetrics t3 = RunAt("T3").switching;
  CHECK(saved(t3) == Approx(0.97).margin(0.015));
  CHECK(saved(RunAt("T3", "switch.host_load_GBps=25.5").switching) == Approx(0.97).margin(0.015));

  // Most switches find their weights in the prefetch buffer or on their way there, and no prefetch is in vain for long.
  std::int64_t switches = 0;
  for (const std::int64_t n : t3.from) switches += n;
  CHECK(t3.prefetch_hits() > switches / 2);
  CHECK(t3.prefetches - t3.prefetch_hits() < switches / 20);
  // A third is near instant: a copy of 2 x 26 GB in GPU memory.
  CHECK(ToSeconds(t3.latency.Quantile(0.33)) < 0.02);
  // KV: less than a second per request.
  CHECK(ToSeconds(t3.kv) < 1.0 * static_cast<double>(switches));
}

}  // namespace poolsim
