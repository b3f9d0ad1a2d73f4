// The engine executes grants in closed form; tests/reference/token_engine.cc makes one event per token. On random small scenarios
// both must give every token of every request at the same picosecond, whatever the policy and whatever fails, tell the policy the
// same things on the way, and have the same counters at the end.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/property/random_scenario.h"
#include "tests/reference/token_engine.h"

namespace poolsim {
namespace {

constexpr int kScenarios = 600;    // feasible ones, per policy
constexpr int kWithFailures = 60;  // of each sort of failures

// What the engine says of each request.
struct Seen final : TokenObserver {
  std::vector<std::vector<TimePs>> tokens;
  std::vector<Outcome> outcomes;
  std::vector<std::int32_t> generated;

  explicit Seen(std::size_t requests) : tokens(requests), outcomes(requests, Outcome::kPending), generated(requests, 0) {}
  void OnTokens(std::int64_t sequence, TimePs first, TimePs gap, TimePs slope, std::int64_t count) override {
    TimePs at = first;
    for (std::int64_t n = 0; n < count; ++n) {
      tokens[static_cast<std::size_t>(sequence)].push_back(at);
      at += gap + slope * n;
    }
  }
};

// Stands before a policy and writes down what it is told and asked, when, and what it can see then.
class Witness final : public Router, public Scheduler {
 public:
  struct Entry {
    TimePs at;
    const char* what;
    std::int64_t request;  // by order of arrival; kNone: it is about none
    InstanceId instance;
    std::vector<std::int64_t> seen;
    bool operator==(const Entry& other) const {
      return at == other.at && std::string_view(what) == other.what && request == other.request && instance == other.instance &&
             seen == other.seen;
    }
    std::string Text() const {
      return fmt::format("{} of request {} at instance {} at {} ps, seeing {}", what, request, instance, at,
                         fmt::join(seen, " "));
    }
  };
  explicit Witness(PoolParts& parts) : router_(*parts.router), scheduler_(*parts.scheduler) {}

  InstanceId RouteArrival(RequestId r, const ClusterView& view) override {
    const InstanceId to = router_.RouteArrival(r, view);
    Write("RouteArrival", r, to, view);
    return to;
  }
  InstanceId RouteHandover(RequestId r, const ClusterView& view) override {
    const InstanceId to = router_.RouteHandover(r, view);
    Write("RouteHandover", r, to, view);
    return to;
  }
  void OnQueued(RequestId r, InstanceId i, const ClusterView& view) override {
    Write("OnQueued", r, i, view);
    scheduler_.OnQueued(r, i, view);
  }
  void OnPreempted(RequestId r, InstanceId i, const ClusterView& view) override {
    Write("OnPreempted", r, i, view);
    scheduler_.OnPreempted(r, i, view);
  }
  void OnRemoved(RequestId r, InstanceId i, const ClusterView& view) override {
    Write("OnRemoved", r, i, view);
    scheduler_.OnRemoved(r, i, view);
  }
  void Next(InstanceId i, const ClusterView& view, Grant& grant) override {
    scheduler_.Next(i, view, grant);
    Write("Next", kNone, i, view);
  }
  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) override {
    Write("Preempts", r, i, view);
    return scheduler_.Preempts(r, i, view);
  }
  void OnDown(InstanceId i, const ClusterView& view) override {
    Write("OnDown", kNone, i, view);
    scheduler_.OnDown(i, view);
  }
  void OnUp(InstanceId i, const ClusterView& view) override {
    Write("OnUp", kNone, i, view);
    scheduler_.OnUp(i, view);
  }

  std::vector<Entry> entries;

