#include "sim/report.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <numeric>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/time.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

double Ratio(double part, double whole, double of_nothing) { return whole > 0 ? part / whole : of_nothing; }
double Ratio(std::int64_t part, std::int64_t whole, double of_nothing) {
  return Ratio(static_cast<double>(part), static_cast<double>(whole), of_nothing);
}

// Simulated times are exact; nine digits keep a long run's last milliseconds.
double Seconds(TimePs t) { return Rounded(ToSeconds(t), 9); }

Json Latencies(const Histogram& h) {
  Json json;
  json["mean"] = Rounded(h.MeanSeconds());
  json["p50"] = Rounded(ToSeconds(h.Quantile(0.50)));
  json["p90"] = Rounded(ToSeconds(h.Quantile(0.90)));
  json["p99"] = Rounded(ToSeconds(h.Quantile(0.99)));
  json["max"] = Rounded(ToSeconds(h.max()));
  return json;
}

// Per finished request.
Json Breakdown(const ModelMetrics& m) {
  constexpr std::array<const char*, kSpells> kNames = {"prefill_wait", "prefill", "decode_wait", "decode", "switch", "kv"};
  Json json;
  for (std::size_t i = 0; i < kNames.size(); ++i)
    json[kNames[i]] = Rounded(Ratio(static_cast<double>(m.spent[i]) * 1e-12, static_cast<double>(m.e2e.count()), 0));
  return json;
}

double Unused(__int128 used, __int128 held) { return Ratio(static_cast<double>(held - used), static_cast<double>(held), 0); }

std::int64_t Count(const ModelMetrics& m, Outcome outcome) { return m.outcomes[static_cast<std::size_t>(outcome)]; }

std::string Fingerprint(const RunResult& result) { return fmt::format("{:016x}", result.fingerprint); }

Json Requests(const RunResult& result) {
  const ModelMetrics& m = result.total;
  Json failed_by;
  for (const Outcome why : {Outcome::kTimeout, Outcome::kKvPrompt, Outcome::kKvGrowth})
    failed_by[OutcomeName(why)] = Count(m, why);
  if (result.failing) failed_by[OutcomeName(Outcome::kLost)] = Count(m, Outcome::kLost);
  Json json;
  json["total"] = m.requests;
  json["finished"] = Count(m, Outcome::kFinished);
  json["failed"] = FailedRequests(m);
  json["unfinished"] = Count(m, Outcome::kPending);
  json["failed_by"] = std::move(failed_by);
  json["warmup"] = result.requests - m.requests;
  return json;
}

// Cells of one line, joined.
class CsvLine {
 public:
  CsvLine& Text(std::string_view text) { return Cell(CsvCell(text)); }
  CsvLine& Int(std::int64_t value) { return Cell(fmt::format("{}", value)); }
  CsvLine& Real(double value) { return Cell(fmt::format("{}", Rounded(value))); }
  CsvLine& Time(TimePs value) { return Cell(fmt::format("{}", Seconds(value))); }
  void End(std::string& out) { out += line_ + "\n"; }

 private:
  CsvLine& Cell(const std::string& text) {
    if (!first_) line_ += ',';
    first_ = false;
    line_ += text;
    return *this;
  }
  std::string line_;
  bool first_ = true;
};

constexpr const char* kMetricsColumns =
    "requests,finished_requests,failed_requests,unfinished_requests,prompt_tokens,output_tokens,"
    "attainment_token,attainment_service,attainment_request,attainment_request_gaps,"
    "ttft_mean_s,ttft_p50_s,ttft_p99_s,tbt_mean_s,tbt_p50_s,tbt_p99_s,tpot_mean_s,tpot_p50_s,tpot_p99_s,"
    "e2e_mean_s,e2e_p50_s,e2e_p99_s,switches,busy_gpu_s\n";

