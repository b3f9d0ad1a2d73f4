// `poolsim trace stats`: what is in a trace, as tables, JSON and CSV.
#include <algorithm>
#include <chrono>
#include <memory>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/table.h"
#include "sim/cli/trace_input.h"
#include "sim/errors.h"
#include "traces/statistics.h"
#include "version.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim trace stats day.csv.zst\n"
    "  poolsim trace stats my.json --set workload.to_s=3600          an hour of a scenario's workload\n"
    "  poolsim trace stats --template market --set workload.rate_scale=0.001\n"
    "  poolsim trace stats day.ptrace --out out/day --service-s 30\n"
    "  poolsim trace stats day.csv.zst --json --quiet | jq .cold_by_rate\n"
    "\n"
    "One pass, in memory that does not grow with the trace. DIR gets table.txt, stats.json, models.csv (all\n"
    "models), windows.csv (requests and active models over time) and manifest.json. Terms:\n"
    "  CV           standard deviation of the gaps between arrivals over their mean; Poisson arrivals have 1\n"
    "  dispersion   variance over mean of the counts in windows; Poisson arrivals have 1\n"
    "  active       a model is active for T seconds after each arrival; with Poisson arrivals at its rate\n"
    "               it would be so for 1 - exp(-rate T) of the time\n"
    "  seen before  share of prompt blocks whose prefix hash has come before: a block counts when it and all\n"
    "               before it in the prompt are as in an earlier prompt. Beyond 16.8 M distinct hashes\n"
    "               (or 4.2 M sessions) an evenly drawn part of them is followed, and said to be\n"
    "  peak/mean    requests of the busiest 10 minutes over the mean of all; of models with 10 in the mean";

struct Options {
  TraceInput input;
  StatisticsOptions statistics;
  std::string out;
  bool json = false;
  bool quiet = false;
};

Json OrNull(const std::optional<double>& value) { return value ? Json(Rounded(*value)) : Json(nullptr); }
std::string OrDash(const std::optional<double>& value) { return value ? Number(*value) : "-"; }

Json LengthJson(const LengthStatistics& lengths) {
  Json json;
  json["mean"] = Rounded(lengths.mean);
  for (std::size_t i = 0; i < kLengthQuantiles.size(); ++i)
    json[fmt::format("p{:.0f}", kLengthQuantiles[i] * 100)] = lengths.quantiles[i];
  json["max"] = lengths.max;
  json["sum"] = lengths.sum;
  return json;
}

Json ModelJson(const ModelStatistics& m) {
  Json json;
  json["model"] = m.name;
  json["base"] = m.base;
  json["requests"] = m.requests;
  json["share"] = Rounded(m.share);
  json["rate_per_s"] = Rounded(m.rate);
  json["gap_cv"] = OrNull(m.gap_cv);
  json["dispersion"] = OrNull(m.dispersion);
  json["peak_over_mean"] = OrNull(m.peak_over_mean);
  json["prompt_tokens_mean"] = Rounded(m.mean_prompt);
  json["output_tokens_mean"] = Rounded(m.mean_output);
  json["active_expected"] = Rounded(m.active);
  return json;
}

Json TailJson(const char* key, const std::vector<std::pair<double, ColdTail>>& rows) {
  Json list = Json::array();
  for (const auto& [limit, tail] : rows) {
    list.push_back(Json{{key, limit},
                        {"models", tail.models},
                        {"models_share", Rounded(tail.model_share)},
                        {"requests_share", Rounded(tail.request_share)},
                        {"highest_rate_per_s", Rounded(tail.top_rate)}});
  }
  return list;
}

