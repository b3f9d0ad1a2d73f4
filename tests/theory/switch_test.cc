// What a switch costs, by hand: stages, tiers, contention, the host cache; and what owning the GPUs costs.
#include <fmt/format.h>

#include "sim/cost_model.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using testing::Run;
using testing::TraceFile;

constexpr std::int64_t k13B = 26'000'000'000;

std::int64_t From(const RunResult& r, WeightSource source) { return r.switching.from[static_cast<std::size_t>(source)]; }
std::int64_t BytesFrom(const RunResult& r, Tier tier) { return r.switching.bytes[static_cast<std::size_t>(tier)]; }

// Requests that come alone: every switch has the machine to itself.
RunResult RunLone(const std::string& preset, const std::vector<std::string>& more = {}) {
  const TraceFile trace("0,a,llama-2-13b,100,5\n200,b,llama-2-13b,100,5\n400,a,llama-2-13b,100,5\n");
  std::vector<std::string> assignments = {"switch.preset=" + preset};
  assignments.insert(assignments.end(), more.begin(), more.end());
  return Run(
      fmt::format(R"({{"workload": {{"path": "{}"}}, "fleet": {{"gpu": "h800", "gpus": 1}}, "models": [{{"weights_gb": 26}}],
      "policy": {{"name": "serverless-llm"}}}})",
                  trace.path()),
      assignments);
}

}  // namespace

