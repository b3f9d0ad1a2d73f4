#include "report/page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <unordered_map>

#include <fmt/format.h>

#include "sim/embedded.h"
#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/limits.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

constexpr std::size_t kMostWindows = 1440;
constexpr double kEdgeRatio = 1.02;       // of a distribution's neighbours on the page, unless
constexpr double kMostOfBucket = 0.0025;  // they hold more than this share
constexpr std::string_view kMark = "<meta name=\"generator\" content=\"poolsim report\">";  // in index.html
const std::vector<std::string> kStates = {"prefill", "decode", "switch", "kv_copy"};
const std::string kDown = "down";  // one more, of runs with failures

// Whole numbers without a decimal point: the text is shorter.
Json NumberJson(double value) {
  if (value == std::floor(value) && std::fabs(value) < 9e15) return static_cast<std::int64_t>(value);
  return value;
}

Json NumbersJson(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(NumberJson(value));
  return list;
}

Json TextsJson(const std::vector<std::string_view>& texts) {
  Json list = Json::array();
  for (const std::string_view text : texts) list.push_back(std::string(text));
  return list;
}

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

char ByteOf(double share, double most) { return static_cast<char>(std::lround(std::clamp(share, 0.0, 1.0) * most)); }

// --------------------------------------------------------------------------------------------------- tables of a run

Json ModelsJson(const ResultsTable& table) {
  Json json;
  for (const char* column : {"model", "llm", "pool"}) json[column] = TextsJson(table.Texts(column));
  for (const char* column : {"requests", "finished_requests", "failed_requests", "unfinished_requests", "prompt_tokens",
                             "output_tokens", "attainment_service", "attainment_token", "attainment_request", "ttft_p50_s",
                             "ttft_p99_s", "tbt_p50_s", "tbt_p99_s", "e2e_p50_s", "switches", "busy_gpu_s"}) {
    json[column] = NumbersJson(table.Numbers(column));
  }
  return json;
}

// Counts add up; shares and means are those of the time, or of the requests that arrive.
Json WindowsJson(const ResultsTable& table, double end_s) {
  const std::vector<double> start = table.Numbers("window_start_s");
  const std::size_t n = start.size(), together = (n + kMostWindows - 1) / kMostWindows;
  std::vector<double> length(n);
  for (std::size_t i = 0; i < n; ++i) {
    length[i] = (i + 1 < n ? start[i + 1] : end_s) - start[i];
    if (length[i] < 0) table.Refuse(i, "window_start_s", "a start before the next one and before the end of the run");
  }
  // All windows of a run are alike but the last, which may be shorter.
  if (n > 1 && length[n - 1] > 1.001 * length[0])
    table.Refuse(n - 1, "window_start_s", fmt::format("windows until the end of the run at {:g} s: rows are missing", end_s));
  Json json;
  json["merged"] = together;
  const auto column = [&](const char* name, const std::vector<double>& values, const std::vector<double>* weights = nullptr) {
    std::vector<double> merged;
    for (std::size_t i = 0; i < n; i += together) {
      double sum = 0, weight = 0;
      for (std::size_t j = i; j < std::min(n, i + together); ++j) {
        sum += weights != nullptr ? values[j] * (*weights)[j] : values[j];
        weight += weights != nullptr ? (*weights)[j] : 0;
      }
      merged.push_back(weights == nullptr ? sum : weight > 0 ? std::round(sum / weight * 1e6) / 1e6 : 0);
    }
    json[name] = NumbersJson(merged);
  };
  std::vector<double> starts;
  for (std::size_t i = 0; i < n; i += together) starts.push_back(start[i]);
  json["start_s"] = NumbersJson(starts);
  column("length_s", length);
  for (const char* name :
       {"arrived_requests", "finished_requests", "failed_requests", "output_tokens", "on_time_tokens", "switches"})
    column(name, table.Numbers(name));
  for (const char* name : {"prefill_fraction", "decode_fraction", "switch_fraction", "kv_copy_fraction", "active_models_mean"})
    column(name, table.Numbers(name), &length);
  if (table.Has("down_fraction")) column("down_fraction", table.Numbers("down_fraction"), &length);
  // Of the requests that arrive; folders of earlier versions have no such column.
  if (table.Has("service_attainment")) {
    const std::vector<double> arrived = table.Numbers("arrived_requests");
    column("service_attainment", table.Numbers("service_attainment"), &arrived);
  }
  return json;
}

