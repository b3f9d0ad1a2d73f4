// Where the time of a request goes, and what its KV memory holds, on cases small enough to add up by hand. Prefill 20 ms, step
// 10 ms, weights 16 GB at 16 GB/s = 1 s, KV 0.5 MB a token in blocks of 16: 8 MB a block, 0.5 ms on the way at 16 GB/s.
#include <fmt/format.h>

#include "sim/report.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using testing::Parse;
using testing::TraceFile;

Json Summary(const TraceFile& trace, const std::string& policy, int gpus, const std::vector<std::string>& set = {}) {
  const Scenario s = Parse(fmt::format(R"({{"workload": {{"path": "{}"}}, "fleet": {{"gpus": {}}}, "policy": {{"name": "{}"}},
    "models": [{{"weights_gb": 16, "kv_bytes_per_token": 500000}}], "switch": {{"preset": "T3", "host_load_GBps": 16}},
    "cost": {{"form": "linear", "params": {{"linear": {{"models": [
      {{"llm": "qwen2.5-7b", "prefill_ms": {{"base": 20}}, "decode_ms": {{"base": 10}}}}]}}}}}}}})",
                                       trace.path(), gpus, policy),
                           set);
  return SummaryJson(s, testing::Run(s));
}

void CheckSpells(const Json& summary, const std::vector<double>& expected) {
  double sum = 0;
  std::size_t i = 0;
  for (const auto& [name, value] : summary["breakdown_s"].items()) {
    INFO(name);
    CHECK(value.get<double>() == Approx(expected[i++]).margin(1e-6));
    sum += value.get<double>();
  }
  CHECK(sum == Approx(summary["e2e_s"]["mean"].get<double>()).epsilon(1e-5));
}

}  // namespace

TEST_CASE("A request alone waits for its switch only", "[theory]") {
  const Json s = Summary(TraceFile("0,a,qwen2.5-7b,10,5\n"), "serverless-llm", 1);
  CheckSpells(s, {0, 0.02, 0, 0.04, 1, 0});
}

TEST_CASE("Who waits for another model's turn waits; the switch to its own is a switch", "[theory]") {
  // b waits while a is loaded, prefilled and decoded, 1.06 s; halves, as means over two requests.
  const Json s = Summary(TraceFile("0,a,qwen2.5-7b,10,5\n0,b,qwen2.5-7b,10,5\n"), "serverless-llm", 1);
  CheckSpells(s, {1.06 / 2, 0.02, 0, 0.04, 1, 0});
  // Who comes in the middle of the switch to its model waits for the other half of it.
  const Json half = Summary(TraceFile("0,a,qwen2.5-7b,10,1\n0.5,a,qwen2.5-7b,10,1\n"), "serverless-llm", 1);
  CHECK(half["breakdown_s"]["switch"].get<double>() == Approx(0.75).margin(1e-6));
}

TEST_CASE("Between a prefill and a decode instance KV moves out and in, and both switch", "[theory]") {
  const Json s = Summary(TraceFile("0,a,qwen2.5-7b,10,5\n"), "aegaeon", 2);
  CheckSpells(s, {0, 0.02, 0, 0.04, 2, 0.001});
  CHECK(s["kv_sync_s"]["max"].get<double>() == Approx(0.001));
  const Json free = Summary(TraceFile("0,a,qwen2.5-7b,10,5\n"), "aegaeon", 2, {"switch.handover_free=true"});
  CheckSpells(free, {0, 0.02, 0, 0.04, 2, 0.0005});
}

TEST_CASE("Two models in turns: a request waits for the other's turn, and for each switch back", "[theory]") {
  // One decode instance, quotas of Aegaeon; whatever they are, the parts are not negative and add up, steps are steps, and
  // switches come once a turn.
  const Json s = Summary(TraceFile("0,a,qwen2.5-7b,10,400\n0,b,qwen2.5-7b,10,400\n"), "aegaeon", 2);
  const Json& spells = s["breakdown_s"];
  CHECK(spells["decode"].get<double>() == Approx(3.99));
  CHECK(spells["decode_wait"].get<double>() > 0.5);
  CHECK(spells["switch"].get<double>() > 1.5);
  CHECK(spells["kv"].get<double>() > 0.001);
  CHECK(spells["prefill"].get<double>() == Approx(0.02));
}

TEST_CASE("KV memory that holds no token, in blocks and in slabs", "[theory]") {
  // 10 prompt tokens and 5 of the answer are in one block of 16, and that in one slab of 64 MB.
  const TraceFile trace("0,a,qwen2.5-7b,10,5\n");
  const Json s = Summary(trace, "serverless-llm", 1);
  CHECK(s["kv_fragmentation"]["blocks"].get<double>() == Approx(1.0 / 16).epsilon(1e-4));
  CHECK(s["kv_fragmentation"]["slabs"].get<double>() == Approx(1 - 7.5 / 64).epsilon(1e-4));
  // A slab of 20 MB holds two blocks of 8 MB, so that three blocks take two; a block in slabs of 6 MB takes two.
  const TraceFile longer("0,a,qwen2.5-7b,36,5\n");
  const auto slabs = [&](double megabytes) {
    return Summary(longer, "serverless-llm", 1, {fmt::format("kv.slab_mb={}", megabytes)})["kv_fragmentation"]["slabs"]
        .get<double>();
  };
  CHECK(slabs(20) == Approx(1 - 20.5 / 40).epsilon(1e-4));
  CHECK(slabs(6) == Approx(1 - 20.5 / 36).epsilon(1e-4));
  CHECK(slabs(0) == Approx(1 - 20.5 / 24).epsilon(1e-4));
}

}  // namespace poolsim