// The rest of a line, under kMetricsColumns.
void EndWith(const ModelMetrics& m, CsvLine& line, std::string& out) {
  const Attainment attainment = AttainmentOf(m);
  line.Int(m.requests).Int(Count(m, Outcome::kFinished)).Int(FailedRequests(m)).Int(Count(m, Outcome::kPending));
  line.Int(m.prompt_tokens).Int(m.output_tokens);
  line.Real(attainment.token).Real(attainment.service).Real(attainment.request).Real(attainment.request_gaps);
  for (const Histogram* h : {&m.ttft, &m.tbt, &m.tpot, &m.e2e}) {
    line.Real(h->MeanSeconds()).Real(ToSeconds(h->Quantile(0.50))).Real(ToSeconds(h->Quantile(0.99)));
  }
  line.Int(m.switches).Real(static_cast<double>(m.busy) * 1e-12).End(out);
}

// Nested keys joined with dots, in the order of the document. Lists do not occur.
void Flatten(const Json& json, const std::string& prefix, std::vector<std::pair<std::string, Json>>& out) {
  for (const auto& [key, value] : json.items()) {
    if (value.is_object()) {
      Flatten(value, prefix + key + ".", out);
    } else {
      out.emplace_back(prefix + key, value);
    }
  }
}

Json Workload(const Scenario& scenario, const WorkloadFacts& facts) {
  Json json;
  if (!scenario.workload.path.empty()) json["path"] = scenario.workload.path;
  if (!scenario.workload.source.empty()) json["source"] = scenario.workload.source;
  if (!scenario.workload.market.is_null()) json["source"] = "market";
  json["requests"] = facts.seen.requests;
  json["models"] = facts.names.models().size();
  json["last_arrival_s"] = Seconds(facts.seen.last_arrival);
  json["rows_read"] = facts.seen.counts.rows_read;
  json["rows_failed"] = facts.seen.counts.rows_failed;
  json["rows_skipped"] = facts.seen.counts.rows_skipped;
  json["first_skipped"] = facts.seen.counts.first_skipped;
  return json;
}

std::int64_t From(const SwitchMetrics& s, WeightSource source) { return s.from[static_cast<std::size_t>(source)]; }

Json Switching(const SwitchMetrics& s) {
  Json json;
  json["from"] = Json{{"resident", From(s, WeightSource::kResident)},
                      {"prefetched", From(s, WeightSource::kPrefetched)},
                      {"prefetching", From(s, WeightSource::kPrefetching)},
                      {"host_cache", From(s, WeightSource::kHostCache)},
                      {"nvme", From(s, WeightSource::kNvme)},
                      {"remote", From(s, WeightSource::kRemote)}};
  json["latency_s"] = Latencies(s.latency);
  json["stages_s"] = Json{
      {"engine_init", Seconds(s.engine_init)}, {"weights", Seconds(s.weights)}, {"copy", Seconds(s.copy)}, {"kv", Seconds(s.kv)}};
  json["prefetches"] = Json{{"started", s.prefetches}, {"hits", s.prefetch_hits()}, {"misses", s.prefetches - s.prefetch_hits()}};
  json["host_cache"] = Json{{"hits", s.cache_hits}, {"misses", s.cache_misses}, {"evictions", s.cache_evictions}};
  json["bytes_from"] = Json{{"host_cache", s.bytes[static_cast<std::size_t>(Tier::kHostCache)]},
                            {"nvme", s.bytes[static_cast<std::size_t>(Tier::kNvme)]},
                            {"remote", s.bytes[static_cast<std::size_t>(Tier::kRemote)]}};
  return json;
}

Json Failures(const RunResult& result) {
  const FailureMetrics& f = result.failures;
  Json json;
  json["down_gpu_hours"] = Rounded(static_cast<double>(result.activity[static_cast<std::size_t>(Activity::kDown)]) / 1e12 / 3600);
  Json by;
  for (int k = 0; k < kFailureKinds; ++k) by[FailureKindName(static_cast<FailureKind>(k))] = f.failures[k];
  json["by"] = std::move(by);
  json["requests"] = Json{{"hit", f.hit}, {"retried", f.retried}, {"lost", f.lost}, {"moved", f.moved}};
  json["tokens_recomputed"] = f.recomputed;
  return json;
}