Json DistributionsJson(const ResultsTable& table) {
  const std::vector<std::string_view> quantity = table.Texts("quantity");
  const std::vector<double> upper = table.Numbers("upper");
  const std::vector<std::int64_t> count = table.Counts("count");
  Json json = Json::object();
  for (std::size_t begin = 0, end = 0; begin < table.rows(); begin = end) {
    double total = 0;
    for (end = begin; end < table.rows() && quantity[end] == quantity[begin]; ++end) {
      if (end > begin && upper[end] <= upper[end - 1]) table.Refuse(end, "upper", "an edge above the one before");
      total += static_cast<double>(count[end]);
    }
    std::vector<double> edges, counts;
    double first_edge = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const auto here = static_cast<double>(count[i]);
      const bool joins = !edges.empty() && upper[i] <= first_edge * kEdgeRatio && counts.back() + here <= kMostOfBucket * total;
      if (joins) {
        edges.back() = upper[i];
        counts.back() += here;
      } else {
        first_edge = upper[i];
        edges.push_back(upper[i]);
        counts.push_back(here);
      }
    }
    const std::string name(quantity[begin]);
    if (json.contains(name)) table.Refuse(begin, "quantity", "the rows of a quantity together");
    json[name] = Json{{"upper", NumbersJson(edges)}, {"count", NumbersJson(counts)}};
  }
  return json;
}

// Windows as a heat map or sparklines have them: all of one length, the last perhaps cut short by the end of the run.
struct Grid {
  explicit Grid(const ResultsTable& table) : table_(table), start_(table.Numbers("window_start_s")) {
    const std::vector<double> lengths = table.Numbers("window_s");
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      if (lengths[r] < 0) table.Refuse(r, "window_s", "a length");
      window_s = std::max(window_s, lengths[r]);
    }
    if (window_s == 0) window_s = 1;  // nothing took any time
    for (std::size_t r = 0; r < start_.size(); ++r) windows = std::max(windows, At(r) + 1);
  }
  std::size_t At(std::size_t row) const {
    const double at = std::round(start_[row] / window_s);
    if (at < 0 || at > 4096) table_.Refuse(row, "window_start_s", "a start within 4,096 windows of the beginning");
    return static_cast<std::size_t>(at);
  }
  // Where a picture of so many rows would have too many cells.
  void Refuse(std::size_t rows) const {
    if (rows * windows > kMaxPictureCells)
      table_.Refuse(0, "window_s", fmt::format("no more than {} cells, rows times windows", kMaxPictureCells));
  }
  double window_s = 0;
  std::size_t windows = 0;

 private:
  const ResultsTable& table_;
  std::vector<double> start_;
};

Json ModelWindowsJson(const ResultsTable& table, const std::vector<std::string_view>& models) {
  const Grid grid(table);
  std::unordered_map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < models.size(); ++i) index.emplace(models[i], i);
  const std::vector<std::string_view> model = table.Texts("model");
  const std::vector<std::int64_t> arrived = table.Counts("arrived_requests"), tokens = table.Counts("output_tokens"),
                                  on_time = table.Counts("on_time_tokens");
  std::vector<std::int64_t> most(models.size());
  std::vector<std::size_t> of(table.rows());
  for (std::size_t r = 0; r < table.rows(); ++r) {
    const auto found = index.find(model[r]);
    if (found == index.end()) table.Refuse(r, "model", "a model of models.csv");
    of[r] = found->second;
    most[of[r]] = std::max(most[of[r]], arrived[r]);
  }
  grid.Refuse(models.size());
  std::string arrivals(models.size() * grid.windows, '\0'), shares(models.size() * grid.windows, '\xff');
  for (std::size_t r = 0; r < table.rows(); ++r) {
    const std::size_t cell = of[r] * grid.windows + grid.At(r);
    const auto share = [](std::int64_t part, std::int64_t whole) {
      return static_cast<double>(part) / static_cast<double>(whole);
    };
    if (arrived[r] > 0) arrivals[cell] = ByteOf(share(arrived[r], most[of[r]]), 255);
    if (tokens[r] > 0) shares[cell] = ByteOf(share(on_time[r], tokens[r]), 200);
  }
  return Json{{"windows", grid.windows},
              {"window_s", NumberJson(grid.window_s)},
              {"most", most},
              {"arrived", Base64(arrivals)},
              {"on_time", Base64(shares)}};
}

