// The search for the fewest GPUs, against trying every size.
#include <algorithm>
#include <cmath>
#include <optional>

#include "planning/busiest.h"
#include "planning/plan.h"
#include "planning/search.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

// A unit without requests, for made-up attainments.
Unit MadeUp(bool splits, std::int64_t instance_gpus, int replications) {
  Unit unit;
  unit.policy = Registry<PolicyEntry>::Get().Find(splits ? "aegaeon" : "serverless-llm");
  unit.pool = "pool";
  unit.instance_gpus = instance_gpus;
  unit.requests.assign(static_cast<std::size_t>(replications), std::make_shared<RequestSet>());
  return unit;
}

Tally WithService(double share) {
  Tally t;
  t.requests = 1'000'000;
  t.service = share * 1e6;
  return t;
}

// Grows with instances, one curve for all replications but for a shift; where there is a split, best at a share of them.
struct Curve {
  double scale;
  double best_split;  // share of instances; 0: no split
  std::vector<double> shifts;

  double At(const Size& size, int replication) const {
    double worth = static_cast<double>(size.instances);
    if (best_split > 0) {
      const double off = static_cast<double>(size.prefill) / static_cast<double>(size.instances) - best_split;
      worth *= 1 - std::min(0.9, 4 * off * off);
    }
    return std::clamp(1 - Exp(-worth / scale) + shifts[static_cast<std::size_t>(replication)], 0.0, 1.0);
  }
};

