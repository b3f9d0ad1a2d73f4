// What surrounds the kernels: statistics of repeats, the plan of what is measured, names of devices.
#include <algorithm>
#include <set>
#include <vector>

#include "models/catalogue.h"
#include "models/cuda/plan.h"
#include "models/cuda/report.h"
#include "models/cuda/statistics.h"
#include "tests/catch.h"

namespace poolsim::bench {
namespace {

TEST_CASE("quantiles are linear between order statistics", "[unit]") {
  CHECK(Quantile({5}, 0.5) == 5);
  CHECK(Quantile({4, 1, 3, 2}, 0) == 1);
  CHECK(Quantile({4, 1, 3, 2}, 0.5) == 2.5);
  CHECK(Quantile({4, 1, 3, 2}, 0.25) == 1.75);
  CHECK(Quantile({4, 1, 3, 2}, 1) == 4);
  const Summary s = Summarize({1, 2, 3, 4, 100});
  CHECK(s.median == 3);
  CHECK(s.spread == 2);
  CHECK(s.repeats == 5);
}

TEST_CASE("repeats stop when the spread is small, at the most, or when time is up", "[unit]") {
  int calls = 0;
  const RepeatLimits limits{.warm_up = 2, .least = 5, .most = 40, .spread = 0.01, .seconds = 1e9};
  Summary s = Repeat(limits, [&] { return ++calls <= 2 ? 100.0 : 1.0; });  // the warm-up does not count
  CHECK(s.repeats == 5);
  CHECK(s.median == 1);
  CHECK(s.spread == 0);
  CHECK(calls == 7);
  calls = 0;
  s = Repeat(limits, [&] { return ++calls % 2 == 0 ? 1.0 : 2.0; });  // never steady
  CHECK(s.repeats == 40);
  RepeatLimits hurried = limits;
  hurried.seconds = 0;
  CHECK(Repeat(hurried, [&] { return ++calls % 2 == 0 ? 1.0 : 2.0; }).repeats == 5);
}

std::set<std::string> KindsOf(const Plan& plan) {
  std::set<std::string> kinds;
  for (const Case& c : plan.cases) kinds.insert(c.kind);
  return kinds;
}

TEST_CASE("the plan holds every kind, the tile borders, and the shapes of one of tp GPUs", "[unit]") {
  const LlmSpec& llm = LlmByName("qwen2.5-7b");
  const Scope scope = GpuScope(false, 80'000'000'000);
  const Plan plan = MakePlan(llm, 1, 8, scope);
  CHECK(KindsOf(plan) == std::set<std::string>(kKinds.begin(), kKinds.end()));
  CHECK(plan.left_out.empty());
  std::set<std::int64_t> rows;
  std::set<std::pair<std::int64_t, std::int64_t>> shapes;
  for (const Case& c : plan.cases) {
    if (c.kind != "gemm") continue;
    rows.insert(c.Size("m"));
    shapes.emplace(c.Size("k"), c.Size("n"));
  }
  for (const std::int64_t m : {1, 64, 65, 128, 129, 8192}) CHECK(rows.count(m) == 1);
  CHECK(shapes == std::set<std::pair<std::int64_t, std::int64_t>>{
                      {3584, 4608}, {3584, 3584}, {3584, 37888}, {18944, 3584}, {3584, 152064}});

  const Plan shared = MakePlan(llm, 4, 1, scope);
  CHECK(KindsOf(shared).count("all_reduce") == 0);
  CHECK(KindsOf(shared).count("decode") == 0);
  REQUIRE(shared.left_out.size() == 1);
  for (const Case& c : shared.cases) {
    if (c.kind != "decode_attention") continue;
    CHECK(c.Size("heads") == 7);
    CHECK(c.Size("kv_heads") == 1);
  }
}

TEST_CASE("however small the bounds, the plan keeps one case of each kind", "[unit]") {
  Scope scope = CpuScope(true);
  scope.most_flops = 1;
  scope.most_step_flops = 1;
  scope.most_bytes = 1 << 20;
  Plan plan = MakePlan(LlmByName("qwen2.5-72b"), 1, 1, scope);
  for (const char* kind : {"gemm", "prefill_attention", "decode_attention", "prefill", "decode"})
    CHECK(KindsOf(plan).count(kind) == 1);
  KeepKinds(plan, {"gemm", "copy"});
  CHECK(KindsOf(plan) == std::set<std::string>{"copy", "gemm"});
}

TEST_CASE("devices are found in the catalogue by the names their driver gives them", "[unit]") {
  CHECK(CatalogueName("NVIDIA H100 80GB HBM3", 85'017'755'648) == "h100");
  CHECK(CatalogueName("NVIDIA A100-SXM4-80GB", 85'097'971'712) == "a100-80gb");
  CHECK(CatalogueName("NVIDIA A10", 23'836'098'560) == "a10");
  CHECK(CatalogueName("NVIDIA L40S", 47'697'362'944) == "l40s");
  CHECK(CatalogueName("NVIDIA H200", 150'754'820'096) == "h200");
  CHECK(CatalogueName("NVIDIA H20", 102'000'000'000) == "h20");
  CHECK(CatalogueName("NVIDIA GeForce RTX 4090", 25'000'000'000).empty());
}

}  // namespace
}  // namespace poolsim::bench
