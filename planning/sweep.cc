#include "planning/sweep.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "planning/statistics.h"
#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/report.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostPoints = 10'000;

template <class Number>
std::optional<Number> CountOf(const std::string& text) {
  Number value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || read.ec != std::errc() || read.ptr != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

// What the document has there; null where it has nothing.
Json At(const Json& document, const std::string& path) {
  const Json* at = &document;
  for (std::size_t from = 0; from <= path.size();) {
    const std::size_t dot = std::min(path.find('.', from), path.size());
    const std::string key = path.substr(from, dot - from);
    from = dot + 1;
    const std::optional<std::size_t> index = key == "0" ? 0 : CountOf<std::size_t>(key);
    if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else if (at->is_array() && index && *index < at->size()) {
      at = &(*at)[*index];
    } else {
      return Json();
    }
  }
  return *at;
}

// As --set reads it back: the same value, and the same type.
std::string Assignment(const std::string& path, const Json& value) {
  const bool bare = value.is_string() && !Json::accept(value.get<std::string>());
  return path + "=" + (bare ? value.get<std::string>() : value.dump());
}

std::string Shown(const std::vector<VariedSetting>& varied, const std::vector<Json>& values) {
  std::string text;
  for (std::size_t i = 0; i < varied.size(); ++i) {
    text += fmt::format("{}{}={}", i > 0 ? " " : "", varied[i].path, ValueText(values[i]));
  }
  return text;
}

// `share` in (0, 1) of the way through a setting's values.
Json ValueAt(const VariedSetting& setting, double share) {
  if (!setting.range) {
    const auto n = setting.values.size();
    return setting.values[std::min(n - 1, static_cast<std::size_t>(share * static_cast<double>(n)))];
  }
  ValueRange range = *setting.range;
  if (!range.whole) return Rounded(range.At(share), 9);
  const double last = range.high;
  range.high += 1;  // every whole number has a part of its own
  return static_cast<std::int64_t>(std::min(last, std::floor(range.At(share))));
}

std::vector<Json> LatinColumn(const VariedSetting& setting, std::size_t points, std::uint64_t seed) {
  Rng rng(seed, "sweep", setting.path);
  std::vector<std::size_t> bins(points);
  std::iota(bins.begin(), bins.end(), std::size_t{0});
  for (std::size_t i = points; i > 1; --i) std::swap(bins[i - 1], bins[rng.Below(i)]);
  std::vector<Json> column;
  for (const std::size_t bin : bins) {
    column.push_back(ValueAt(setting, (static_cast<double>(bin) + rng.Uniform01()) / static_cast<double>(points)));
  }
  return column;
}

// Size and time of change of every file that a text in the document names, but for a cache, which a run may write.
void Stamp(const Json& document, const std::string& base_dir, std::string& out) {
  for (const auto& [key, value] : document.items()) {
    if (value.is_structured()) Stamp(value, base_dir, out);
    if (!value.is_string() || value.get_ref<const std::string&>().empty() || key == "cache") continue;
    std::error_code error;
    const fs::path path = fs::path(base_dir) / value.get<std::string>();
    const auto add = [&](const fs::path& file) {
      const auto size = fs::file_size(file, error);
      const auto time = fs::last_write_time(file, error).time_since_epoch().count();
      if (!error) out += fmt::format("{} {} {}\n", file.string(), size, time);
    };
    if (fs::is_regular_file(path, error)) add(path);
    if (!fs::is_directory(path, error)) continue;
    std::vector<fs::path> files;  // of a trace that is a folder
    for (auto at = fs::directory_iterator(path, error); !error && at != fs::end(at); at.increment(error)) {
      if (at->is_regular_file(error)) files.push_back(at->path());
    }
    std::sort(files.begin(), files.end());
    std::for_each(files.begin(), files.end(), add);
  }
}

std::string Hex(const std::string& text) { return fmt::format("{:016x}", Hash64(text)); }

// The keys of a summary whose values are counted or measured on this machine.
void LeaveOutMachine(Json& summary) {
  summary.erase("wall_s");
  summary.erase("peak_rss_mb");
}

// A summary's keys with their values.
using Keys = std::vector<std::pair<std::string, Json>>;

// With values of the right kind; the columns of a table do not depend on which points could be run.
Keys KeysOf(const Scenario& scenario, bool failing) {
  RunResult none;
  none.failing = failing;
  Json shape = SummaryJson(scenario, none);
  LeaveOutMachine(shape);
  return Flattened(shape);
}

// All of `keys`, or the first three of a run that could not be made.
Keys ReadRun(const Keys& keys, std::size_t run, const std::string& text) {
  constexpr std::size_t kOfFailed = 3;  // policy, status, reason
  const std::string place = fmt::format("run {}", run);
  const Json json = ParseJson(text, place);
  Keys found = json.is_object() ? Flattened(json) : Keys();
  bool fits = found.size() == keys.size() || found.size() == kOfFailed;
  for (std::size_t k = 0; fits && k < found.size(); ++k) {
    const Json& value = found[k].second;
    fits = found[k].first == keys[k].first &&
           (keys[k].second.is_string() ? value.is_string() : value.is_number() || value.is_null());
  }
  if (!fits) throw InputError(fmt::format("{}: found {}; expected the summary of a run", place, ForMessage(text)));
  return found;
}

}  // namespace