std::string Reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void RefuseFolder(const std::string& shown, const std::string& why) {
  throw InputError(fmt::format("{}: cannot write results there: {}", shown, why));
}

// Folders of results are replaced without a question, so nothing else may be taken for one: it has our manifest, and nothing but
// the files that the manifest lists.
std::string WhyNotOurs(const fs::path& folder) {
  const fs::path manifest_file = folder / "manifest.json";
  std::error_code error;
  if (!fs::is_regular_file(manifest_file, error))
    return "the folder is not empty, and is no results folder (it has no manifest.json)";
  Json manifest;
  try {
    manifest = ParseJson(ReadWholeFile(manifest_file.string()), manifest_file.string());
  } catch (const InputError&) {
    return "the folder's manifest.json is not one of poolsim's";
  }
  if (!manifest.is_object() || !manifest.contains("poolsim_version") || !manifest.contains("files") ||
      !manifest["files"].is_array()) {
    return "the folder's manifest.json is not one of poolsim's";
  }
  const Json& listed = manifest["files"];
  for (auto at = fs::recursive_directory_iterator(folder, error); at != fs::end(at); at.increment(error)) {
    if (error) return error.message();
    if (at->is_directory(error) && !at->is_symlink(error)) continue;
    const std::string name = at->path().lexically_relative(folder).generic_string();
    if (name == "manifest.json") continue;
    if (std::find(listed.begin(), listed.end(), Json(name)) == listed.end()) {
      return fmt::format("it holds {}, which poolsim did not write; name another folder", name);
    }
  }
  return error ? error.message() : "";
}

// What runs that were killed left beside `target`: ".NAME.tmp-PID" of processes that are no more.
void RemoveLeftOvers(const fs::path& target) {
  const std::string begins = fmt::format(".{}.tmp-", target.filename().string());
  std::error_code error;
  std::vector<fs::path> dead;
  for (auto at = fs::directory_iterator(target.parent_path(), error); !error && at != fs::end(at); at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.compare(0, begins.size(), begins) != 0) continue;
    const char* const end = name.data() + name.size();
    pid_t pid = 0;
    const auto read = std::from_chars(name.data() + begins.size(), end, pid);
    const bool ours = read.ec == std::errc() && pid > 0 && (read.ptr == end || std::string_view(read.ptr) == ".old");
    if (ours && kill(pid, 0) != 0 && errno == ESRCH) dead.push_back(at->path());
  }
  for (const fs::path& path : dead) fs::remove_all(path, error);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------- numbers

double Rounded(double value, int digits) {
  if (!std::isfinite(value)) return 0;
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific, digits - 1).ptr;
  double rounded = 0;
  std::from_chars(text.data(), end, rounded);
  return rounded == 0 ? 0 : rounded;  // no negative zero
}

Attainment AttainmentOf(const ModelMetrics& m) {
  Attainment a;
  a.token = Ratio(m.on_time_tokens, m.wanted_tokens, 1);
  a.service = Ratio(m.service, static_cast<double>(m.requests), 1);
  a.request = Ratio(m.on_time_requests, m.requests, 1);
  a.request_gaps = Ratio(m.smooth_requests, m.requests, 1);
  return a;
}

namespace {

// Rows of models or of tenants.
template <class Rows>
Fairness FairnessAmong(const Rows& rows) {
  std::vector<double> shares;
  for (const auto& row : rows) {
    if (row.metrics.requests > 0) shares.push_back(AttainmentOf(row.metrics).service);
  }
  Fairness fairness;
  if (shares.empty()) return fairness;
  std::sort(shares.begin(), shares.end());
  double sum = 0, squares = 0;
  for (const double x : shares) {
    sum += x;
    squares += x * x;
  }
  fairness.jain = Ratio(sum * sum, static_cast<double>(shares.size()) * squares, 1);
  const std::size_t worst = (shares.size() + 9) / 10;
  fairness.worst_decile =
      std::accumulate(shares.begin(), shares.begin() + static_cast<std::ptrdiff_t>(worst), 0.0) / static_cast<double>(worst);
  return fairness;
}

}  // namespace