TEST_CASE("A lone 13B switch takes 26.9 s at T0, its load at 2.83 GB/s at T1, 1.625 s at T2 and T3", "[theory]") {
  const RunResult t0 = RunLone("T0");
  CHECK(t0.total.switches == 3);
  CHECK(From(t0, WeightSource::kHostCache) == 3);
  CHECK(t0.switching.latency.count() == 3);
  // Rounded to picoseconds in two stages.
  CHECK(std::abs(t0.switching.latency.max() - PsFromSeconds(26.9)) <= 2);
  CHECK(t0.switching.engine_init == 3 * PsFromSeconds(26.9 - 26 / 2.83));
  CHECK(t0.switching.weights == 3 * TransferTime(k13B, 2'830'000'000));
  CHECK(t0.switching.copy == 0);
  CHECK(BytesFrom(t0, Tier::kHostCache) == 3 * k13B);
  CHECK(t0.weight_bytes_moved == 3 * k13B);

  const RunResult t1 = RunLone("T1");
  CHECK(t1.switching.engine_init == 0);
  CHECK(t1.switching.latency.max() == TransferTime(k13B, 2'830'000'000));
  for (const char* preset : {"T2", "T3"}) CHECK(RunLone(preset).switching.latency.max() == PsFromSeconds(1.625));
  // A GPU of PCIe 4 has no more than its link.
  CHECK(RunLone("T2", {"switch.host_load_GBps=54", "fleet.gpu=a100-80gb"}).switching.latency.max() ==
        TransferTime(k13B, 32'000'000'000));
}

TEST_CASE("Weights that the host cache does not hold come from what is behind it, once", "[theory]") {
  const auto cold = [](const std::string& backing, double gigabytes) {
    return RunLone("T2", {"fleet.host_cache_warm=false", fmt::format("fleet.host_cache_gb={}", gigabytes),
                          "switch.backing=" + backing, "switch.host_load_GBps=50"});
  };
  // a, b and a again: the third is in the cache if both fit.
  const RunResult nvme = cold("nvme", 100);
  CHECK(From(nvme, WeightSource::kNvme) == 2);
  CHECK(From(nvme, WeightSource::kHostCache) == 1);
  CHECK(nvme.switching.latency.max() == TransferTime(k13B, 20'280'000'000));
  CHECK(nvme.switching.weights == 2 * TransferTime(k13B, 20'280'000'000) + TransferTime(k13B, 50'000'000'000));
  CHECK(nvme.switching.cache_misses == 2);
  CHECK(nvme.switching.cache_hits == 1);
  CHECK(nvme.switching.cache_evictions == 0);
  CHECK(BytesFrom(nvme, Tier::kNvme) == 2 * k13B);
  CHECK(BytesFrom(nvme, Tier::kHostCache) == k13B);

  const RunResult small = cold("remote", 30);  // one of them
  CHECK(From(small, WeightSource::kRemote) == 3);
  CHECK(small.switching.cache_evictions == 2);
  CHECK(small.switching.latency.max() == TransferTime(k13B, 1'290'000'000));

  const RunResult none = cold("nvme", 0);
  CHECK(From(none, WeightSource::kNvme) == 3);
  CHECK(none.switching.cache_evictions == 0);
}

TEST_CASE("GPUs of one node that load from NVMe at once share it; those of two nodes do not", "[theory]") {
  const TraceFile trace("0,a,llama-2-13b,100,5\n0,b,llama-2-13b,100,5\n");
  const auto latency = [&](int gpus_per_node, const std::string& more) {
    return Run(fmt::format(R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 26}}],
        "fleet": {{"gpu": "h800", "gpus": 2, "gpus_per_node": {}, "host_cache_gb": 0}},
        "policy": {{"name": "serverless-llm"}}, "switch": {{"preset": "T2", "host_load_GBps": 50{}}}}})",
                           trace.path(), gpus_per_node, more))
        .switching.latency.max();
  };
  CHECK(latency(1, "") == TransferTime(k13B, 20'280'000'000));
  CHECK(latency(2, "") == TransferTime(k13B, 10'140'000'000));
  CHECK(latency(2, R"(, "nvme_node_GBps": 100)") == TransferTime(k13B, 20'280'000'000));
  CHECK(latency(2, R"(, "backing": "remote", "remote_node_GBps": 1)") == TransferTime(k13B, 500'000'000));
}

TEST_CASE("A prefetched switch is a copy within GPU memory; one that is not there yet waits for the rest", "[theory]") {
  // One request decodes for 200 ms a step on instance 1 when the next model's request arrives: its prefill on instance 0 takes a
  // switch; then its model is next on instance 1, and prefetched behind the running turn of 4 s.
  const TraceFile trace("0,a,llama-2-13b,100,100\n5,b,llama-2-13b,100,100\n");
  const RunResult r = Run(fmt::format(R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 26}}],
      "fleet": {{"gpu": "h800", "gpus": 2}}, "policy": {{"name": "aegaeon", "params": {{"aegaeon": {{"prefill_instances": 1}}}}}},
      "cost": {{"form": "linear", "params": {{"linear": {{"models": [
          {{"llm": "llama-2-13b", "prefill_ms": {{"base": 10}}, "decode_ms": {{"base": 200}}}}]}}}}}}}})",
                                      trace.path()));
  CHECK(From(r, WeightSource::kPrefetched) >= 3);
  CHECK(r.switching.prefetches >= 3);
  CHECK(r.switching.copy == r.switching.prefetch_hits() * TransferTime(2 * k13B, FindGpu("h800").hbm_bytes_per_s));
  std::int64_t switches = 0;
  for (const std::int64_t n : r.switching.from) switches += n;
  CHECK(switches == r.total.switches);
  CHECK(r.switching.latency.count() == switches);
}

TEST_CASE("A host cache gives back what an entry was booked with, whatever shape evicts it", "[theory]") {
  // 13,000,000,001 bytes are one less in two halves. A model's own shape is for instances of its own: in a pool the cache books
  // that of the instances, at the start and at every load; the books are compared with the entries at every event.
  const TraceFile trace(
      "0,a,qwen2.5-7b,100,5\n20,b,qwen2.5-7b,100,5\n40,c,qwen2.5-7b,100,5\n60,d,qwen2.5-7b,100,5\n80,a,qwen2.5-7b,100,5\n");
  const RunResult r = Run(fmt::format(R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 13.000000001, "tp": 2}}],
      "fleet": {{"gpu": "h800", "gpus": 1, "host_cache_gb": 40}}, "policy": {{"name": "serverless-llm"}}}})",
                                      trace.path()));
  CHECK(From(r, WeightSource::kHostCache) == 3);  // a, b and c fit at the start
  CHECK(From(r, WeightSource::kNvme) == 2);       // d takes the place of a, which takes that of b
  CHECK(r.switching.cache_evictions == 2);
}

TEST_CASE("Owned GPU-hours cost what the catalogue or the scenario says, and energy is at most busy time at board power",
          "[theory]") {
  const GpuFacts h800 = FindGpu("h800");
  const RunResult r = RunLone("T2");
  const double hours = ToSeconds(r.end) / 3600;
  REQUIRE(r.cost_usd.has_value());
  CHECK(*r.cost_usd == Approx(hours * *h800.price_per_hour));
  double busy = 0;
  for (const GpuTime& time : r.activity) busy += static_cast<double>(time) * 1e-12 / 3600;
  CHECK(busy > 0);
  CHECK(busy < hours);
  REQUIRE(r.energy_kwh.has_value());
  CHECK(*r.energy_kwh == Approx((busy * *h800.board_power_w + (hours - busy) * *h800.idle_power_w) / 1000));
  CHECK(*RunLone("T2", {"fleet.gpu_price_per_hour=36"}).cost_usd == Approx(hours * 36));
  CHECK(*RunLone("T2", {"fleet.gpu_price_per_hour=0"}).cost_usd == 0);
}

}  // namespace poolsim