VariedSetting ParseVaried(const std::string& text, const Json& resolved) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw InputError(
        fmt::format("--vary: found \"{}\"; expected path=A,B,... or path=LOW..HIGH:N, as in fleet.gpus=8..32:4", text));
  }
  VariedSetting setting;
  setting.path = text.substr(0, equals);
  const std::string where = "--vary " + setting.path;
  std::string list = text.substr(equals + 1);
  const std::size_t dots = list.find("..");
  const std::size_t comma = list.find(',');
  // "../a.csv,../b.csv" is a list of files.
  const bool range = dots != std::string::npos && dots > 0 && comma == std::string::npos && NumberOf(list.substr(0, dots));
  if (!range) {
    setting.values = ParseValues(list, false, where);
    return setting;
  }
  std::optional<int> points;
  if (const std::size_t colon = list.find(':'); colon != std::string::npos) {
    points = CountOf<int>(list.substr(colon + 1));
    if (!points || *points > static_cast<int>(kMostPoints)) {
      throw InputError(fmt::format("{}: found \"{}\"; expected LOW..HIGH:N, with N from 1 to {}", where, list, kMostPoints));
    }
    list.resize(colon);
  }
  setting.range = ParseRange(list, false, where);
  const Json now = At(resolved, setting.path);
  setting.range->whole = (now.is_number_integer() || now.is_null()) && setting.range->low == std::floor(setting.range->low) &&
                         setting.range->high == std::floor(setting.range->high) && std::abs(setting.range->low) < 1e15 &&
                         std::abs(setting.range->high) < 1e15;
  if (points) {
    setting.values = setting.range->Spaced(*points);
    setting.range.reset();
  }
  return setting;
}

SweepDesign ParseDesign(const std::string& text) {
  if (text == "cartesian") return {SweepDesign::Kind::kCartesian, 0};
  if (text == "zip") return {SweepDesign::Kind::kZip, 0};
  if (text.rfind("lhs:", 0) == 0) {
    const std::optional<std::size_t> points = CountOf<std::size_t>(text.substr(4));
    if (points && *points <= kMostPoints) return {SweepDesign::Kind::kLatinHypercube, *points};
  }
  throw InputError(
      fmt::format("--design: found \"{}\"; expected cartesian, zip, or lhs:N with N from 1 to {}", text, kMostPoints));
}