Json FleetJson(const ResultsTable& table) {
  const Grid grid(table);
  const std::vector<std::int64_t> row = table.Counts("row", 4095);
  const std::vector<std::string_view> pool = table.Texts("pool"), model = table.Texts("model");
  const std::vector<std::int64_t> first = table.Counts("first_instance"), instances = table.Counts("instances"),
                                  gpus = table.Counts("gpus");
  const std::size_t rows = table.rows() == 0 ? 0 : static_cast<std::size_t>(*std::max_element(row.begin(), row.end())) + 1;
  std::vector<bool> seen(rows);
  for (const std::int64_t r : row) seen[static_cast<std::size_t>(r)] = true;
  for (std::size_t r = 0; r < rows; ++r) {
    if (!seen[r]) table.Refuse(0, "row", fmt::format("every row up to {}; {} is missing", rows - 1, r));
  }
  grid.Refuse(rows);
  Json pools = Json::array(), firsts = Json::array(), sizes = Json::array(), owned = Json::array();
  for (Json* list : {&pools, &firsts, &sizes, &owned}) *list = std::vector<int>(rows);
  std::vector<std::string> kinds = kStates;
  const bool down = table.Has(kDown);
  if (down) kinds.push_back(kDown);
  std::string states(rows * grid.windows * kinds.size(), '\0');
  std::vector<std::int64_t> cell_model(rows * grid.windows, -1);
  Json names = Json::array();
  std::unordered_map<std::string_view, std::int64_t> index;
  std::vector<std::vector<double>> shares;
  for (const std::string& kind : kinds) shares.push_back(table.Numbers(kind));
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto r = static_cast<std::size_t>(row[i]);
    pools[r] = std::string(pool[i]);
    firsts[r] = first[i];
    sizes[r] = instances[i];
    owned[r] = gpus[i];
    const std::size_t cell = r * grid.windows + grid.At(i);
    for (std::size_t s = 0; s < kinds.size(); ++s) {
      if (shares[s][i] < 0 || shares[s][i] > 1.0001) table.Refuse(i, kinds[s], "a share from 0 to 1");
      states[cell * kinds.size() + s] = ByteOf(shares[s][i], 255);
    }
    if (model[i].empty()) continue;
    const auto [at, is_new] = index.emplace(model[i], static_cast<std::int64_t>(index.size()));
    if (is_new) names.push_back(std::string(model[i]));
    cell_model[cell] = at->second;
  }
  Json json = {{"windows", grid.windows},
               {"window_s", NumberJson(grid.window_s)},
               {"rows", {{"pool", pools}, {"first_instance", firsts}, {"instances", sizes}, {"gpus", owned}}},
               {"states", Base64(states)},
               {"models", names},
               {"cell_model", cell_model}};
  if (down) json["down"] = true;
  return json;
}

// ------------------------------------------------------------------------------------------------------- a folder

// What the page counts on; the rest it shows if it is there.
void CheckSummary(const Json& summary, const std::string& file, const std::string& at) {
  Need(summary, file, at + "/policy", &Json::is_string, "the policy's name");
  if (Need(summary, file, at + "/status", &Json::is_string, "\"ok\" or \"infeasible\"") != "ok") {
    Need(summary, file, at + "/reason", &Json::is_string, "a text");
    return;
  }
  for (const char* number : {"/gpus", "/instances", "/models", "/simulated_s", "/requests/total", "/requests/failed",
                             "/attainment/token", "/attainment/service", "/attainment/request", "/ttft_s/p50", "/ttft_s/p99",
                             "/tbt_s/p50", "/tbt_s/p99", "/utilisation/busy", "/utilisation/idle", "/switches"}) {
    Need(summary, file, at + number, &Json::is_number, "a number");
  }
  Need(summary, file, at + "/breakdown_s", &Json::is_object, "seconds by what they were spent on");
}