Json StatisticsJson(const TraceStatistics& s, const RowAccount& account, const StatisticsOptions& options) {
  Json json;
  if (account.rows) {
    json["rows_read"] = account.counts.rows_read;
    json["rows_failed"] = account.counts.rows_failed;
    json["rows_skipped"] = account.counts.rows_skipped;
    if (account.counts.rows_skipped > 0) json["first_skipped"] = account.counts.first_skipped;
    json["rows_left_out"] = account.left_out;
    json["requests_repeated"] = account.repeated;
  }
  json["requests"] = s.requests;
  json["models"] = s.models.size();
  json["models_with_requests"] = s.models_seen;
  json["first_arrival_s"] = Rounded(s.first_s, 9);
  json["span_s"] = Rounded(s.span_s, 9);
  json["rate_per_s"] = Rounded(s.rate);
  json["gap_cv"] = OrNull(s.gap_cv);
  json["window_s"] = options.window_s;
  json["dispersion"] = OrNull(s.dispersion);
  json["prompt_tokens"] = LengthJson(s.prompt);
  json["output_tokens"] = LengthJson(s.output);
  json["length_correlation"] = Json{{"pearson", OrNull(s.pearson)}, {"spearman", OrNull(s.spearman)}};
  Json top = Json::array();
  for (const auto& [k, share] : s.top) top.push_back(Json{{"models", k}, {"requests_share", Rounded(share)}});
  json["top"] = std::move(top);
  json["cold_by_rate"] = TailJson("below_rate_per_s", s.below_rate);
  json["cold_by_share"] = TailJson("coldest_share", s.coldest_share);
  json["peak_over_mean"] = Json{{"p50", OrNull(s.peak_over_mean_p50)}, {"p90", OrNull(s.peak_over_mean_p90)}};
  json["service_s"] = options.service_s;
  Json series = Json::array();
  for (const TraceStatistics::Window& window : s.windows) series.push_back(Rounded(window.active));
  json["active_models"] = Json{{"mean", OrNull(s.active)},    {"expected", Rounded(s.active_expected)},
                               {"min", OrNull(s.active_min)}, {"p50", OrNull(s.active_p50)},
                               {"max", OrNull(s.active_max)}, {"by_window", std::move(series)}};
  json["hours"] = Json{{"min_over_mean", OrNull(s.hour_min)}, {"max_over_mean", OrNull(s.hour_max)}, {"requests", s.hours}};
  Json sessions;
  sessions["requests"] = s.session_requests;
  sessions["sessions"] = static_cast<std::int64_t>(s.sessions);
  sessions["sampled_share"] = s.sessions_share;
  sessions["turns"] =
      s.turns_mean ? Json{{"mean", Rounded(*s.turns_mean)}, {"p50", s.turns_p50}, {"p90", s.turns_p90}} : Json(nullptr);
  json["sessions"] = std::move(sessions);
  Json prefixes;
  prefixes["block_tokens_max"] = s.block_tokens;
  prefixes["blocks"] = s.blocks;
  prefixes["sampled_share"] = s.blocks_share;
  prefixes["reused_share"] = OrNull(s.blocks_reused);
  json["prefixes"] = std::move(prefixes);
  json["hash_bytes"] = s.hash_bytes;
  Json models = Json::array();
  for (const ModelStatistics& m : s.models) models.push_back(ModelJson(m));
  json["per_model"] = std::move(models);
  return json;
}

std::string CsvValue(const Json& value) {
  if (value.is_null()) return "";
  return value.is_string()         ? CsvCell(value.get<std::string>())
         : value.is_number_float() ? fmt::format("{}", value.get<double>())
                                   : value.dump();
}