std::vector<std::vector<Json>> DesignPoints(const SweepDesign& design, const std::vector<VariedSetting>& varied,
                                            std::uint64_t seed) {
  const bool latin = design.kind == SweepDesign::Kind::kLatinHypercube;
  std::set<std::string> paths;
  for (const VariedSetting& setting : varied) {
    if (!paths.insert(setting.path).second) throw InputError(fmt::format("--vary {}: it is given twice", setting.path));
    if (setting.range && !latin) {
      throw InputError(fmt::format("--vary {}: expected the number of values, as in {}..{}:5; only --design lhs:N has one itself",
                                   setting.path, setting.range->low, setting.range->high));
    }
  }
  std::vector<std::vector<Json>> points;
  if (varied.empty()) return {{}};
  if (latin) {
    points.resize(design.points);
    for (const VariedSetting& setting : varied) {
      const std::vector<Json> column = LatinColumn(setting, design.points, seed);
      for (std::size_t p = 0; p < points.size(); ++p) points[p].push_back(column[p]);
    }
    return points;
  }
  if (design.kind == SweepDesign::Kind::kZip) {
    points.resize(varied.front().values.size());
    for (const VariedSetting& setting : varied) {
      if (setting.values.size() != points.size()) {
        throw InputError(fmt::format("--design zip: --vary {} has {} values and {} has {}; expected as many of each",
                                     varied.front().path, points.size(), setting.path, setting.values.size()));
      }
      for (std::size_t p = 0; p < points.size(); ++p) points[p].push_back(setting.values[p]);
    }
    return points;
  }
  points.emplace_back();
  for (const VariedSetting& setting : varied) {
    std::vector<std::vector<Json>> longer;
    if (points.size() * setting.values.size() > kMostPoints)
      throw InputError(fmt::format("--vary: more than {} points", kMostPoints));
    for (const std::vector<Json>& point : points) {
      for (const Json& value : setting.values) {
        longer.push_back(point);
        longer.back().push_back(value);
      }
    }
    points = std::move(longer);
  }
  return points;
}

Sweep::Sweep(const Loader& load, const SweepOptions& options)
    : base_(load({})), options_(options), replications_(options.replications) {
  const Json resolved = ResolvedScenario(base_);
  for (const std::string& text : options.vary) {
    varied_.push_back(ParseVaried(text, resolved));
    const std::string& path = varied_.back().path;
    if (!options.policies.empty() && path.size() >= 11 && path.compare(path.size() - 11, 11, "policy.name") == 0) {
      throw InputError(fmt::format("--vary {}: --policies says which policies already", path));
    }
  }
  std::vector<std::vector<Json>> designed = DesignPoints(options.design, varied_, static_cast<std::uint64_t>(base_.seed));
  const std::size_t policies = std::max<std::size_t>(1, options.policies.size());
  if (designed.size() * policies > kMostPoints) throw InputError(fmt::format("--vary: more than {} points", kMostPoints));
  std::set<std::string> opened;  // workloads: most sweeps have one
  for (std::size_t p = 0; p < designed.size(); ++p) {
    std::vector<std::string> assignments;
    for (std::size_t i = 0; i < varied_.size(); ++i) assignments.push_back(Assignment(varied_[i].path, designed[p][i]));
    try {
      const Scenario scenario = load(assignments);
      if (opened.insert(WriteStruct(scenario.workload).dump()).second) OpenScenarioWorkload(scenario);
      if (options.policies.empty()) points_.push_back({designed[p], scenario});
      for (const std::string& policy : options.policies) points_.push_back({designed[p], WithPolicy(scenario, policy)});
      failing_ = failing_ || scenario.failures.Any();
    } catch (const InputError& e) {
      throw InputError(fmt::format("--vary: point {} ({}): {}", p + 1, Shown(varied_, designed[p]), e.what()));
    }
  }
}

std::string Sweep::Label(std::size_t run) const {
  const auto replications = static_cast<std::size_t>(replications_);
  const Point& point = points_[run / replications];
  std::string label = Shown(varied_, point.values);
  if (!options_.policies.empty() || label.empty()) label += (label.empty() ? "" : " ") + PolicyNames(point.scenario);
  if (replications > 1) label += fmt::format(" #{}", run % replications + 1);
  return label;
}

Json Sweep::Identity() const {
  std::string files;
  Stamp(ResolvedScenario(base_), base_.base_dir, files);
  std::string design = fmt::format("{}\n", replications_);
  for (const Point& point : points_) {
    Json values = point.values;
    Stamp(values, base_.base_dir, files);
    design += fmt::format("{} {}\n", Shown(varied_, point.values), PolicyNames(point.scenario));
  }
  return {{"runs", runs()}, {"scenario", Hex(FileText(ResolvedScenario(base_)))}, {"design", Hex(design)}, {"files", Hex(files)}};
}

Json Sweep::DesignJson() const {
  Json json;
  constexpr const char* kNames[] = {"cartesian", "zip", "lhs"};
  json["design"] = kNames[static_cast<std::size_t>(options_.design.kind)];
  json["vary"] = options_.vary;
  json["policies"] = options_.policies;
  json["points"] = points();
  json["replications"] = replications_;
  return json;
}

