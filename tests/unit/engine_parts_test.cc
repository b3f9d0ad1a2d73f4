// The engine's building blocks, each against the plain way to do the same.
#include <set>
#include <vector>

#include "sim/event_queue.h"
#include "sim/histogram.h"
#include "sim/link.h"
#include "sim/rng.h"
#include "sim/series.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

TEST_CASE("a run of steps: the closed form is the sum, and its inverse is exact at every border", "[unit]") {
  Rng rng(7, "series");
  for (int n = 0; n < 2000; ++n) {
    const auto steps = static_cast<std::int64_t>(rng.Below(200)) + 1;
    Series s;
    s.a = static_cast<TimePs>(rng.Below(20'000'000'000)) + 1'000'000;
    // Negative slopes, as some fits have, as long as every step stays positive.
    s.d = static_cast<TimePs>(rng.Below(5'000'000)) - std::min<TimePs>(2'500'000, s.a / (2 * steps));
    TimePs sum = 0;
    for (std::int64_t k = 0; k <= steps; ++k) {
      REQUIRE(s.Elapsed(k) == sum);
      REQUIRE(s.StepsWithin(sum, steps) == k);
      if (k > 0) REQUIRE(s.StepsWithin(sum - 1, steps) == k - 1);
      sum += s.Step(k);
    }
  }
}

TEST_CASE("the event queue gives what an ordered set gives", "[unit]") {
  Rng rng(7, "events");
  EventQueue queue(50);
  std::set<std::pair<TimePs, std::int64_t>> plain;
  std::vector<TimePs> at(50, -1);
  TimePs now = 0;
  for (int n = 0; n < 20000; ++n) {
    const auto slot = static_cast<std::int64_t>(rng.Below(50));
    const auto what = rng.Below(4);
    if (what == 3 && at[slot] >= 0) {
      plain.erase({at[slot], slot});
      at[slot] = -1;
      queue.Clear(slot);
    } else if (what == 2 && !plain.empty()) {
      const EventQueue::Event e = queue.Take();
      REQUIRE(std::pair(e.time, e.slot) == *plain.begin());
      plain.erase(plain.begin());
      at[e.slot] = -1;
      now = e.time;
      // Half of the events schedule their own slot again, as instances do.
      if (rng.Below(2) == 0) {
        at[e.slot] = now + static_cast<TimePs>(rng.Below(100));
        plain.insert({at[e.slot], e.slot});
        queue.Set(e.slot, at[e.slot]);
      }
      queue.Done();
    } else {
      if (at[slot] >= 0) plain.erase({at[slot], slot});
      at[slot] = now + static_cast<TimePs>(rng.Below(100));
      plain.insert({at[slot], slot});
      queue.Set(slot, at[slot]);
    }
    REQUIRE(queue.size() == plain.size());
    if (!plain.empty()) REQUIRE(queue.next_time() == plain.begin()->first);
  }
}

TEST_CASE("a counted range of a histogram is its values one by one", "[unit]") {
  Rng rng(7, "histogram");
  for (int n = 0; n < 300; ++n) {
    const auto count = static_cast<std::int64_t>(rng.Below(300)) + 1;
    const auto first = static_cast<TimePs>(rng.Below(40'000'000'000)) + 10'000'000;
    const auto slope = static_cast<TimePs>(rng.Below(60'000'000)) - std::min<TimePs>(30'000'000, first / (2 * count));
    Histogram ranged, plain;
    ranged.AddSeries(first, slope, count, 3);
    for (std::int64_t j = 0; j < count; ++j) plain.Add(first + slope * j, 3);
    REQUIRE(ranged.count() == plain.count());
    REQUIRE(ranged.max() == plain.max());
    REQUIRE(ranged.MeanSeconds() == plain.MeanSeconds());
    for (const double q : {0.01, 0.1, 0.5, 0.9, 0.99, 1.0}) REQUIRE(ranged.Quantile(q) == plain.Quantile(q));
  }
  Histogram exact;
  for (int v = 1; v <= 1000; ++v) exact.Add(v * kPsPerMs);
  CHECK(ToSeconds(exact.Quantile(0.5)) == Approx(0.5).epsilon(0.004));
  CHECK(ToSeconds(exact.Quantile(0.99)) == Approx(0.99).epsilon(0.004));
}

// When each ticket ends, by its number.
std::vector<TimePs> Drain(Link& link, int tickets) {
  std::vector<TimePs> ends(static_cast<std::size_t>(tickets), -1);
  while (link.next_end() != kNever) {
    const TimePs now = link.next_end();
    for (std::int64_t t = link.PopFinished(now); t >= 0; t = link.PopFinished(now)) ends[static_cast<std::size_t>(t)] = now;
  }
  return ends;
}

TEST_CASE("a link: caps, sharing, both ways at once, and transfers that stand back", "[unit]") {
  const TimePs second = kPsPerSecond;
  Link::Config config;
  config.rate[0] = config.rate[1] = 10;
  config.both_ways_share[0] = 0.5;
  config.both_ways_share[1] = 1;

  SECTION("one transfer takes bytes over the lower of cap and rate; the next one waits for it") {
    Link link(config, 1);
    link.Add(0, 0, Direction::kIn, 100, 5, 0);
    link.Add(0, 0, Direction::kIn, 100, 50, 1);
    CHECK(Drain(link, 2) == std::vector<TimePs>{20 * second, 30 * second});
  }
  SECTION("two instances share the uplink equally until one is done") {
    Link link(config, 2);
    link.Add(0, 0, Direction::kIn, 100, 50, 0);
    link.Add(0, 1, Direction::kIn, 50, 50, 1);
    // 5 bytes/s each for 10 s, then 10 bytes/s for the 50 that are left.
    CHECK(Drain(link, 2) == std::vector<TimePs>{15 * second, 10 * second});
  }
  SECTION("while both directions of an instance are busy, the way in keeps half") {
    Link link(config, 1);
    link.Add(0, 0, Direction::kIn, 100, 50, 0);
    link.Add(0, 0, Direction::kOut, 50, 50, 1);
    // Out: 5 s at 10 bytes/s. In: 25 bytes by then, and 75 more in 7.5 s.
    CHECK(Drain(link, 2) == std::vector<TimePs>{12 * second + second / 2, 5 * second});
  }
  SECTION("prefetched weights stand back for KV, and go on where they were") {
    Link link(config, 1);
    link.Add(0, 0, Direction::kIn, 100, 50, 0, true);
    link.Add(4 * second, 0, Direction::kIn, 20, 50, 1);
    CHECK(Drain(link, 2) == std::vector<TimePs>{12 * second, 6 * second});
  }
  SECTION("a cancelled transfer makes way") {
    Link link(config, 1);
    link.Add(0, 0, Direction::kIn, 1000, 50, 0);
    link.Add(0, 0, Direction::kIn, 100, 50, 1);
    link.Cancel(3 * second, 0);
    CHECK(Drain(link, 2) == std::vector<TimePs>{-1, 13 * second});
  }
}

// What the engine does with the links of one node.
class NodeOfLinks {
 public:
  NodeOfLinks(int links, const TierRates& rates) : rates_(rates) {
    Link::Config config;
    config.rate[0] = config.rate[1] = 100;
    for (int l = 0; l < links; ++l) {
      links_.emplace_back(config, 1);
      of_node_.push_back(l);
    }
  }
  void Load(TimePs now, int link, Tier tier, std::int64_t bytes, std::int64_t cap, int gpus = 1, bool background = false) {
    links_[static_cast<std::size_t>(link)].Add(now, 0, Direction::kIn, bytes, cap, ticket_++, background, tier, gpus);
    Share(now);
  }
  void Kv(TimePs now, int link, std::int64_t bytes) {
    links_[static_cast<std::size_t>(link)].Add(now, 0, Direction::kIn, bytes, 100, ticket_++);
    Share(now);
  }
  void Cancel(TimePs now, int link, std::int64_t ticket) {
    links_[static_cast<std::size_t>(link)].Cancel(now, ticket);
    Share(now);
  }
  // When each transfer ends, in ms, by ticket; -1: never.
  std::vector<std::int64_t> Drain() {
    std::vector<std::int64_t> ends(static_cast<std::size_t>(ticket_), -1);
    for (;;) {
      const auto next = std::min_element(links_.begin(), links_.end(),
                                         [](const Link& a, const Link& b) { return a.next_end() < b.next_end(); });
      if (next->next_end() == kNever) return ends;
      const TimePs now = next->next_end();
      for (std::int64_t t = next->PopFinished(now); t >= 0; t = next->PopFinished(now))
        ends[static_cast<std::size_t>(t)] = now / kPsPerMs;
      Share(now);
    }
  }
  std::int64_t loading(Tier tier) const { return loading_[static_cast<std::size_t>(tier)]; }

 private:
  void Share(TimePs now) {
    for (const std::int32_t link : of_node_) ShareTiers(now, links_, of_node_, link, rates_, loading_);
  }
  TierRates rates_;
  std::vector<Link> links_;
  std::vector<std::int32_t> of_node_;
  TierRates loading_{};
  std::int64_t ticket_ = 0;
};

TEST_CASE("The tiers of a node are shared equally among the GPUs that load from them", "[unit]") {
  const TimePs second = kPsPerSecond;
  // Host memory gives 40 bytes/s, NVMe 12, the remote store 3.
  SECTION("alone, a load has its own rate or the tier's, whichever is lower") {
    NodeOfLinks node(3, {40, 12, 3});
    node.Load(0, 0, Tier::kHostCache, 100, 20);
    node.Load(0, 1, Tier::kNvme, 120, 20);
    node.Load(0, 2, Tier::kRemote, 30, 2);
    CHECK(node.Drain() == std::vector<std::int64_t>{5'000, 10'000, 15'000});
  }
  SECTION("two loads get half each until one ends; the uplinks have nothing to do with it") {
    NodeOfLinks node(2, {40, 12, 3});
    node.Load(0, 0, Tier::kNvme, 60, 20);
    node.Load(0, 1, Tier::kNvme, 120, 20);
    // 6 bytes/s each for 10 s, then 12 for the 60 that are left.
    CHECK(node.loading(Tier::kNvme) == 2);
    CHECK(node.Drain() == std::vector<std::int64_t>{10'000, 15'000});
    CHECK(node.loading(Tier::kNvme) == 0);
  }
  SECTION("a load that begins later slows the first one down from then on") {
    NodeOfLinks node(2, {40, 12, 3});
    node.Load(0, 0, Tier::kNvme, 120, 20);
    node.Load(5 * second, 1, Tier::kNvme, 30, 20);
    // 60 by 5 s; 6 bytes/s each for 5 s; 12 for the 30 that are left.
    CHECK(node.Drain() == std::vector<std::int64_t>{12'500, 10'000});
  }
  SECTION("a group of GPUs takes a share for each of them") {
    NodeOfLinks node(2, {40, 12, 3});
    node.Load(0, 0, Tier::kNvme, 40, 20, 2);  // 40 bytes to each of two GPUs
    node.Load(0, 1, Tier::kNvme, 40, 20);
    CHECK(node.loading(Tier::kNvme) == 3);
    CHECK(node.Drain() == std::vector<std::int64_t>{10'000, 10'000});
  }
  SECTION("what a GPU cannot take is not given to another") {
    NodeOfLinks node(2, {40, 12, 3});
    node.Load(0, 0, Tier::kHostCache, 100, 5);
    node.Load(0, 1, Tier::kHostCache, 100, 100);
    CHECK(node.Drain() == std::vector<std::int64_t>{20'000, 5'000});
  }
  SECTION("a load that stands back for KV takes nothing, and a cancelled one makes way") {
    NodeOfLinks node(2, {40, 12, 3});
    node.Load(0, 0, Tier::kNvme, 60, 20, 1, true);
    node.Load(0, 1, Tier::kNvme, 120, 20);
    node.Kv(5 * second, 0, 500);
    // 30 each by 5 s; then 12 bytes/s for the second until the KV is over at 10 s, and 6 again.
    CHECK(node.loading(Tier::kNvme) == 1);
    node.Cancel(6 * second, 0, 0);
    CHECK(node.Drain() == std::vector<std::int64_t>{-1, 12'500, 10'000});
  }
  SECTION("KV is no load") {
    NodeOfLinks node(2, {1, 1, 1});
    node.Kv(0, 0, 500);
    CHECK(node.Drain() == std::vector<std::int64_t>{5'000});
  }
}

}  // namespace
}  // namespace poolsim