// Adds the tables of a run, whose files lie below `prefix` ("" or "aegaeon/").
void AddTables(const ReportFolder& folder, const std::string& prefix, Json& run, std::set<std::string>& missing) {
  const auto add = [&](const char* key, const char* name, const std::function<Json(const ResultsTable&)>& make) {
    const std::string file = prefix + name;
    std::optional<std::string> text = folder.TextIfListed(file);
    if (!text) {
      missing.insert(name);
      return;
    }
    run[key] = make(ResultsTable(std::move(*text), folder.PathOf(file)));
  };
  add("models", "models.csv", ModelsJson);
  const double end_s = run["summary"]["simulated_s"];
  add("windows", "windows.csv", [end_s](const ResultsTable& table) { return WindowsJson(table, end_s); });
  add("distributions", "distributions.csv", DistributionsJson);
  if (run.contains("models")) {
    std::vector<std::string> names = run["models"]["model"];
    const std::vector<std::string_view> models(names.begin(), names.end());
    add("model_windows", "model_windows.csv", [&models](const ResultsTable& table) { return ModelWindowsJson(table, models); });
  }
  add("fleet", "fleet.csv", FleetJson);
}

Json RunJson(const ReportFolder& folder, const std::string& prefix, Json summary, std::set<std::string>& missing) {
  Json run;
  run["label"] = summary["policy"];
  const bool feasible = summary["status"] == "ok";
  run["summary"] = std::move(summary);
  if (feasible) AddTables(folder, prefix, run, missing);
  return run;
}

void AddRuns(const ReportFolder& folder, Json& source) {
  std::set<std::string> missing;
  if (folder.Lists("compare.json")) {
    source["kind"] = "compare";
    const std::string file = folder.PathOf("compare.json");
    const Json rows = folder.ReadJson("compare.json");
    if (!rows.is_array()) throw InputError(fmt::format("{}: expected a list with a summary per policy", file));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      CheckSummary(rows, file, fmt::format("/{}", i));
      source["runs"].push_back(RunJson(folder, rows[i]["policy"].get<std::string>() + "/", rows[i], missing));
    }
  } else if (folder.Lists("summary.json")) {
    source["kind"] = "run";
    Json summary = folder.ReadJson("summary.json");
    CheckSummary(summary, folder.PathOf("summary.json"), "");
    source["runs"].push_back(RunJson(folder, "", std::move(summary), missing));
  }
  source["missing"] = missing;
}

void AddPlan(const ReportFolder& folder, Json& source) {
  if (!folder.Lists("plan.json")) return;
  source["kind"] = "plan";
  Json plan = folder.ReadJson("plan.json");
  const std::string file = folder.PathOf("plan.json");
  const Json& policies = Need(plan, file, "/policies", &Json::is_array, "a list with a plan per policy");
  Need(plan, file, "/targets", &Json::is_object, "targets by kind");
  for (std::size_t i = 0; i < policies.size(); ++i) {
    const std::string at = fmt::format("/policies/{}", i);
    Need(plan, file, at + "/policy", &Json::is_string, "the policy's name");
    if (Need(plan, file, at + "/status", &Json::is_string, "\"found\" or \"not found\"") != "found") continue;
    for (const char* number : {"/gpus", "/bound/fluid_gpus", "/bound/memory_gpus", "/attainment/service/mean"}) {
      Need(plan, file, at + number, &Json::is_number, "a number");
    }
  }
  source["plan"] = std::move(plan);
  if (std::optional<std::string> text = folder.TextIfListed("savings.csv")) {
    const ResultsTable table(std::move(*text), folder.PathOf("savings.csv"));
    Json savings;
    for (const char* column : {"model", "pool"}) savings[column] = TextsJson(table.Texts(column));
    for (const char* column : {"requests", "dedicated_gpus", "pool_gpus_by_busy_time", "gpus_freed", "share_of_saving",
                               "service_attainment", "switches"}) {
      savings[column] = NumbersJson(table.Numbers(column));
    }
    source["savings"] = std::move(savings);
  }
}