std::string TraceModelsCsv(const TraceStatistics& s) {
  const Json header = ModelJson({});
  std::vector<std::string> cells;
  for (const auto& [key, value] : header.items()) cells.push_back(key);
  std::string out = fmt::format("{}\n", fmt::join(cells, ","));
  for (const ModelStatistics& m : s.models) {
    const Json row = ModelJson(m);
    cells.clear();
    for (const auto& [key, value] : row.items()) cells.push_back(CsvValue(value));
    out += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return out;
}

std::string TraceWindowsCsv(const TraceStatistics& s, const StatisticsOptions& options) {
  std::string out = "start_s,requests,active_models\n";
  for (std::size_t i = 0; i < s.windows.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{},{},{}\n", Rounded(s.first_s + static_cast<double>(i) * options.window_s, 9),
                   s.windows[i].requests, Rounded(s.windows[i].active));
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------------------

std::string Item(const Style& style, const std::string& label, const std::string& text) {
  constexpr std::size_t kLabel = 16;
  const std::string start = "  " + label + std::string(kLabel - 2 - std::min(kLabel - 3, label.size()), ' ');
  return style.Dim(start) + Wrap(text, kPageWidth, kLabel, kLabel) + "\n";
}

std::string LengthsTable(const TraceStatistics& s, const Style& style) {
  std::vector<Column> columns = {{"tokens", Align::kLeft, ""}, {"mean", Align::kRight, ""}};
  for (const double q : kLengthQuantiles) columns.push_back({fmt::format("p{:.0f}", q * 100), Align::kRight, ""});
  columns.push_back({"max", Align::kRight, ""});
  Table table(std::move(columns));
  const auto row = [&table](const char* name, const LengthStatistics& lengths) {
    std::vector<std::string> cells = {name, Number(lengths.mean)};
    for (const std::int64_t q : lengths.quantiles) cells.push_back(Count(q));
    cells.push_back(Count(lengths.max));
    table.Row(std::move(cells));
  };
  row("prompt", s.prompt);
  row("output", s.output);
  return table.Text(style, 2);
}

std::string Rate(double rate) { return rate >= 0.0995 || rate == 0 ? Number(rate) : fmt::format("{:.2g}", rate); }

std::string TailTable(const TraceStatistics& s, const Style& style) {
  Table table({{"cold models", Align::kLeft, ""},
               {"models", Align::kRight, ""},
               {"% of models", Align::kRight, ""},
               {"% of requests", Align::kRight, ""},
               {"hottest, request/s", Align::kRight, ""}});
  const auto row = [&table](std::string what, const ColdTail& tail) {
    if (tail.models == 0) return;
    const double share = 100 * tail.request_share;
    table.Row({std::move(what), Count(tail.models), Percent(tail.model_share), share == 0 ? "0" : fmt::format("{:.3g}", share),
               Rate(tail.top_rate)});
  };
  for (const auto& [rate, tail] : s.below_rate) row(fmt::format("below {} request/s", rate), tail);
  for (const auto& [share, tail] : s.coldest_share) row(fmt::format("the coldest {} %", Rounded(share * 100)), tail);
  return table.Text(style, 2);
}

// A name that leaves room for the other columns.
std::string Cut(const std::string& name) {
  constexpr std::size_t kMost = 28;
  if (Width(name) <= kMost) return name;
  std::size_t bytes = 0;
  for (std::size_t points = 0; points < kMost - 2; ++points) {
    do ++bytes;
    while (bytes < name.size() && (static_cast<unsigned char>(name[bytes]) & 0xC0) == 0x80);
  }
  return name.substr(0, bytes) + "..";
}

std::string ModelsTable(const TraceStatistics& s, const Style& style) {
  constexpr std::size_t kMost = 20;
  const std::vector<Column> columns = {{"model", Align::kLeft, ""},
                                       {"LLM", Align::kLeft, ""},
                                       {"requests", Align::kRight, ""},
                                       {"%", Align::kRight, ""},
                                       {"/s", Align::kRight, ""},
                                       {"CV", Align::kRight, "gaps"},
                                       {"disp.", Align::kRight, "gaps"},
                                       {"peak/mean", Align::kRight, "10 min"},
                                       {"prompt", Align::kRight, "mean tokens"},
                                       {"output", Align::kRight, "mean tokens"}};
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < std::min(kMost, s.models.size()); ++i) {
    const ModelStatistics& m = s.models[i];
    rows.push_back({Cut(m.name), Cut(m.base), Count(m.requests), Percent(m.share), Rate(m.rate), OrDash(m.gap_cv),
                    OrDash(m.dispersion), OrDash(m.peak_over_mean), Number(m.mean_prompt), Number(m.mean_output)});
  }
  // Columns that say something.
  std::vector<std::size_t> shown;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    if (std::any_of(rows.begin(), rows.end(), [c](const auto& row) { return !row[c].empty() && row[c] != "-"; }))
      shown.push_back(c);
  }
  std::vector<Column> headings;
  for (const std::size_t c : shown) headings.push_back(columns[c]);
  Table table(std::move(headings));
  for (const auto& row : rows) {
    std::vector<std::string> cells;
    for (const std::size_t c : shown) cells.push_back(row[c]);
    table.Row(std::move(cells));
  }
  std::string out = table.Text(style, 2);
  if (s.models.size() > kMost)
    out += fmt::format("  and {} more models; --out and --json have all of them\n",
                       Count(static_cast<std::int64_t>(s.models.size() - kMost)));
  return out;
}

