#include "sim/cli/text_report.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "sim/foreign.h"
#include "sim/policy.h"
#include "sim/report.h"

namespace poolsim {
namespace {

constexpr std::size_t kLabel = 16;  // where the values of the report start

std::string Item(const Style& style, const std::string& label, const std::string& text) {
  const std::string start = "  " + label + std::string(kLabel - 2 - std::min(kLabel - 3, label.size()), ' ');
  return style.Dim(start) + Wrap(text, kPageWidth, kLabel, kLabel) + "\n";
}

std::string Fleet(const Scenario& scenario, const RunResult& result) {
  std::vector<std::string> kinds;
  for (const PoolConfig& pool : scenario.Pools()) {
    if (std::find(kinds.begin(), kinds.end(), pool.fleet.gpu) == kinds.end()) kinds.push_back(pool.fleet.gpu);
  }
  const std::string pools = scenario.pools.size() > 1 ? fmt::format(" in {} pools", scenario.pools.size()) : "";
  return fmt::format("{} x {}{}", Count(result.gpus), fmt::join(kinds, " / "), pools);
}

std::string Title(const std::string& command, const Scenario& scenario) {
  return fmt::format("{} {}", command, scenario.name.empty() ? scenario.file : scenario.name);
}

std::string Workload(const WorkloadFacts& facts) {
  std::string text = fmt::format("{} to {}", Plural(facts.seen.requests, "request"),
                                 Plural(static_cast<std::int64_t>(facts.names.models().size()), "model"));
  if (facts.seen.last_arrival > 0) text += " over " + Duration(ToSeconds(facts.seen.last_arrival));
  return text;
}

std::string RequestsText(const RunResult& result) {
  const ModelMetrics& m = result.total;
  const auto count = [&m](Outcome outcome) { return m.outcomes[static_cast<std::size_t>(outcome)]; };
  std::string text = fmt::format("{} finished, {} failed", Count(count(Outcome::kFinished)), Count(FailedRequests(m)));
  std::vector<std::string> reasons;
  for (const Outcome why : {Outcome::kTimeout, Outcome::kKvPrompt, Outcome::kKvGrowth, Outcome::kLost}) {
    if (count(why) > 0) reasons.push_back(fmt::format("{} {}", Count(count(why)), OutcomeName(why)));
  }
  if (!reasons.empty()) text += fmt::format(" ({})", fmt::join(reasons, ", "));
  if (count(Outcome::kPending) > 0) text += fmt::format(", {} unfinished", Count(count(Outcome::kPending)));
  if (result.requests > m.requests)
    text += fmt::format("; {} more in the warm-up, not counted", Count(result.requests - m.requests));
  return text;
}

// Where the weights came from, and how long that took.
std::string SwitchText(const RunResult& result, const Style& style) {
  const SwitchMetrics& s = result.switching;
  if (s.latency.count() == 0) return "";
  std::vector<std::string> from;
  const char* const names[] = {"resident",  "prefetched",         "being prefetched", "from the host cache",
                               "from NVMe", "from a remote store"};
  for (int i = 0; i < kWeightSources; ++i) {
    if (s.from[i] > 0) from.push_back(fmt::format("{} {}", Count(s.from[i]), names[i]));
  }
  std::string out = Item(style, "weights", fmt::format("{}", fmt::join(from, ", ")));
  out += Item(style, "switch time",
              fmt::format("mean {}, p50 {}, p90 {}, p99 {}, max {}", Duration(s.latency.MeanSeconds()),
                          Duration(ToSeconds(s.latency.Quantile(0.5))), Duration(ToSeconds(s.latency.Quantile(0.9))),
                          Duration(ToSeconds(s.latency.Quantile(0.99))), Duration(ToSeconds(s.latency.max()))));
  if (s.prefetches > 0) {
    out += Item(style, "prefetches",
                fmt::format("{}: {} used, {} in vain", Count(s.prefetches), Count(s.prefetch_hits()),
                            Count(s.prefetches - s.prefetch_hits())));
  }
  return out;
}

std::string FailuresText(const RunResult& result) {
  const FailureMetrics& f = result.failures;
  const auto of = [&f](FailureKind kind) { return f.failures[static_cast<std::size_t>(kind)]; };
  std::string text =
      fmt::format("{} % of GPU time down; {} taken down by GPUs, {} by nodes, {} by drains", Percent(UtilisationOf(result).down),
                  Plural(of(FailureKind::kGpu), "instance"), Count(of(FailureKind::kNode)), Count(of(FailureKind::kDrain)));
  if (of(FailureKind::kCache) + of(FailureKind::kLink) > 0)
    text += fmt::format("; {} of weight caches, {} of uplinks", Count(of(FailureKind::kCache)), Count(of(FailureKind::kLink)));
  return text + fmt::format("; requests hit {}: {} done again ({}), {} lost; {} moved", Plural(f.hit, "time"), Count(f.retried),
                            Plural(f.recomputed, "token"), Count(f.lost), Count(f.moved));
}

// One letter per 2 % of the GPU-time owned.
std::string UtilisationBar(const Utilisation& u) {
  constexpr double kCells = 50;
  std::string bar;
  double sum = 0;
  const auto fill = [&](double share, char letter) {
    sum += share;
    bar.resize(static_cast<std::size_t>(std::lround(std::clamp(sum, 0.0, 1.0) * kCells)), letter);
  };
  fill(u.prefill, 'P');
  fill(u.decode, 'D');
  fill(u.switching, 'S');
  fill(u.kv_copy, 'K');
  fill(u.down, 'x');
  bar.resize(static_cast<std::size_t>(kCells), '.');
  return bar;
}

std::string LatencyTable(const ModelMetrics& m, const Style& style) {
  std::vector<Column> columns = {{"latency", Align::kLeft, ""}};
  for (const char* title : {"mean", "p50", "p90", "p99", "max"}) columns.push_back({title, Align::kRight, ""});
  Table table(std::move(columns));
  const auto row = [&table](const char* name, const Histogram& h) {
    if (h.count() == 0) return table.Remark(name, "-");
    table.Row({name, Duration(h.MeanSeconds()), Duration(ToSeconds(h.Quantile(0.5))), Duration(ToSeconds(h.Quantile(0.9))),
               Duration(ToSeconds(h.Quantile(0.99))), Duration(ToSeconds(h.max()))});
  };
  row("TTFT, to the first token", m.ttft);
  row("TBT, between tokens", m.tbt);
  row("TPOT, mean per request", m.tpot);
  row("E2E, to the last token", m.e2e);
  return table.Text(style, 2);
}

// Rows of the trace that are no requests here.
std::string LeftOut(const WorkloadFacts& facts, const Style& style) {
  const SourceCounts& counts = facts.seen.counts;
  std::string out;
  if (counts.rows_failed > 0)
    out += Item(style, "left out", Plural(counts.rows_failed, "request") + " that failed where the trace was taken");
  if (counts.rows_skipped > 0)
    out += Item(style, "skipped", fmt::format("{}; the first: {}", Plural(counts.rows_skipped, "bad row"), counts.first_skipped));
  return out;
}

// A quantile in the unit of its column, at most five characters.
std::string QuantileCell(const Histogram& h, double q, double per_second) {
  if (h.count() == 0) return "-";
  const double value = ToSeconds(h.Quantile(q)) * per_second;
  return value < 999.5 ? Number(value) : ShortCount(value);
}

void CompareRow(const Scenario& scenario, const RunResult& r, Table& table) {
  if (!r.feasible) return table.Remark(r.policy, "infeasible: " + r.reason);
  const ModelMetrics& m = r.total;
  const Attainment a = AttainmentOf(m);
  const double models_per_gpu = static_cast<double>(r.models.size()) / static_cast<double>(std::max<std::int64_t>(r.gpus, 1));
  table.Row({r.policy, fmt::format("{}", r.gpus), Number(models_per_gpu), Percent(a.service), Percent(a.token),
             Percent(a.request), QuantileCell(m.ttft, 0.5, 1), QuantileCell(m.ttft, 0.99, 1), QuantileCell(m.tbt, 0.99, 1e3),
             Percent(UtilisationOf(r).busy), ShortCount(static_cast<double>(m.switches)),
             ShortCount(static_cast<double>(FailedRequests(m))), ShortCount(Goodput(scenario, r))});
}

bool IsOracle(const std::string& policy) {
  const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(policy);
  return entry != nullptr && entry->oracle;
}

bool OwnsFleet(const std::string& policy) {
  const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(policy);
  return entry != nullptr && entry->owns_fleet;
}

// The pooled policy that serves best; one that knows the future only when there is no other.
const RunResult* BestPooled(const std::vector<RunResult>& results) {
  const RunResult* best = nullptr;
  for (const RunResult& r : results) {
    if (!r.feasible || OwnsFleet(r.policy)) continue;
    const auto rank = [](const RunResult& x) { return std::pair(!IsOracle(x.policy), AttainmentOf(x.total).service); };
    if (best == nullptr || rank(r) > rank(*best)) best = &r;
  }
  return best;
}

}  // namespace

std::string RunReport(const Scenario& scenario, const WorkloadFacts& facts, const RunResult& result, const Style& style) {
  const ModelMetrics& m = result.total;
  const Attainment a = AttainmentOf(m);
  const Utilisation u = UtilisationOf(result);
  const double gpu_hours = static_cast<double>(result.owned) / 1e12 / 3600;

  std::string out = style.Bold(Title("run", scenario)) + "\n";
  out += Item(style, "policy", result.policy);
  out += Item(style, "workload", Workload(facts) + ", simulated until " + Duration(ToSeconds(result.end)));
  out += LeftOut(facts, style);
  std::string gpus =
      fmt::format("{} ({}), {} models per GPU, {} GPU-hours", Fleet(scenario, result), Plural(result.instances, "instance"),
                  Number(static_cast<double>(result.models.size()) / static_cast<double>(std::max<std::int64_t>(result.gpus, 1))),
                  Number(gpu_hours));
  if (result.stranded_gpus > 0) gpus += fmt::format(", {} more stranded by whole groups", Plural(result.stranded_gpus, "GPU"));
  if (result.cost_usd) gpus += fmt::format(", {} USD", Number(*result.cost_usd));
  if (result.energy_kwh) {
    gpus += fmt::format(", at most {} kWh ({} kW; {} kW with all at work)", Number(*result.energy_kwh),
                        Number(*result.energy_kwh * 3600 / ToSeconds(result.end)), Number(result.peak_power_kw.value_or(0)));
  }
  out += Item(style, "GPUs", gpus);
  out += Item(style, "requests", RequestsText(result));
  out += Item(style, "tokens",
              fmt::format("{} prompt, {} output, {} on time a second", Count(m.prompt_tokens), Count(m.output_tokens),
                          ShortCount(Goodput(scenario, result))));
  out += Item(style, "within target",
              fmt::format("{} % of service time, {} % of tokens, {} % of requests ({} % gap by gap)", Percent(a.service),
                          Percent(a.token), Percent(a.request), Percent(a.request_gaps)));
  // Where all models fare alike there is nothing to say.
  if (!result.tenants.empty()) {
    const auto worst = std::min_element(result.tenants.begin(), result.tenants.end(), [](const TenantRow& x, const TenantRow& y) {
      return AttainmentOf(x.metrics).service < AttainmentOf(y.metrics).service;
    });
    out +=
        Item(style, "tenants",
             fmt::format("{}; {} % of service time for the worst, {}; Jain's index {:.3f}", result.tenants.size(),
                         Percent(AttainmentOf(worst->metrics).service), ForMessage(worst->name), FairnessOfTenants(result).jain));
  }
  if (const Fairness fairness = FairnessOf(result); fairness.worst_decile < a.service - 0.0005) {
    out += Item(style, "fairness",
                fmt::format("{} % of service time for the worst tenth of models; Jain's index {:.3f}",
                            Percent(fairness.worst_decile), fairness.jain));
  }
  out += "\n" + LatencyTable(m, style) + "\n";
  out += Item(style, "GPU time", fmt::format("[{}] {} % busy", UtilisationBar(u), Percent(u.busy)));
  out += Item(style, "",
              fmt::format("{} % Prefill, {} % Decode, {} % Switch, {} % KV copy, {} % idle", Percent(u.prefill),
                          Percent(u.decode), Percent(u.switching), Percent(u.kv_copy), Percent(u.idle)));
  if (result.failing) out += Item(style, "failures", FailuresText(result));
  out += Item(style, "switches",
              fmt::format("{}; {} of weights and {} of KV cache moved; {} models active on average", Count(m.switches),
                          ByteSize(static_cast<double>(result.weight_bytes_moved)),
                          ByteSize(static_cast<double>(result.kv_bytes_moved)), Number(result.active_models_mean)));
  out += SwitchText(result, style);
  out += Item(style, "simulation",
              fmt::format("{}, {} requests/s, {}, {} MB, fingerprint {:016x}", Duration(result.wall_s),
                          ShortCount(static_cast<double>(result.requests) / std::max(result.wall_s, 1e-9)),
                          Plural(result.events, "event"), Count(std::llround(result.peak_rss_mb)), result.fingerprint));
  return out;
}

std::string CompareReport(const Scenario& scenario, const WorkloadFacts& facts, const std::vector<RunResult>& results,
                          const Style& style) {
  std::string out = style.Bold(Title("compare", scenario)) + ": " + Workload(facts) + "\n";
  out += LeftOut(facts, style);
  out += "\n";
  Table table({{"policy", Align::kLeft, ""},
               {"GPUs", Align::kRight, ""},
               {"/GPU", Align::kRight, "LLMs"},
               {"time", Align::kRight, "% within target"},
               {"token", Align::kRight, "% within target"},
               {"reqs", Align::kRight, "% within target"},
               {"p50", Align::kRight, "TTFT, s"},
               {"p99", Align::kRight, "TTFT, s"},
               {"p99,ms", Align::kRight, "TBT"},
               {"%", Align::kRight, "busy"},
               {"switch", Align::kRight, "model"},
               {"fail", Align::kRight, "reqs"},
               {"tok/s", Align::kRight, "on-time"}});
  for (const RunResult& r : results) CompareRow(scenario, r, table);
  out += table.Text(style);
  const std::string savings = Savings(results);
  if (!savings.empty()) out += "\n" + Wrap(savings, kPageWidth, 0, 0) + "\n";
  for (const RunResult& r : results) {
    if (r.feasible && IsOracle(r.policy))
      out += fmt::format("({} is an oracle: it is told how long answers will be.)\n", r.policy);
  }
  return out;
}

std::string Savings(const std::vector<RunResult>& results) {
  const RunResult* best = BestPooled(results);
  const auto dedicated =
      std::find_if(results.begin(), results.end(), [](const RunResult& r) { return r.feasible && OwnsFleet(r.policy); });
  if (best == nullptr || dedicated == results.end()) return "";
  const std::string requests = Plural(best->total.requests, "request");
  const std::string quality =
      fmt::format("{} % of service time within target ({}: {} %)", Percent(AttainmentOf(best->total).service), dedicated->policy,
                  Percent(AttainmentOf(dedicated->total).service));
  if (best->gpus >= dedicated->gpus) {
    return fmt::format("Pooling saves nothing here: {} serves the {} on {} with {}, where {} needs {}.", best->policy, requests,
                       Plural(best->gpus, "GPU"), quality, dedicated->policy, Count(dedicated->gpus));
  }
  const double saved = 1 - static_cast<double>(best->gpus) / static_cast<double>(dedicated->gpus);
  return fmt::format("{} serves the same {} on {} instead of {} (-{} %), with {}.", best->policy, requests,
                     Plural(best->gpus, "GPU"), Count(dedicated->gpus),
                     saved < 0.99 ? fmt::format("{:.0f}", saved * 100) : Percent(saved), quality);
}

}  // namespace poolsim