void AddTune(const ReportFolder& folder, Json& source) {
  if (!folder.Lists("tune.json")) return;
  source["kind"] = "tune";
  Json tune = folder.ReadJson("tune.json");
  const std::string file = folder.PathOf("tune.json");
  for (const char* list : {"/params", "/points", "/flatness"}) Need(tune, file, list, &Json::is_array, "a list");
  for (const char* text : {"/policy", "/objective", "/attainment"}) Need(tune, file, text, &Json::is_string, "a text");
  for (std::size_t i = 0; i < tune["points"].size(); ++i) {
    Need(tune, file, fmt::format("/points/{}/params", i), &Json::is_object, "parameters with their values");
  }
  source["tune"] = std::move(tune);
}

Json NumberJson(const std::optional<double>& value) { return value ? NumberJson(*value) : Json(); }

// Numbers where all are, else texts.
Json VariedJson(const std::vector<std::string_view>& values) {
  std::vector<double> numbers;
  for (const std::string_view value : values) {
    const std::optional<double> number = NumberIn(value);
    if (!number) return TextsJson(values);
    numbers.push_back(*number);
  }
  return NumbersJson(numbers);
}

// What the points of a sweep gave: every number under its key, with its interval where there is one. Most keys are the same at
// all points of most sweeps, and are told once.
void AddMetrics(const ResultsTable& table, std::size_t first, bool replicated, Json& sweep) {
  const auto column = [&table](const std::string& name) { return table.NumbersIfAny(name); };
  const auto list = [](const std::vector<std::optional<double>>& values) {
    Json json = Json::array();
    for (const std::optional<double>& value : values) json.push_back(NumberJson(value));
    return json;
  };
  const auto ends_with = [](std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  };
  sweep["metrics"] = Json::object();
  sweep["same"] = Json::object();
  for (std::size_t c = first; c < table.names().size(); ++c) {
    const std::string name(table.names()[c]);
    if (name == "policy" || name == "status" || name == "reason" || name == "fingerprint") continue;
    if (replicated && (ends_with(name, ".ci_low") || ends_with(name, ".ci_high"))) continue;
    const std::vector<std::optional<double>> means = column(name);
    std::optional<double> one;  // the first that is there
    bool differs = false;
    const auto look = [&](const std::vector<std::optional<double>>& values) {
      for (const std::optional<double>& value : values) {
        if (value && !one) one = value;
        differs = differs || (value && *value != *one);
      }
    };
    look(means);
    Json metric = {{"mean", list(means)}};
    if (replicated) {
      const std::vector<std::optional<double>> low = column(name + ".ci_low"), high = column(name + ".ci_high");
      look(low);
      look(high);
      metric["low"] = list(low);
      metric["high"] = list(high);
    }
    if (differs) {
      sweep["metrics"][name] = std::move(metric);
    } else if (one) {
      sweep["same"][name] = NumberJson(*one);
    }
  }
}

void AddSweep(const ReportFolder& folder, Json& source) {
  if (!folder.Lists("sweep.csv")) return;
  source["kind"] = "sweep";
  const std::string manifest = folder.PathOf("manifest.json"), file = folder.PathOf("sweep.csv");
  const Json& about = folder.manifest();
  Need(about, manifest, "/sweep/design", &Json::is_string, "cartesian, zip or lhs");
  const Json& vary = Need(about, manifest, "/sweep/vary", &Json::is_array, "the varied settings");
  Need(about, manifest, "/sweep/points", &Json::is_number_integer, "the number of points");
  const Json& replications =
      Need(about, manifest, "/sweep/replications", &Json::is_number_integer, "the number of runs of a point");
  Need(about, manifest, "/sweep/policies", &Json::is_array, "the policies that every point has, or none");
  const ResultsTable table(folder.Read("sweep.csv"), file);
  if (Json(table.rows()) != about["sweep"]["points"]) {
    throw InputError(
        fmt::format("{}: found {} points; {} says {}", file, table.rows(), manifest, about["sweep"]["points"].dump()));
  }
  Json sweep = {{"design", about["sweep"]["design"]}, {"replications", replications}, {"varied", Json::array()}};
  for (std::size_t i = 0; i < vary.size(); ++i) {
    const std::string typed = Need(about, manifest, fmt::format("/sweep/vary/{}", i), &Json::is_string, "path=VALUES");
    const std::string path = typed.substr(0, typed.find('='));
    if (i >= table.names().size() || table.names()[i] != path)
      throw InputError(
          fmt::format("{}:1: column {} is not {}, which {} says is varied", file, i + 1, ForMessage(path), manifest));
    sweep["varied"].push_back({{"name", path}, {"values", VariedJson(table.Texts(path))}});
  }
  for (const char* text : {"policy", "status", "reason"}) sweep[text] = TextsJson(table.Texts(text));
  sweep["fingerprint"] = TextsJson(table.Texts("fingerprint"));
  const std::vector<std::optional<double>> service = table.NumbersIfAny("attainment.service");
  for (std::size_t p = 0; p < table.rows(); ++p) {
    if (sweep["status"][p] == "ok" && !service[p]) table.Refuse(p, "attainment.service", "a number, as the point was run");
  }
  AddMetrics(table, vary.size(), replications > 1, sweep);
  source["sweep"] = std::move(sweep);
}