 private:
  void Write(const char* what, RequestId r, InstanceId i, const ClusterView& view) {
    // Of those that leave an instance at once nobody says who is first.
    const bool removed = std::string_view(what) == "OnRemoved";
    Entry e{view.now(), what, kNone, i, {view.down()}};
    if (r != kNone) {
      const RequestView v = view.request(r);
      e.request = v.sequence;
      e.seen.insert(e.seen.end(), {v.model, v.generated, v.prefilled, static_cast<std::int64_t>(v.kv)});
    }
    if (i >= 0 && i < static_cast<InstanceId>(view.instances().size())) e.seen.push_back(view.up(i));
    if (!removed && i >= 0 && i < static_cast<InstanceId>(view.instances().size())) {
      e.seen.insert(e.seen.end(), {view.busy(i), view.loaded(i), view.kv_free_tokens(i, 0), view.last_step_end(i),
                                   view.last_run_time(i), view.last_run_label(i)});
      for (int label = 0; label < 3; ++label) {
        const BatchView batch = view.batch(i, label);
        e.seen.insert(e.seen.end(), {batch.model, batch.size, batch.context_tokens});
      }
    }
    auto at = entries.end();
    while (removed && at != entries.begin() && std::prev(at)->what == std::string_view(what) && std::prev(at)->at == e.at &&
           std::prev(at)->instance == i && std::prev(at)->request > e.request) {
      --at;
    }
    entries.insert(at, std::move(e));
  }