Fairness FairnessOf(const RunResult& result) { return FairnessAmong(result.models); }
Fairness FairnessOfTenants(const RunResult& result) { return FairnessAmong(result.tenants); }

Utilisation UtilisationOf(const RunResult& result) {
  const auto share = [&result](Activity activity) {
    return Ratio(static_cast<double>(result.activity[static_cast<std::size_t>(activity)]), static_cast<double>(result.owned), 0);
  };
  Utilisation u;
  u.prefill = share(Activity::kPrefill);
  u.decode = share(Activity::kDecode);
  u.switching = share(Activity::kSwitch);
  u.kv_copy = share(Activity::kKvCopy);
  u.down = share(Activity::kDown);
  u.busy = u.prefill + u.decode + u.switching + u.kv_copy;
  u.idle = 1 - u.busy - u.down;
  return u;
}

std::int64_t FailedRequests(const ModelMetrics& m) {
  return Count(m, Outcome::kTimeout) + Count(m, Outcome::kKvPrompt) + Count(m, Outcome::kKvGrowth) + Count(m, Outcome::kLost);
}

double Goodput(const Scenario& scenario, const RunResult& result) {
  const double measured_s = ToSeconds(result.end) - scenario.metrics.warmup_s;
  return Ratio(static_cast<double>(result.total.on_time_tokens), measured_s, 0);
}

// --------------------------------------------------------------------------------------------------------------- texts

Json SummaryJson(const Scenario& scenario, const RunResult& result) {
  Json json;
  json["policy"] = result.policy;
  json["status"] = result.feasible ? "ok" : "infeasible";
  json["reason"] = result.reason;
  if (!result.feasible) return json;

  const ModelMetrics& m = result.total;
  json["gpus"] = result.gpus;
  json["stranded_gpus"] = result.stranded_gpus;
  json["instances"] = result.instances;
  json["models"] = result.models.size();
  json["models_per_gpu"] = Rounded(Ratio(static_cast<std::int64_t>(result.models.size()), result.gpus, 0));
  json["gpu_hours"] = Rounded(static_cast<double>(result.owned) / 1e12 / 3600);
  json["cost_usd"] = result.cost_usd ? Json(Rounded(*result.cost_usd)) : Json();
  json["energy_kwh"] = result.energy_kwh ? Json(Rounded(*result.energy_kwh)) : Json();
  const double hours = ToSeconds(result.end) / 3600;
  json["power_kw"] = Json{{"mean", result.energy_kwh ? Json(Rounded(Ratio(*result.energy_kwh, hours, 0))) : Json()},
                          {"peak", result.peak_power_kw ? Json(Rounded(*result.peak_power_kw)) : Json()}};
  json["simulated_s"] = Seconds(result.end);
  json["wall_s"] = Rounded(result.wall_s);
  json["peak_rss_mb"] = Rounded(result.peak_rss_mb);
  json["events"] = result.events;
  json["fingerprint"] = Fingerprint(result);
  json["requests"] = Requests(result);
  json["tokens"] = Json{{"prompt", m.prompt_tokens}, {"output", m.output_tokens}};
  const Attainment a = AttainmentOf(m);
  json["attainment"] = Json{{"token", Rounded(a.token)},
                            {"service", Rounded(a.service)},
                            {"request", Rounded(a.request)},
                            {"request_gaps", Rounded(a.request_gaps)}};
  const Fairness fairness = FairnessOf(result);
  json["fairness"] = Json{{"jain", Rounded(fairness.jain)}, {"worst_decile", Rounded(fairness.worst_decile)}};
  if (!scenario.tenants.empty()) {
    const Fairness among = FairnessOfTenants(result);
    json["fairness"]["tenants"] =
        Json{{"count", result.tenants.size()}, {"jain", Rounded(among.jain)}, {"worst_decile", Rounded(among.worst_decile)}};
  }
  json["goodput_tokens_per_s"] = Rounded(Goodput(scenario, result));
  json["ttft_s"] = Latencies(m.ttft);
  json["tbt_s"] = Latencies(m.tbt);
  json["tpot_s"] = Latencies(m.tpot);
  json["e2e_s"] = Latencies(m.e2e);
  json["breakdown_s"] = Breakdown(m);
  json["kv_sync_s"] = Latencies(result.switching.kv_sync);
  const Utilisation u = UtilisationOf(result);
  json["utilisation"] = Json{{"busy", Rounded(u.busy)},        {"prefill", Rounded(u.prefill)}, {"decode", Rounded(u.decode)},
                             {"switch", Rounded(u.switching)}, {"kv_copy", Rounded(u.kv_copy)}, {"idle", Rounded(u.idle)}};
  if (result.failing) {
    json["utilisation"]["down"] = Rounded(u.down);
    json["failures"] = Failures(result);
  }
  json["switches"] = m.switches;
  json["switching"] = Switching(result.switching);
  json["kv_fragmentation"] = Json{{"blocks", Rounded(Unused(result.kv_held.tokens, result.kv_held.blocks))},
                                  {"slabs", Rounded(Unused(result.kv_held.tokens, result.kv_held.slabs))}};
  json["bytes_moved"] = Json{{"weights", result.weight_bytes_moved}, {"kv", result.kv_bytes_moved}};
  json["active_models_mean"] = Rounded(result.active_models_mean);
  return json;
}