void AddReproduction(const ReportFolder& folder, Json& source) {
  if (!folder.Lists("claims.json")) return;
  source["kind"] = "reproduce";
  Json claims = folder.ReadJson("claims.json");
  if (!claims.is_array()) throw InputError(fmt::format("{}: expected a list of claims", folder.PathOf("claims.json")));
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const std::string file = folder.PathOf("claims.json");
    Need(claims, file, fmt::format("/{}/claim", i), &Json::is_string, "what is claimed");
    Need(claims, file, fmt::format("/{}/ours", i), &Json::is_number, "a number");
  }
  source["claims"] = std::move(claims);
  source["figures"] = Json::array();
  for (const std::string& name : folder.FoldersWith("figure.png")) {
    Json figure = {{"name", name}, {"title", ""}, {"png", Base64(folder.Read(name + "/figure.png"))}};
    if (const std::optional<Json> facts = folder.JsonIfListed(name + "/figure.json")) {
      if (facts->is_object()) figure["title"] = facts->value("title", Json(""));
    }
    source["figures"].push_back(std::move(figure));
  }
}

// What the executable knows of the prices that the scenario names: where they are from, and how far they are off.
Json ProfileJson(const Json& scenario) {
  const Json::json_pointer form_at("/cost/form"), gpu_at("/fleet/gpu");
  if (!scenario.contains(form_at) || !scenario.at(form_at).is_string()) return nullptr;
  const std::string form = scenario.at(form_at);
  const Json::json_pointer name_at = Json::json_pointer("/cost/params") / form / "profile";
  if (!scenario.contains(name_at) || !scenario.at(name_at).is_string()) return nullptr;
  const std::string path = "models/profiles/" + scenario.at(name_at).get<std::string>() + ".json";
  for (const EmbeddedFile& file : EmbeddedIn("models/profiles/")) {
    if (file.path != path) continue;
    const Json profile = ParseJson(file.text, path);
    Json json = {{"form", form}, {"errors", Json::object()}, {"errors_on_gpu", Json::object()}};
    for (const char* key : {"name", "help", "source", "date"}) json[key] = profile.value(key, "");
    const Json::json_pointer errors_at = Json::json_pointer("/errors") / form;
    if (!profile.contains(errors_at)) return json;
    for (const auto& [key, value] : profile.at(errors_at).items()) {
      if (key.rfind("by_", 0) != 0) json["errors"][key] = value;
    }
    if (scenario.contains(gpu_at) && scenario.at(gpu_at).is_string()) {
      const Json::json_pointer on_gpu = errors_at / "by_gpu" / scenario.at(gpu_at).get<std::string>();
      if (profile.contains(on_gpu)) json["errors_on_gpu"] = profile.at(on_gpu);
    }
    return json;
  }
  return nullptr;
}

Json SourceJson(const ReportFolder& folder) {
  Json source = {{"name", folder.name()}, {"kind", nullptr}, {"manifest", folder.manifest()}, {"runs", Json::array()}};
  AddRuns(folder, source);
  AddPlan(folder, source);
  AddTune(folder, source);
  AddSweep(folder, source);
  AddReproduction(folder, source);
  if (source["kind"].is_null()) {
    throw InputError(
        fmt::format("{}: the folder's manifest.json lists none of summary.json, compare.json, plan.json, tune.json, "
                    "sweep.csv and claims.json: there is nothing to show",
                    folder.name()));
  }
  source["scenario"] = nullptr;
  if (std::optional<Json> scenario = folder.JsonIfListed("scenario.json")) {
    source["profile"] = ProfileJson(*scenario);
    source["scenario"] = std::move(*scenario);
  }
  return source;
}