std::string Sweep::Run(std::size_t run, const RunOptions& options, const std::function<void(std::int64_t)>& surveyed) const {
  const auto replications = static_cast<std::size_t>(replications_);
  Scenario scenario = points_[run / replications].scenario;
  scenario.seed += static_cast<std::int64_t>(run % replications);
  Json summary;
  try {
    const WorkloadFacts facts = SurveyWorkload(scenario);
    if (surveyed) surveyed(facts.seen.requests);
    RunResult result = SimulateIfFeasible(scenario, facts, options);
    result.failing = failing_;  // all points have the same keys
    summary = SummaryJson(scenario, result);
    LeaveOutMachine(summary);
  } catch (const InputError& e) {
    summary = {{"policy", PolicyNames(scenario)}, {"status", "failed"}, {"reason", e.what()}};
  }
  return summary.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Sweep::CheckText(std::size_t run, const std::string& text) const { ReadRun(KeysOf(base_, failing_), run, text); }

SweepTable::SweepTable(const Sweep& sweep, const std::vector<std::string>& texts) : varied(sweep.varied_.size()) {
  const auto replications = static_cast<std::size_t>(sweep.replications_);
  const Keys keys = KeysOf(sweep.base_, sweep.failing_);
  const auto estimated = [&](std::size_t k) { return replications > 1 && !keys[k].second.is_string(); };
  for (const VariedSetting& setting : sweep.varied_) columns.push_back(setting.path);
  for (std::size_t k = 0; k < keys.size(); ++k) {
    columns.push_back(keys[k].first);
    if (!estimated(k)) continue;
    columns.push_back(keys[k].first + ".ci_low");
    columns.push_back(keys[k].first + ".ci_high");
  }
  for (std::size_t p = 0; p < sweep.points_.size(); ++p) {
    std::vector<Keys> found;  // by replication
    std::size_t shown = 0;    // the first that could not be run, else the first
    for (std::size_t r = 0; r < replications; ++r) {
      found.push_back(ReadRun(keys, p * replications + r, texts[p * replications + r]));
      if (found[shown].size() == keys.size() && found[r].size() != keys.size()) shown = r;
    }
    const bool ran = found[shown].size() == keys.size();
    if (!ran) ++failed;
    std::vector<Json> row = sweep.points_[p].values;
    for (std::size_t k = 0; k < keys.size(); ++k) {
      if (k >= found[shown].size()) {
        row.resize(row.size() + (estimated(k) ? 3 : 1));
      } else if (!estimated(k)) {
        Json cell = found[shown][k].second;
        if (replications > 1 && keys[k].first == "fingerprint") {
          std::string all;
          for (const auto& one : found) all += one[k].second.get<std::string>();
          cell = Hex(all);
        }
        row.push_back(std::move(cell));
      } else {
        std::vector<double> values;
        for (const auto& one : found) {
          if (one[k].second.is_number()) values.push_back(one[k].second.get<double>());
        }
        const Estimate e = EstimateOf(values);
        const bool known = values.size() == replications;  // a price may be missing
        for (const double value : {e.mean, e.low, e.high}) row.push_back(known ? Json(Rounded(value)) : Json());
      }
    }
    rows.push_back(std::move(row));
  }
}

std::size_t SweepTable::Column(const std::string& name) const {
  return static_cast<std::size_t>(std::find(columns.begin() + static_cast<std::ptrdiff_t>(varied), columns.end(), name) -
                                  columns.begin());
}

std::string SweepTable::Csv() const {
  std::string out;
  for (const std::string& column : columns) out += (out.empty() ? "" : ",") + CsvCell(column);
  out += "\n";
  for (const std::vector<Json>& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) out += (i > 0 ? "," : "") + CsvValue(row[i]);
    out += "\n";
  }
  return out;
}

Json SweepTable::RowsJson() const {
  Json list = Json::array();
  for (const std::vector<Json>& row : rows) {
    Json object;
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!row[i].is_null()) object[columns[i]] = row[i];
    }
    list.push_back(std::move(object));
  }
  return list;
}

}  // namespace poolsim