bool HoldsSomewhere(const Curve& curve, std::int64_t n, double target) {
  const std::int64_t last = curve.best_split > 0 ? n - 1 : 0;
  for (std::int64_t p = curve.best_split > 0 ? 1 : 0; p <= last; ++p) {
    double mean = 0;
    for (int r = 0; r < static_cast<int>(curve.shifts.size()); ++r)
      mean += WithService(curve.At({n, p}, r)).Share(AttainmentKind::kService) / static_cast<double>(curve.shifts.size());
    if (mean >= target) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("the search finds what trying every size finds", "[property]") {
  Rng rng(7, "search");
  for (int round = 0; round < 200; ++round) {
    Curve curve;
    curve.scale = 1 + 40 * rng.Uniform01();
    curve.best_split = round % 2 == 0 ? 0 : 0.2 + 0.5 * rng.Uniform01();
    for (int r = 0; r < 1 + static_cast<int>(rng.Below(5)); ++r) curve.shifts.push_back(0.04 * (rng.Uniform01() - 0.5));
    const Unit unit = MadeUp(curve.best_split > 0, std::int64_t{1} << rng.Below(4), static_cast<int>(curve.shifts.size()));
    Criteria criteria;
    criteria.targets = {{AttainmentKind::kService, 0.5 + 0.45 * rng.Uniform01()}};
    Search search(unit, criteria, 1, [&](const Size& size, int r, double) { return WithService(curve.At(size, r)); });
    const Sized sized = search.Find(200 * rng.Uniform01());

    std::int64_t fewest = curve.best_split > 0 ? 2 : 1;
    while (!HoldsSomewhere(curve, fewest, criteria.targets.front().share)) ++fewest;
    CAPTURE(round, fewest, sized.size.instances, sized.reason);
    REQUIRE(sized.found);
    CHECK(sized.size.instances == fewest);
    CHECK(sized.gpus == unit.Gpus(fewest));
    CHECK(sized.misses_above.empty());
    CHECK(sized.low_gpus <= sized.gpus);
    CHECK(sized.gpus <= sized.high_gpus);
  }
}

TEST_CASE("sizes above the answer that do not hold are found and reported", "[property]") {
  const Unit unit = MadeUp(false, 1, 2);
  const Criteria criteria;
  // Holds at 20 and from 23 on.
  Search search(unit, criteria, 1, [](const Size& size, int, double) {
    const bool holds = size.instances == 20 || size.instances >= 23;
    return WithService(holds ? 0.95 : 0.8);
  });
  const Sized sized = search.Find(20);
  REQUIRE(sized.found);
  CHECK(sized.gpus == 20);
  CHECK(sized.misses_above == std::vector<std::int64_t>{21, 22});
}

TEST_CASE("a smaller size that holds below one that does not is found", "[property]") {
  const Unit unit = MadeUp(false, 1, 2);
  const Criteria criteria;
  Search search(unit, criteria, 1, [](const Size& size, int, double) {
    return WithService(size.instances == 10 || size.instances >= 12 ? 0.95 : 0.8);
  });
  const Sized sized = search.Find(12);
  REQUIRE(sized.found);
  CHECK(sized.gpus == 10);
  CHECK(sized.misses_above == std::vector<std::int64_t>{11});
  CHECK(sized.below_gpus == 9);
}

TEST_CASE("runs that are given up decide nothing that whole runs would decide otherwise", "[property]") {
  const Unit unit = MadeUp(false, 1, 3);
  const Criteria criteria;
  // One replication of three is far below the target, and the others make up for it from 15 instances on.
  const auto share = [](const Size& size, int r) {
    return r == 1 ? 0.7525 : std::min(1.0, 0.9 + 0.005 * static_cast<double>(size.instances));
  };
  Search search(unit, criteria, 1, [&](const Size& size, int r, double give_up) {
    Tally t = WithService(share(size, r));
    if (share(size, r) < give_up) t.reached = 0.5;
    return t;
  });
  const Sized sized = search.Find(1);
  REQUIRE(sized.found);
  CHECK(sized.size.instances == 15);
  for (const Tally& t : sized.at) CHECK(t.reached == 1);
  for (const Tally& t : sized.below) CHECK(t.reached == 1);
}

TEST_CASE("the interval of GPUs is where the interval of attainment touches the target", "[property]") {
  const Unit unit = MadeUp(false, 2, 2);
  Criteria criteria;
  // Two replications that differ by 0.02: with one degree of freedom the 95 % interval is the mean +- 12.706 x 0.01.
  Search search(unit, criteria, 1, [](const Size& size, int r, double) {
    return WithService(0.5 + 0.01 * static_cast<double>(size.instances) + (r == 0 ? 0.01 : -0.01));
  });
  const Sized sized = search.Find(10);
  REQUIRE(sized.found);
  CHECK(sized.size.instances == 40);
  CHECK(sized.low_gpus == 2 * (40 - 12));
  CHECK(sized.high_gpus == 2 * (40 + 13));
}

TEST_CASE("a limit on GPUs that is too low, and groups that do not fit under it, are said", "[property]") {
  const Unit unit = MadeUp(false, 8, 1);
  Criteria criteria;
  criteria.max_gpus = 64;
  Search search(unit, criteria, 1,
                [](const Size& size, int, double) { return WithService(0.01 * static_cast<double>(size.instances)); });
  const Sized sized = search.Find(1);
  CHECK_FALSE(sized.found);
  CHECK(sized.reason == "64 GPUs, the most that it may take, leave it 82.00 points short of the target");
  criteria.max_gpus = 7;
  Search none(unit, criteria, 1, [](const Size&, int, double) { return WithService(1); });
  CHECK(none.Find(1).reason == "it needs at least 8 GPUs and may take 7");
}

TEST_CASE("the busiest window is that with the most work, whatever came before", "[property]") {
  Rng rng(3, "busiest");
  for (int round = 0; round < 100; ++round) {
    const TimePs bin = PsFromSeconds(5);
    const TimePs window = 12 * bin;
    const TimePs warmup = static_cast<TimePs>(rng.Below(3)) * 4 * PsFromSeconds(2);
    BusiestWindow busiest(window, warmup);
    std::vector<RequestSpec> rows;
    std::vector<double> work;
    TimePs at = 0;
    for (int i = 0; i < 200; ++i) {
      at += static_cast<TimePs>(rng.Below(static_cast<std::uint64_t>(PsFromSeconds(round % 2 == 0 ? 2 : 12))));
      rows.push_back({at, 0, i + 1, 1});
      work.push_back(1 + 9 * rng.Uniform01());
      busiest.Add(rows.back(), work.back());
    }
    const auto work_from = [&](TimePs from) {
      double sum = 0;
      for (std::size_t i = 0; i < rows.size(); ++i)
        sum += rows[i].arrival >= from && rows[i].arrival < from + window ? work[i] : 0;
      return sum;
    };
    double most = 0;
    for (TimePs from = 0; from <= at; from += bin) most = std::max(most, work_from(from));

    const std::vector<RequestSpec> kept = busiest.Finish();
    double got = 0;
    TimePs begin = 0;
    for (const RequestSpec& r : kept) {
      CHECK((r.arrival >= 0 && r.arrival < warmup + window));
      if (r.arrival < warmup) continue;
      got += work[static_cast<std::size_t>(r.prompt_tokens - 1)];
      begin = rows[static_cast<std::size_t>(r.prompt_tokens - 1)].arrival - r.arrival + warmup;
    }
    CHECK(got == Approx(most));
    // All that arrived in the warm-up before it is there too.
    std::size_t expected = 0;
    for (const RequestSpec& r : rows) expected += r.arrival >= begin - warmup && r.arrival < begin + window ? 1 : 0;
    CHECK(kept.size() == expected);
  }
}

}  // namespace poolsim