// What a policy is, as it is registered here; of several, joined with "+" where pools have their own, whether one of them is told
// the future, and whether all bring their own GPUs. One that this executable does not have is taken for neither.
void AddPolicy(const std::string& joined, Json& policies) {
  bool oracle = false, owns_fleet = true;
  for (std::size_t at = 0; at <= joined.size();) {
    const std::size_t end = std::min(joined.find('+', at), joined.size());
    const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(std::string_view(joined).substr(at, end - at));
    oracle = oracle || (entry != nullptr && entry->oracle);
    owns_fleet = owns_fleet && entry != nullptr && entry->owns_fleet;
    at = end + 1;
  }
  policies[joined] = {{"oracle", oracle}, {"owns_fleet", owns_fleet}};
}

// --------------------------------------------------------------------------------------------------------- the page

std::string_view Embedded(std::string_view path) {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.path == path) return file.text;
  }
  return {};
}

void ReplaceAll(std::string& text, std::string_view what, std::string_view with) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
}

// As the text of a <script>: nothing in it may end that, or begin a comment.
std::string InScript(std::string_view script) {
  std::string text(script);
  ReplaceAll(text, "</script", "<\\/script");
  ReplaceAll(text, "<!--", "<\\!--");
  return text;
}

}  // namespace

Json ReportData(const std::vector<ReportFolder>& folders) {
  Json data = {{"sources", Json::array()}, {"policies", Json::object()}};
  for (const ReportFolder& folder : folders) data["sources"].push_back(SourceJson(folder));
  for (const Json& source : data["sources"]) {
    for (const Json& run : source["runs"]) AddPolicy(run["summary"]["policy"], data["policies"]);
    if (source.contains("sweep")) {
      const std::set<std::string> policies = source["sweep"]["policy"];
      for (const std::string& policy : policies) AddPolicy(policy, data["policies"]);
    }
    if (!source.contains("plan")) continue;
    for (const Json& policy : source["plan"]["policies"]) AddPolicy(policy["policy"], data["policies"]);
  }
  return data;
}

std::string WhyNoReport() { return std::string(Embedded("report/missing.txt")); }

std::string ReportPage(const Json& data) {
  if (const std::string why = WhyNoReport(); !why.empty()) throw InputError(why);
  std::string json = data.dump(-1, ' ', false, Json::error_handler_t::replace);
  ReplaceAll(json, "<", "\\u003c");
  std::string scripts;
  for (const EmbeddedFile& file : EmbeddedIn("report/page/")) {  // by name, which is the order in which they run
    if (file.path.size() > 3 && file.path.substr(file.path.size() - 3) == ".js") {
      scripts += fmt::format("<script>\n{}</script>\n", InScript(file.text));
    }
  }
  // Taken apart at its marks, so that nothing inserted is searched for them.
  const std::vector<std::pair<std::string_view, std::string>> parts = {
      {"{{licences}}", std::string(Embedded("report/licences.txt"))},
      {"{{style}}", std::string(Embedded("report/page/style.css"))},
      {"{{data}}", std::move(json)},
      {"{{library}}", InScript(Embedded("report/echarts.js"))},
      {"{{scripts}}", std::move(scripts)},
  };
  std::string_view rest = Embedded("report/page/index.html");
  std::string page;
  for (const auto& [mark, text] : parts) {
    const std::size_t at = rest.find(mark);
    page += rest.substr(0, at);
    page += text;
    rest.remove_prefix(at + mark.size());
  }
  return page.append(rest);
}

bool IsReportPage(const std::string& file) {
  constexpr std::size_t kHead = 256;
  std::string head(kHead, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(head.data(), kHead);
  head.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, in.gcount())));
  return head.starts_with("<!doctype html>") && head.find(kMark) != std::string::npos;
}

}  // namespace poolsim