std::string ModelsCsv(const RunResult& result) {
  std::string out = std::string("model,llm,pool,") + kMetricsColumns;
  for (const ModelRow& row : result.models) {
    CsvLine line;
    line.Text(row.name).Text(row.llm).Text(row.pool);
    EndWith(row.metrics, line, out);
  }
  return out;
}

std::string TenantsCsv(const RunResult& result) {
  std::string out = std::string("tenant,models,") + kMetricsColumns;
  for (const TenantRow& row : result.tenants) {
    CsvLine line;
    line.Text(row.name).Int(row.models);
    EndWith(row.metrics, line, out);
  }
  return out;
}

std::string WindowsCsv(const RunResult& result) {
  const int activities = result.failing ? kActivities : kWork;
  std::string out = fmt::format(
      "window_start_s,arrived_requests,finished_requests,failed_requests,output_tokens,on_time_tokens,switches,"
      "prefill_fraction,decode_fraction,switch_fraction,kv_copy_fraction,{}active_models_mean,service_attainment\n",
      result.failing ? "down_fraction," : "");
  for (std::size_t i = 0; i < result.windows.size(); ++i) {
    const Window& w = result.windows[i];
    const TimePs start = static_cast<TimePs>(i) * result.window;
    // The last window ends with the run.
    const auto length = static_cast<double>(std::max<TimePs>(0, std::min(result.window, result.end - start)));
    const double owned = length * static_cast<double>(result.gpus);
    CsvLine line;
    line.Time(start).Int(w.arrived).Int(w.finished).Int(w.failed).Int(w.output_tokens).Int(w.on_time_tokens).Int(w.switches);
    for (int a = 0; a < activities; ++a) line.Real(Ratio(static_cast<double>(w.activity[a]), owned, 0));
    line.Real(Ratio(static_cast<double>(w.active_model_time), length, 0));
    line.Real(Ratio(static_cast<double>(w.service), static_cast<double>(w.arrived), 1)).End(out);
  }
  return out;
}

std::string DistributionsCsv(const RunResult& result) {
  std::string out = "quantity,upper,count\n";
  const auto add = [&out](const char* quantity, const Histogram& h, double unit) {
    h.ForEachBin([&](TimePs upper, std::int64_t count) {
      CsvLine line;
      line.Text(quantity).Real(static_cast<double>(upper) / unit).Int(count).End(out);
    });
  };
  const ModelMetrics& m = result.total;
  add("ttft_s", m.ttft, kPsPerSecond);
  add("tbt_s", m.tbt, kPsPerSecond);
  add("tpot_s", m.tpot, kPsPerSecond);
  add("e2e_s", m.e2e, kPsPerSecond);
  add("kv_sync_s", result.switching.kv_sync, kPsPerSecond);
  add("switch_s", result.switching.latency, kPsPerSecond);
  add("prompt_tokens", result.record->prompt_tokens, kTokenUnit);
  add("output_tokens", result.record->output_tokens, kTokenUnit);
  return out;
}