  Router& router_;
  Scheduler& scheduler_;
};

// How often things happened that the scenarios are there for.
struct Coverage {
  std::map<std::string, std::int64_t> times;
};

std::string Difference(const std::string& what, const std::string& engine, const std::string& reference) {
  return fmt::format("{}: the engine has {}, token by token {}", what, engine, reference);
}

std::string CompareHistogram(const std::string& what, const Histogram& engine, const std::vector<TimePs>& values) {
  Histogram plain;
  __int128 sum = 0;
  TimePs most = 0;
  for (const TimePs v : values) {
    plain.Add(v);
    sum += v;
    most = std::max(most, v);
  }
  if (engine.count() != static_cast<std::int64_t>(values.size())) {
    return Difference(what + " count", std::to_string(engine.count()), std::to_string(values.size()));
  }
  if (engine.max() != most) return Difference(what + " max", std::to_string(engine.max()), std::to_string(most));
  const double mean = values.empty() ? 0 : static_cast<double>(sum / static_cast<__int128>(values.size())) * 1e-12;
  if (engine.MeanSeconds() != mean) return Difference(what + " mean", std::to_string(engine.MeanSeconds()), std::to_string(mean));
  const int quantiles = static_cast<int>(std::min<std::size_t>(values.size(), 20));
  for (int n = 0; n < quantiles; ++n) {
    const double q = (n + 0.5) / quantiles;
    if (engine.Quantile(q) != plain.Quantile(q)) {
      return Difference(fmt::format("{} quantile {}", what, q), std::to_string(engine.Quantile(q)),
                        std::to_string(plain.Quantile(q)));
    }
  }
  return {};
}

// The first difference between a run of the engine and the same run token by token; empty when there is none.
std::string FirstDifference(const Scenario& s, Engine& engine, const EngineResult& result, const Seen& seen,
                            const TokenEngine& reference, const std::vector<RequestSpec>& requests) {
  // The earliest token that differs is where they part; what comes later follows from it.
  TimePs earliest = kNever;
  std::string difference;
  for (std::size_t r = 0; r < reference.records().size(); ++r) {
    const std::vector<TimePs>& expected = reference.records()[r].tokens;
    const std::vector<TimePs>& got = seen.tokens[r];
    for (std::size_t n = 0; n < std::max(got.size(), expected.size()); ++n) {
      const TimePs a = n < got.size() ? got[n] : kNever;
      const TimePs b = n < expected.size() ? expected[n] : kNever;
      if (a == b) continue;
      if (std::min(a, b) < earliest) {
        earliest = std::min(a, b);
        difference = Difference(fmt::format("request {} ({} at {} ps, {} + {} tokens), token {}", r,
                                            s.models[static_cast<std::size_t>(requests[r].model)].match, requests[r].arrival,
                                            requests[r].prompt_tokens, requests[r].output_tokens, n),
                                a == kNever ? "none" : fmt::format("{} ps", a), b == kNever ? "none" : fmt::format("{} ps", b));
      }
      break;
    }
  }
  if (!difference.empty()) return difference;
  const auto number = [&](const std::string& what, auto a, auto b) {
    if (difference.empty() && a != b) difference = Difference(what, fmt::format("{}", a), fmt::format("{}", b));
  };
  number("requests", result.requests, static_cast<std::int64_t>(reference.records().size()));
  for (std::size_t r = 0; r < reference.records().size(); ++r) {
    number(fmt::format("outcome of request {}", r), OutcomeName(seen.outcomes[r]),
           std::string(OutcomeName(reference.records()[r].outcome)));
    number(fmt::format("tokens of request {}", r), seen.generated[r],
           static_cast<std::int32_t>(reference.records()[r].tokens.size()));
  }
  number("end", result.end, reference.end());
  Metrics& metrics = engine.metrics();
  for (int a = 0; a < kActivities; ++a) number(fmt::format("activity {}", a), metrics.activity[a], reference.activity[a]);
  number("weight bytes", metrics.weight_bytes_moved, reference.weight_bytes_moved);
  number("KV bytes", metrics.kv_bytes_moved, reference.kv_bytes_moved);
  const SwitchMetrics& mine = metrics.switching;
  const SwitchMetrics& other = reference.switching;
  for (int f = 0; f < kWeightSources; ++f) number(fmt::format("switches from {}", f), mine.from[f], other.from[f]);
  number("prefetches", mine.prefetches, other.prefetches);
  number("host cache hits", mine.cache_hits, other.cache_hits);
  number("host cache misses", mine.cache_misses, other.cache_misses);
  number("host cache evictions", mine.cache_evictions, other.cache_evictions);
  for (int f = 0; f < kTiers; ++f) number(fmt::format("bytes from tier {}", f), mine.bytes[f], other.bytes[f]);
  number("engine init", mine.engine_init, other.engine_init);
  number("waiting for weights", mine.weights, other.weights);
  number("copies", mine.copy, other.copy);
  number("waiting for KV", mine.kv, other.kv);
  const FailureMetrics& failed = metrics.failures;
  const FailureMetrics& same = reference.failures;
  for (int k = 0; k < kFailureKinds; ++k) {
    number(fmt::format("failures: {}", FailureKindName(static_cast<FailureKind>(k))), failed.failures[k], same.failures[k]);
  }
  number("hit", failed.hit, same.hit);
  number("retried", failed.retried, same.retried);
  number("lost", failed.lost, same.lost);
  number("tokens recomputed", failed.recomputed, same.recomputed);
  number("moved", failed.moved, same.moved);
  if (difference.empty()) difference = CompareHistogram("switch latency", mine.latency, reference.switch_latencies);
  number("active model time", static_cast<double>(metrics.active_model_time), static_cast<double>(reference.ActiveModelTime()));
  const std::vector<TokenEngine::ModelTotals> totals = reference.Totals();
  for (std::size_t m = 0; m < totals.size(); ++m) {
    const ModelMetrics& a = metrics.models()[m];
    const TokenEngine::ModelTotals& b = totals[m];
    const std::string of = fmt::format(" of model {}", m);
    number("requests" + of, a.requests, b.requests);
    for (int o = 0; o < kOutcomes; ++o) number(OutcomeName(static_cast<Outcome>(o)) + of, a.outcomes[o], b.outcomes[o]);
    number("prompt tokens" + of, a.prompt_tokens, b.prompt_tokens);
    number("wanted tokens" + of, a.wanted_tokens, b.wanted_tokens);
    number("output tokens" + of, a.output_tokens, b.output_tokens);
    number("tokens on time" + of, a.on_time_tokens, b.on_time_tokens);
    number("requests on time" + of, a.on_time_requests, b.on_time_requests);
    number("smooth requests" + of, a.smooth_requests, b.smooth_requests);
    number("switches" + of, a.switches, b.switches);
    if (difference.empty() &&
        std::abs(a.service - b.service) > 1e-12 * static_cast<double>(std::max<std::int64_t>(1, b.requests))) {
      number("service" + of, a.service, b.service);
    }
    for (const std::string& d : {CompareHistogram("TTFT" + of, a.ttft, b.ttft), CompareHistogram("TBT" + of, a.tbt, b.tbt),
                                 CompareHistogram("TPOT" + of, a.tpot, b.tpot), CompareHistogram("E2E" + of, a.e2e, b.e2e)}) {
      if (difference.empty()) difference = d;
    }
  }
  const std::vector<Window> windows = reference.Windows();
  for (std::size_t w = 0; w < std::max(windows.size(), metrics.windows().size()); ++w) {
    const Window a = w < metrics.windows().size() ? metrics.windows()[w] : Window{};
    const Window b = w < windows.size() ? windows[w] : Window{};
    const std::string of = fmt::format(" of window {}", w);
    number("arrived" + of, a.arrived, b.arrived);
    if (difference.empty() && std::abs(a.service - b.service) > 1e-12 * static_cast<double>(std::max<std::int64_t>(1, b.arrived)))
      number("service" + of, static_cast<double>(a.service), static_cast<double>(b.service));
    number("finished" + of, a.finished, b.finished);
    number("failed" + of, a.failed, b.failed);
    number("tokens" + of, a.output_tokens, b.output_tokens);
    number("tokens on time" + of, a.on_time_tokens, b.on_time_tokens);
    number("switches" + of, a.switches, b.switches);
    for (int k = 0; k < kActivities; ++k) number(fmt::format("activity {}{}", k, of), a.activity[k], b.activity[k]);
  }
  return difference;
}

// Whether the scenario could be placed. Fails the test when the engines differ.
bool RunBoth(const RandomScenario& random, Coverage& coverage) {
  const Scenario s = ParseScenario(random.json.dump(), "random.json", "", {});
  ListSource survey(random.names, random.requests);
  const WorkloadFacts facts = SurveyRequests(s, survey);
  std::vector<std::int32_t> all(random.names.size());
  for (std::size_t m = 0; m < all.size(); ++m) all[m] = static_cast<std::int32_t>(m);
  const PoolConfig config = s.Pools().front();
  PreparedPool pool(s, config, all, facts);
  pool.setup.check = true;
  if (!random.outages.empty()) {
    pool.setup.failures.file = "outages.csv";
    pool.setup.failures.listed = random.outages;
  }

  PoolParts fast_parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
  Witness fast_witness(fast_parts);
  std::unique_ptr<Engine> engine;
  try {
    engine = std::make_unique<Engine>(pool.setup, *pool.prices, *fast_parts.placement, fast_witness, fast_witness);
  } catch (const InfeasibleError&) {
    return false;
  }
  fast_parts.ServeOracles(*engine);
  Seen seen(random.requests.size());
  engine->set_token_observer(&seen);
  engine->set_request_sink([&](const Request& r, const Targets&) {
    seen.outcomes[static_cast<std::size_t>(r.sequence)] = r.outcome;
    seen.generated[static_cast<std::size_t>(r.sequence)] = r.delivered();
  });
  // In pieces of any size, which must not matter.
  const std::span<const RequestSpec> requests = random.requests;
  for (std::size_t at = 0, piece = 0; at < requests.size(); at += piece) {
    piece = std::min<std::size_t>(1 + HashAt(7, at) % 9, requests.size() - at);
    engine->Feed(requests.subspan(at, piece));
  }
  const EngineResult result = engine->Finish();

  PoolParts slow_parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
  Witness slow_witness(slow_parts);
  TokenEngine reference(pool.setup, *pool.prices, *slow_parts.placement, slow_witness, slow_witness);
  slow_parts.ServeOracles(reference);
  reference.Run(random.requests);  // the pool's model numbers are the workload's: one pool takes all

  const auto [told, expected] = std::mismatch(fast_witness.entries.begin(), fast_witness.entries.end(),
                                              slow_witness.entries.begin(), slow_witness.entries.end());
  if (told != fast_witness.entries.end() || expected != slow_witness.entries.end()) {
    const auto text = [](const auto& at, const auto& log) { return at == log.end() ? "nothing" : at->Text(); };
    FAIL(Difference("what the policy is told", text(told, fast_witness.entries), text(expected, slow_witness.entries)));
  }
  const std::string difference = FirstDifference(s, *engine, result, seen, reference, random.requests);
  if (!difference.empty()) FAIL(difference);

  ++coverage.times["scenarios"];
  const bool over_nodes = std::any_of(engine->plan().begin(), engine->plan().end(),
                                      [](const InstanceFacts& f) { return f.shape.gpus() > f.shape.node_gpus; });
  coverage.times["instances over several nodes"] += over_nodes;
  coverage.times["spread experts"] += s.fleet.ep > 1;
  coverage.times["steps"] += reference.steps();
  coverage.times["preemptions"] += reference.preemptions();
  for (const TokenEngine::Record& r : reference.records()) {
    coverage.times["tokens"] += static_cast<std::int64_t>(r.tokens.size());
    ++coverage.times[OutcomeName(r.outcome)];
  }
  for (int f = 0; f < kWeightSources; ++f) coverage.times[fmt::format("from {}", f)] += reference.switching.from[f];
  coverage.times["prefetches in vain"] += reference.switching.prefetches - reference.switching.prefetch_hits();
  coverage.times["evictions"] += reference.switching.cache_evictions;
  const FailureMetrics& failures = reference.failures;
  for (int k = 0; k < kFailureKinds; ++k) {
    coverage.times[FailureKindName(static_cast<FailureKind>(k))] += failures.failures[k];
  }
  coverage.times["hit"] += failures.hit;
  coverage.times["retried"] += failures.retried;
  coverage.times["recomputed"] += failures.recomputed;
  coverage.times["moved"] += failures.moved;
  coverage.times["down"] += reference.activity[static_cast<std::size_t>(Activity::kDown)] > 0 ? 1 : 0;
  for (const TokenEngine::ModelTotals& t : reference.Totals()) {
    coverage.times["switches"] += t.switches;
    coverage.times["late tokens"] += t.output_tokens - t.on_time_tokens;
  }
  return true;
}

// A scenario by hand: a prefill takes 10 ms, a step decode_ms + per_token_ms x context, but at least floor_ms; a token has 10 MB
// of KV.
RandomScenario ByHand(const std::string& policy, const Json& params, double decode_ms, double per_token_ms, double floor_ms) {
  RandomScenario out;
  out.json["fleet"] = {{"gpu", "h100"}, {"gpus", 2}, {"memory_utilisation", 1}, {"reserve_gb", 0}};
  out.json["policy"] = {{"name", policy}, {"params", {{policy, params}}}};
  out.names = {"m"};
  Json model;
  model["match"] = "m";
  model["llm"] = "qwen2.5-7b";
  model["kv_bytes_per_token"] = 1e7;
  out.json["models"] = Json::array({model});
  out.json["kv"] = {{"block_tokens", 1}};
  Json row;
  row["llm"] = "qwen2.5-7b";
  row["prefill_ms"] = {{"base", 10}, {"per_token", 0}, {"per_token2", 0}};
  row["decode_ms"] = {{"base", decode_ms}, {"per_token", per_token_ms}, {"per_request", 0}};
  Json linear;
  linear["models"] = Json::array({row});
  linear["floor_us"] = 1000 * floor_ms;
  out.json["cost"] = {{"form", "linear"}, {"params", {{"linear", linear}}}};
  return out;
}

}  // namespace