std::string Report(const Options& options, const Scenario& scenario, const TraceStatistics& s, const RowAccount& account,
                   const Style& style) {
  const StatisticsOptions& o = options.statistics;
  std::string out = style.Bold("trace stats " + (scenario.name.empty() ? options.input.Name() : scenario.name)) + "\n";
  out += Item(style, "requests",
              fmt::format("{} to {} over {}, {} request/s", Count(s.requests),
                          Plural(static_cast<std::int64_t>(s.models.size()), "model"), Duration(s.span_s), Rate(s.rate)));
  const std::int64_t without = static_cast<std::int64_t>(s.models.size()) - s.models_seen;
  if (without > 0) out += Item(style, "", fmt::format("{} {} none", Plural(without, "model"), without == 1 ? "has" : "have"));
  if (account.rows) {
    out += Item(style, "rows",
                fmt::format("{} read, {} failed in the source, {} skipped", Count(account.counts.rows_read),
                            Count(account.counts.rows_failed), Count(account.counts.rows_skipped)));
  }
  for (const std::string& remark : account.Remarks()) out += Item(style, "", remark);
  out += Item(style, "arrivals",
              fmt::format("gap CV {}, index of dispersion {} (windows of {})", OrDash(s.gap_cv), OrDash(s.dispersion),
                          Duration(o.window_s)));
  if (s.hour_min) out += Item(style, "hours", fmt::format("{} to {} times the mean", OrDash(s.hour_min), OrDash(s.hour_max)));
  if (s.peak_over_mean_p50) {
    out += Item(style, "peak over mean",
                fmt::format("of a model, its busiest 10 minutes: median {}, p90 {} (where the mean is 10 requests or more)",
                            OrDash(s.peak_over_mean_p50), OrDash(s.peak_over_mean_p90)));
  }
  out += Item(style, "active models",
              fmt::format("{} on average, each for {} s after an arrival; expected of Poisson arrivals: {} of {}",
                          s.active ? Number(*s.active) : "-", Number(o.service_s), Number(s.active_expected),
                          Count(static_cast<std::int64_t>(s.models.size()))));
  if (s.active_min) {
    out += Item(style, "",
                fmt::format("in windows of {}: min {}, p50 {}, max {}", Duration(o.window_s), Number(*s.active_min),
                            Number(*s.active_p50), Number(*s.active_max)));
  }
  const auto sampled = [](double share) { return share < 1 ? fmt::format(" (of {} % followed)", Rounded(share * 100, 3)) : ""; };
  if (s.turns_mean) {
    out += Item(style, "sessions",
                fmt::format("{} with {} requests; turns: mean {}, p50 {}, p90 {}{}", Count(static_cast<std::int64_t>(s.sessions)),
                            Count(s.session_requests), Number(*s.turns_mean), Count(s.turns_p50), Count(s.turns_p90),
                            sampled(s.sessions_share)));
  }
  if (s.blocks_reused) {
    out += Item(style, "prefixes",
                fmt::format("{} blocks of up to {} tokens, {} % of them seen before{}", Count(s.blocks), s.block_tokens,
                            Percent(*s.blocks_reused), sampled(s.blocks_share)));
  }
  if (s.hash_bytes > 0)
    out += Item(style, "", fmt::format("{} of memory for hashes", ByteSize(static_cast<double>(s.hash_bytes))));
  out += "\n" + LengthsTable(s, style);
  out += Item(style, "correlation",
              fmt::format("of prompt and output: Pearson {}, by ranks {}", OrDash(s.pearson), OrDash(s.spearman)));
  if (s.models.size() > 1) {
    std::vector<std::string> top;
    for (const auto& [k, share] : s.top) top.push_back(fmt::format("top {} {} %", k, Percent(share)));
    out += "\n" + Item(style, "popularity", fmt::format("{}", fmt::join(top, ", "))) + "\n" + TailTable(s, style);
  }
  return out + "\n" + ModelsTable(s, style);
}