std::string ModelWindowsCsv(const RunResult& result) {
  std::string out = "model,window_start_s,window_s,arrived_requests,finished_requests,output_tokens,on_time_tokens\n";
  const WindowRows<ModelWindow>& models = result.record->models;
  const TimePs window = result.window << models.shift();
  for (std::size_t m = 0; m < models.size(); ++m) {
    for (std::size_t w = 0; w < models.row(m).size(); ++w) {
      const ModelWindow& cell = models.row(m)[w];
      if (cell.arrived + cell.finished + cell.output_tokens == 0) continue;
      const TimePs start = static_cast<TimePs>(w) * window;
      CsvLine line;
      line.Text(result.models[m].name).Time(start).Time(std::min(window, result.end - start));
      line.Int(cell.arrived).Int(cell.finished).Int(cell.output_tokens).Int(cell.on_time_tokens).End(out);
    }
  }
  return out;
}

std::string FleetCsv(const RunResult& result) {
  const int activities = result.failing ? kActivities : kWork;
  std::string out =
      fmt::format("row,pool,first_instance,instances,gpus,window_start_s,window_s,prefill,decode,switch,kv_copy,{}model\n",
                  result.failing ? "down," : "");
  const RunRecord& record = *result.record;
  const TimePs window = std::max<TimePs>(1, result.window / kFleetParts) << record.fleet.shift();
  for (std::size_t r = 0; r < record.rows.size(); ++r) {
    const InstanceRow& row = record.rows[r];
    const std::vector<FleetCell>& cells = record.fleet.row(r);
    for (std::size_t w = 0; w < std::max<std::size_t>(1, cells.size()); ++w) {
      const FleetCell cell = w < cells.size() ? cells[w] : FleetCell{};
      const bool idle = std::all_of(cell.activity.begin(), cell.activity.end(), [](GpuTime t) { return t == 0; });
      if (idle && w > 0) continue;
      const TimePs start = static_cast<TimePs>(w) * window;
      const TimePs length = std::min(window, result.end - start);
      CsvLine line;
      line.Int(static_cast<std::int64_t>(r)).Text(row.pool).Int(row.first_instance).Int(row.instances).Int(row.gpus);
      line.Time(start).Time(length);
      for (int a = 0; a < activities; ++a)
        line.Real(Ratio(static_cast<double>(cell.activity[a]), static_cast<double>(length) * static_cast<double>(row.gpus), 0));
      const std::int32_t model = cell.model.Top();
      line.Text(model == kNone ? "" : result.models[static_cast<std::size_t>(model)].name).End(out);
    }
  }
  return out;
}

Json CompareJson(const Scenario& scenario, const std::vector<RunResult>& results) {
  Json rows = Json::array();
  for (const RunResult& result : results) rows.push_back(SummaryJson(scenario, result));
  return rows;
}

std::vector<std::pair<std::string, Json>> Flattened(const Json& summary) {
  std::vector<std::pair<std::string, Json>> out;
  Flatten(summary, "", out);
  return out;
}

std::string CsvValue(const Json& value) {
  if (value.is_null()) return "";
  if (value.is_string()) return CsvCell(value.get<std::string>());
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.dump();
}