TEST_CASE("A request that comes at the very moment at which two price lines cross joins after one more step", "[property]") {
  // The first request is prefilled by 10 ms and its KV takes 13.125 ms to the other instance. Steps take 10 ms as long as it has
  // at most 100 tokens; it has 21, so the lines cross 80 steps later, at 823.125 ms. That is when the prefill of the second one
  // ends, on the instance whose events come first.
  RandomScenario s = ByHand("dedicated", {{"replicas", 1}, {"prefill_replicas", 1}}, 9, 0.01, 10);
  s.json["switch"] = {{"handover_free", true}, {"kv_join_free", true}};
  s.requests = {{0, 0, 20, 300}, {813'125 * kPsPerUs, 0, 20, 5}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
}

TEST_CASE("Tokens that are late only in the middle of a run are late", "[property]") {
  // Steps shrink from 19 ms to 9 ms and the target is 14 ms: the request falls behind and catches up, all in one run.
  RandomScenario s = ByHand("dedicated", {{"replicas", 1}}, 20, -0.01, 0.001);
  s.json["slo"] = {{"ttft_slo_s", 0.6}, {"tbt_slo_s", 0.014}};
  s.requests = {{0, 0, 100, 1000}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["late tokens"] > 100);
  CHECK(coverage.times["late tokens"] < 900);
}

TEST_CASE("A policy sees how much of a prompt is prefilled, also in the middle of a run of pieces", "[property]") {
  RandomScenario s = ByHand("dedicated", {{"replicas", 1}, {"batching", "chunked"}, {"chunk_tokens", 8}}, 10, 0, 0.001);
  s.json["timeouts"] = {{"first_token_s", 0.1}, {"check", "exact"}};
  s.requests = {{0, 0, 1000, 5}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["timeout"] == 1);  // in its prefill
}

TEST_CASE("An instance that fails takes no requests from then on, also while those that it had are taken out", "[property]") {
  RandomScenario s = ByHand("dedicated", {{"replicas", 2}}, 10, 0, 0.001);
  s.outages = {{FailureKind::kGpu, 0, 505 * kPsPerMs, kPsPerSecond}};
  s.requests = {{0, 0, 20, 100}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["hit"] == 1);
}

TEST_CASE("A request that is done again runs on from the token that it had", "[property]") {
  RandomScenario s = ByHand("dedicated", {{"replicas", 2}}, 10, 0, 0.001);
  s.json["failures"] = {{"in_flight", "retry"}};
  s.outages = {{FailureKind::kGpu, 0, 505 * kPsPerMs, kPsPerSecond}};
  s.requests = {{0, 0, 20, 100}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["retried"] == 1);
  CHECK(coverage.times["tokens"] == 100);
}

TEST_CASE("Of an instance that fails while it prefills pieces no batch is left", "[property]") {
  RandomScenario s = ByHand("dedicated", {{"replicas", 2}, {"batching", "chunked"}, {"chunk_tokens", 8}}, 10, 0, 0.001);
  s.outages = {{FailureKind::kGpu, 0, 5 * kPsPerMs, kPsPerSecond}};
  s.requests = {{0, 0, 1000, 5}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["hit"] == 1);
}

TEST_CASE("A batch whose last member leaves while pieces of a prompt run beside it stays that of the run", "[property]") {
  // On instance 0 the first request pushes the third out to the host and ends at 0.61 s. Then the fifth is prefilled, and the
  // third, for which there is no room, is the only member of the batch: it moves to instance 1 in the middle of the pieces.
  RandomScenario s = ByHand(
      "dedicated", {{"replicas", 2}, {"routing", "round-robin"}, {"batching", "chunked"}, {"chunk_tokens", 4}}, 10, 0, 0.001);
  s.json["fleet"]["gpus_per_node"] = 1;
  s.json["models"][0]["kv_capacity_tokens"] = 100;
  s.json["kv"]["preemption"] = "swap";
  s.json["failures"] = {{"drains", {{{"at_s", 0.7}, {"nodes", 1}}}}};
  s.requests = {
      {0, 0, 40, 50}, {kPsPerMs, 0, 1, 1}, {2 * kPsPerMs, 0, 30, 30}, {3 * kPsPerMs, 0, 1, 1}, {500 * kPsPerMs, 0, 60, 5}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["moved"] == 1);
  CHECK(coverage.times["preemptions"] == 1);
}

TEST_CASE("What an uplink carries when it stands still is there at the end", "[property]") {
  // The prefill ends at 10 ms, and the KV never leaves.
  RandomScenario s = ByHand("dedicated", {{"replicas", 1}, {"prefill_replicas", 1}}, 10, 0, 0.001);
  s.json["failures"] = {{"links", {{"factor", 0}}}};
  for (const std::int64_t link : {0, 1}) s.outages.push_back({FailureKind::kLink, link, 5 * kPsPerMs, 1000 * kPsPerSecond});
  s.json["timeouts"] = {{"total_s", 1}, {"check", "exact"}};
  s.requests = {{0, 0, 20, 5}};
  Coverage coverage;
  CHECK(RunBoth(s, coverage));
  CHECK(coverage.times["timeout"] == 1);
  CHECK(coverage.times["tokens"] == 1);
  // It comes back after all that can be simulated.
  s.json.erase("timeouts");
  s.requests.front().arrival = 24 * 3600 * kPsPerSecond;
  for (ListedOutage& outage : s.outages) {
    outage.at += s.requests.front().arrival;
    outage.lasts = PsFromSeconds(kMaxSeconds);
  }
  Coverage stuck;
  CHECK(RunBoth(s, stuck));
  CHECK(stuck.times["unfinished"] == 1);
}

TEST_CASE("Every policy gives each request its tokens at the same picosecond as token by token", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    Coverage coverage;
    int feasible = 0, tried = 0;
    for (; feasible < kScenarios && tried < 4 * kScenarios; ++tried) {
      const RandomScenario random = MakeRandomScenario(policy, static_cast<std::uint64_t>(tried));
      INFO("policy " << policy.name << ", random scenario " << tried << "\n" << random.Text());
      if (RunBoth(random, coverage)) ++feasible;
    }
    std::string text = fmt::format("{}: {} scenarios, {} infeasible", policy.name, feasible, tried - feasible);
    for (const auto& [what, n] : coverage.times) text += fmt::format(", {} {}", n, what);
    INFO(text);
    // The comparison says something only where things happen.
    CHECK(feasible >= 200);
    CHECK(coverage.times["finished"] > 1000);
    CHECK(coverage.times["steps"] > 10000);
    CHECK(coverage.times["late tokens"] > 1000);
    CHECK(coverage.times["preemptions"] > 20);
    CHECK(coverage.times["timeout"] > 50);
    CHECK(coverage.times["unfinished"] > 20);
    CHECK(coverage.times["kv_prompt"] > 10);
    CHECK(coverage.times["instances over several nodes"] > 10);
    if (std::getenv("POOLSIM_TEST_COVERAGE") != nullptr) fmt::print("{}\n", text);
  }
}

TEST_CASE("Whatever fails, every policy gives each request its tokens at the same picosecond as token by token", "[property]") {
  constexpr std::uint64_t kFirstSeed = 1u << 23;  // others than those of the other tests
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    std::map<std::string, Coverage> by_sort;
    for (const std::string& sort : SortsOfFailures()) {
      Coverage& coverage = by_sort[sort];
      int feasible = 0;
      for (std::uint64_t seed = kFirstSeed; feasible < kWithFailures && seed < kFirstSeed + 4 * kWithFailures; ++seed) {
        RandomScenario random = MakeRandomScenario(policy, seed);
        AddFailures(random, sort, seed);
        INFO("policy " << policy.name << ", " << sort << ", random scenario " << seed << "\n" << random.Text());
        if (RunBoth(random, coverage)) ++feasible;
      }
      std::string text = fmt::format("{}, {}: {} scenarios", policy.name, sort, feasible);
      for (const auto& [what, n] : coverage.times) text += fmt::format(", {} {}", n, what);
      if (std::getenv("POOLSIM_TEST_COVERAGE") != nullptr) fmt::print("{}\n", text);
      INFO(text);
      CHECK(feasible >= kWithFailures / 2);
      CHECK(coverage.times["finished"] > 50);
    }
    INFO("policy " << policy.name);
    // Each sort has done what it does, and all that may become of a request has.
    for (const char* kind : {"gpu", "node", "cache", "link"}) CHECK(by_sort[std::string(kind) + "s"].times[kind] > 50);
    CHECK(by_sort["drains"].times["drain"] > 10);
    std::map<std::string, std::int64_t> all;
    for (const auto& [sort, coverage] : by_sort) {
      for (const auto& [what, n] : coverage.times) all[what] += n;
    }
    for (const char* what : {"hit", "retried", "lost", "moved", "recomputed"}) {
      INFO(what);
      CHECK(all[what] > 50);
    }
    for (const char* sort : {"gpus", "nodes", "drains", "list", "together"}) {
      INFO(sort);
      CHECK(by_sort[sort].times["down"] > 10);
      CHECK(by_sort[sort].times["hit"] > 0);
    }
    for (const char* sort : {"caches", "links", "stragglers"}) CHECK(by_sort[sort].times["down"] == 0);
  }
}

}  // namespace poolsim