void Stats(const Options& options, const Invocation& invocation) {
  const Scenario scenario = LoadTraceInput(options.input);
  const bool to_files = !options.out.empty();
  const auto folder = to_files ? std::make_unique<ResultsFolder>(options.out) : nullptr;
  const auto guard = to_files ? std::make_unique<InterruptGuard>([&folder] { folder->Discard(); }) : nullptr;
  StatisticsCollector collector(options.statistics);
  const auto source = OpenWorkloadOf(scenario);
  {
    const Progress progress(Progress::ModeFor(options.quiet));
    RequestSpec spec;
    while (source->Next(spec)) collector.Add(spec, source->details());
  }
  const TraceStatistics s = collector.Finish(source->names());
  if (s.requests == 0) throw InputError(fmt::format("{}: there is no request in it", options.input.Name()));
  const RowAccount account = AccountOfRows(scenario, source->counts(), s.requests);
  const Json json = StatisticsJson(s, account, options.statistics);
  if (to_files) {
    folder->Write("table.txt", Report(options, scenario, s, account, Style{}));
    folder->Write("stats.json", FileText(json));
    folder->Write("models.csv", TraceModelsCsv(s));
    folder->Write("windows.csv", TraceWindowsCsv(s, options.statistics));
    folder->Commit(Json{{"poolsim_version", POOLSIM_VERSION},
                        {"poolsim_commit", POOLSIM_COMMIT},
                        {"command", invocation.command_line},
                        {"trace", options.input.Name()}});
  }
  fmt::print("{}", options.json ? FileText(json) : Report(options, scenario, s, account, StyleFor(STDOUT_FILENO)));
  if (to_files && !options.json) fmt::print("\n  results       {}\n", options.out);
}

}  // namespace

void AddTraceStatsCommand(CLI::App& trace, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = trace.add_subcommand("stats", "say what is in a trace, or in a scenario's workload");
  AddTraceInput(*command, options->input, "IN", "trace file, or scenario (JSON) for its workload", kTraceFiles | kTemplates);
  command
      ->add_option("--service-s", options->statistics.service_s,
                   "a model is active for so long after an arrival (default: 16.79)")
      ->check(CLI::Range(1e-3, 1e6).description(""))
      ->type_name("T");
  command->add_option("--window-s", options->statistics.window_s, "window for counts (default: 60)")
      ->check(CLI::Range(1.0, 1e6).description(""))
      ->type_name("S");
  command->add_option("--top", options->statistics.top, "share of requests of the k hottest models (default: 1,5,10,20,50,100)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1'000'000'000).description(""))
      ->type_name("K,...");
  command->add_option("--out", options->out, "folder for the results; without it nothing is written")
      ->check([](const std::string& folder) { return folder.empty() ? "expected the name of a folder" : ""; })
      ->type_name("DIR");
  command->add_flag("--quiet", options->quiet, "no progress on stderr");
  command->add_flag("--json", options->json, "print JSON instead of tables");
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options, &invocation] { Stats(*options, invocation); }; });
}

}  // namespace poolsim