std::string CompareCsv(const Scenario& scenario, const std::vector<RunResult>& results) {
  // The columns do not depend on which policies were feasible.
  RunResult none;
  none.failing = scenario.failures.Any();
  const std::vector<std::pair<std::string, Json>> columns = Flattened(SummaryJson(scenario, none));
  std::string out;
  for (const auto& [key, unused] : columns) out += (out.empty() ? "" : ",") + key;
  out += "\n";
  for (const RunResult& result : results) {
    const std::vector<std::pair<std::string, Json>> cells = Flattened(SummaryJson(scenario, result));
    for (std::size_t i = 0; i < columns.size(); ++i) {
      if (i > 0) out += ',';
      if (i < cells.size()) out += CsvValue(cells[i].second);  // an infeasible row holds the first three
    }
    out += "\n";
  }
  return out;
}

Json ManifestJson(const Provenance& provenance, const Scenario& scenario, const WorkloadFacts& facts,
                  const std::vector<RunResult>& results) {
  Json json;
  json["poolsim_version"] = provenance.version;
  json["poolsim_commit"] = provenance.commit;
  json["command"] = provenance.command;
  json["scenario"] = provenance.scenario;
  json["seed"] = scenario.seed;
  const bool read = facts.surveyed || facts.seen.hash != 0;  // no policy could run: nobody has read it
  json["trace_hash"] = read ? Json(fmt::format("{:016x}", facts.seen.hash)) : Json();
  if (results.size() == 1) {
    json["policy"] = results[0].policy;
    json["fingerprint"] = Fingerprint(results[0]);
  } else {
    Json by_policy = Json::object();
    for (const RunResult& result : results) by_policy[result.policy] = result.feasible ? Json(Fingerprint(result)) : Json();
    json["fingerprints"] = std::move(by_policy);
  }
  json["workload"] = Workload(scenario, facts);
  json["forecast"] = Json{{"from", facts.surveyed ? "one pass over the workload" : "what the workload says of itself"},
                          {"window_s", scenario.forecast.window_s}};
  return json;
}

std::string FileText(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

std::string CsvCell(std::string_view text) {
  const bool computed = LooksComputed(text);
  if (!computed && text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = computed ? "\"'" : "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

// ------------------------------------------------------------------------------------------------------- results folder

ResultsFolder::ResultsFolder(const std::string& folder) : shown_(folder) {
  if (folder.empty()) throw InputError("--out: expected the name of a folder");
  std::error_code error;
  fs::path target = fs::absolute(folder, error).lexically_normal();
  if (error) RefuseFolder(shown_, error.message());
  if (fs::exists(target, error)) target = fs::canonical(target, error);  // a link stays, what it points at is replaced
  if (!target.has_filename()) target = target.parent_path();
  if (!target.has_filename()) RefuseFolder(shown_, "it is the root of the file system");
  target_ = target.string();
  temporary_ = (target.parent_path() / fmt::format(".{}.tmp-{}", target.filename().string(), getpid())).string();
  CheckTarget();
  MakeParents();
  open_ = true;
  RemoveLeftOvers(target);
  fs::remove_all(temporary_, error);
  if (mkdir(temporary_.c_str(), 0777) != 0) {
    const int reason = errno;
    Discard();
    RefuseFolder(shown_, Reason(reason));
  }
}

void ResultsFolder::CheckTarget() const {
  struct stat about {};
  if (stat(target_.c_str(), &about) != 0) return;  // absent, or its parents will tell
  if (!S_ISDIR(about.st_mode)) RefuseFolder(shown_, "it is a file");
  struct stat parent {};
  if (stat(fs::path(target_).parent_path().c_str(), &parent) == 0 && parent.st_dev != about.st_dev) {
    RefuseFolder(shown_, "it is a mount point, which cannot be replaced as a whole; name a folder in it");
  }
  std::error_code error;
  const bool empty = fs::is_empty(target_, error);
  if (error) RefuseFolder(shown_, error.message());
  if (empty) return;
  const std::string why = WhyNotOurs(target_);
  if (!why.empty()) RefuseFolder(shown_, why);
}

void ResultsFolder::MakeParents() {
  std::vector<fs::path> missing;
  for (fs::path parent = fs::path(target_).parent_path();; parent = parent.parent_path()) {
    struct stat about {};
    if (stat(parent.c_str(), &about) == 0) {
      if (!S_ISDIR(about.st_mode)) RefuseFolder(shown_, fmt::format("{} is a file", parent.string()));
      break;
    }
    if (errno != ENOENT && errno != ENOTDIR) RefuseFolder(shown_, fmt::format("{}: {}", parent.string(), Reason(errno)));
    missing.push_back(parent);
  }
  for (auto parent = missing.rbegin(); parent != missing.rend(); ++parent) {
    if (mkdir(parent->c_str(), 0777) != 0 && errno != EEXIST) {
      const int reason = errno;
      open_ = true;
      Discard();
      RefuseFolder(shown_, fmt::format("{}: {}", parent->string(), Reason(reason)));
    }
    made_parents_.push_back(parent->string());
  }
}

ResultsFolder::File::File(std::string path, std::string shown) : path_(std::move(path)), shown_(std::move(shown)) {
  file_ = std::fopen(path_.c_str(), "wb");
  if (file_ == nullptr) RefuseFolder(shown_, Reason(errno));
}

void ResultsFolder::File::Write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) RefuseFolder(shown_, Reason(errno));
}

void ResultsFolder::File::Close() {
  std::FILE* file = file_;
  file_ = nullptr;
  if (file != nullptr && std::fclose(file) != 0) RefuseFolder(shown_, Reason(errno));
}

std::unique_ptr<ResultsFolder::File> ResultsFolder::Open(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const fs::path path = fs::path(temporary_) / name;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);  // failing, the file cannot be opened either
  files_.push_back(name);
  return std::unique_ptr<File>(new File(path.string(), (fs::path(shown_) / name).string()));
}

void ResultsFolder::Write(const std::string& name, std::string_view text) {
  const std::unique_ptr<File> file = Open(name);
  file->Write(text);
  file->Close();
}

void ResultsFolder::Drop(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const fs::path path = fs::path(temporary_) / name;
  std::error_code error;
  fs::remove(path, error);
  if (path.parent_path() != fs::path(temporary_)) fs::remove(path.parent_path(), error);  // stays unless it is empty
  files_.erase(std::remove(files_.begin(), files_.end(), name), files_.end());
}

void ResultsFolder::Commit(Json manifest) {
  std::sort(files_.begin(), files_.end());
  manifest["files"] = files_;
  Write("manifest.json", FileText(manifest));
  Sync();
  const std::lock_guard<std::mutex> lock(mutex_);  // an interrupt does not come between the two renames
  Replace();
  open_ = false;
}

// All of it is on the disk before it gets its name: a power cut leaves no folder that only looks whole.
void ResultsFolder::Sync() const {
  std::vector<fs::path> names = {"", "manifest.json"};
  for (const std::string& file : files_) {
    names.emplace_back(file);
    if (const fs::path folder = names.back().parent_path(); !folder.empty()) names.push_back(folder);
  }
  for (const fs::path& name : names) {
    const int file = open((fs::path(temporary_) / name).c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    const bool failed = fsync(file) != 0 && errno == EIO;
    close(file);
    if (failed) RefuseFolder(shown_, Reason(EIO));
  }
}

void ResultsFolder::Replace() {
  CheckTarget();  // somebody may have put something there since
  std::error_code error;
  // Where the file system can, the two change places in one step.
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(temporary_, error);
    return;
  }
  const std::string old = temporary_ + ".old";
  bool moved = false;
  if (fs::exists(target_, error)) {
    fs::rename(target_, old, error);
    if (error) RefuseFolder(shown_, error.message());
    moved = true;
  }
  fs::rename(temporary_, target_, error);
  if (error) {
    std::error_code ignored;
    if (moved) fs::rename(old, target_, ignored);
    RefuseFolder(shown_, error.message());
  }
  if (moved) fs::remove_all(old, error);
}

void ResultsFolder::Discard() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!open_) return;
  open_ = false;
  std::error_code error;
  fs::remove_all(temporary_, error);
  for (auto parent = made_parents_.rbegin(); parent != made_parents_.rend(); ++parent) fs::remove(*parent, error);  // unless used
}

}  // namespace poolsim
