#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <unistd.h>

#include "planning/tune.h"
#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/search_options.h"
#include "sim/cli/table.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::size_t kShown = 20;  // points

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim tune quickstart --param q_max=1..8 --param group_size=1..32\n"
    "  poolsim tune my.json --policy aegaeon --param load=wait,groups --param alpha_min=0.5..2 --out out/tune\n"
    "  poolsim tune my.json --param q_max=0.5..16 --points 9 --objective gpus --target service=0.95\n"
    "  poolsim tune market.json --param q_max=1..8 --param group_size=1..32 --method halving --threads 8\n"
    "\n"
    "Tries every combination of the values (LOW..HIGH: --points of them, by equal factors where the ends are\n"
    "more than a factor of 4 apart; A,B,C: these) on the same requests: replication r has the scenario's seed\n"
    "+ r. Objectives: attainment, on the scenario's GPUs; gpus, the fewest that hold the target, as poolsim plan\n"
    "finds them. With --method halving the better third of each round goes on, to three times as long a part of\n"
    "the workload (gpus: as many replications). poolsim schema has the parameters of every policy.\n"
    "DIR gets tune.json, tune.csv, a row per point, scenario.json, manifest.json, and best.json, the scenario\n"
    "with the best parameters, ready to run.";

struct Options : SearchOptions {
  std::string policy;
  std::vector<std::string> params;
  std::string objective = "attainment";
  std::string method = "grid";
  std::int64_t points = 5;
};

TuneOptions TuneOptionsOf(const Options& options, const Scenario& scenario) {
  TuneOptions tune;
  tune.policy = options.policy.empty() ? scenario.Pools().front().policy.name : options.policy;
  const PolicyEntry* policy = Registry<PolicyEntry>::Get().Find(tune.policy);
  if (policy == nullptr) {
    throw InputError("--policy: " + UnknownName("policy", tune.policy, Registry<PolicyEntry>::Get().Names()));
  }
  for (const std::string& text : options.params) {
    tune.params.push_back(ParseTunedParam(text, *policy, static_cast<int>(options.points), "--param"));
  }
  tune.objective = options.objective == "gpus" ? TuneObjective::kGpus : TuneObjective::kAttainment;
  tune.method = options.method == "grid" ? TuneMethod::kGrid : TuneMethod::kHalving;
  tune.plan = PlanOptionsOf(options);
  return tune;
}

std::string Interval(const Estimate& e, std::size_t replications) {
  return replications < 2 ? "" : fmt::format("{} .. {}", Percent(std::max(0.0, e.low)), Percent(std::min(1.0, e.high)));
}

// Of shares, in hundredths.
std::string Points(const Estimate& e, std::size_t replications) {
  return replications < 2 ? fmt::format("{:.2f}", 100 * e.mean)
                          : fmt::format("{:.2f} ({:.2f} .. {:.2f})", 100 * e.mean, 100 * e.low, 100 * e.high);
}

std::string PointsTable(const Tuning& tuning, const TuneOptions& options, const Style& style) {
  const bool gpus = options.objective == TuneObjective::kGpus;
  const bool halving = options.method == TuneMethod::kHalving;
  std::vector<Column> columns = {{"rank", Align::kRight, ""}};
  for (const TunedParam& param : options.params) columns.push_back({param.name, Align::kRight, ""});
  if (halving) columns.push_back({"effort", Align::kRight, ""});
  columns.push_back({"GPUs", Align::kRight, ""});
  columns.push_back({"mean", Align::kRight, "% within target"});
  columns.push_back({"95 %", Align::kRight, "% within target"});
  if (!gpus) columns.push_back({"behind the best, points", Align::kRight, ""});
  Table table(columns);
  const auto row = [&](const std::string& rank, const TunePoint& point) {
    std::vector<std::string> cells = {rank};
    for (const Json& value : point.values) cells.push_back(ValueText(value));
    if (halving) cells.push_back(fmt::format("{:.2g}", point.effort));
    if (!point.found)
      return table.Remark(rank, fmt::format("{}: {}", fmt::join(cells.begin() + 1, cells.end(), ", "), point.reason));
    const std::size_t n = point.attainment.size();
    cells.push_back(point.low_gpus < point.high_gpus && gpus
                        ? fmt::format("{} ({}-{})", point.gpus, point.low_gpus, point.high_gpus)
                        : Count(point.gpus));
    cells.push_back(Percent(point.mean.mean));
    cells.push_back(Interval(point.mean, n));
    if (!gpus) cells.push_back(point.effort < 1 ? "" : Points(point.behind, n));
    table.Row(std::move(cells));
  };
  const std::size_t shown = std::min(tuning.points.size(), kShown);
  for (std::size_t i = 0; i < shown; ++i) row(std::to_string(i + 1), tuning.points[i]);
  if (shown < tuning.points.size()) {
    table.Remark("...", Plural(static_cast<std::int64_t>(tuning.points.size() - shown), "more point"));
  }
  row("now", tuning.start);
  return table.Text(style);
}

// How much is lost where one parameter has another value.
std::string FlatnessText(const Tuning& tuning, const TuneOptions& options, const Style& style) {
  const bool gpus = options.objective == TuneObjective::kGpus;
  std::string out;
  for (const Flatness& flat : tuning.flatness) {
    const bool all = std::all_of(flat.values.begin(), flat.values.end(), [](const Flatness::Value& v) { return v.within; });
    const std::string range = flat.low == flat.high ? "only at " + ValueText(flat.low)
                              : all                 ? "everywhere from " + ValueText(flat.low) + " to " + ValueText(flat.high)
                                                    : "from " + ValueText(flat.low) + " to " + ValueText(flat.high);
    out += style.Bold(flat.param) +
           fmt::format(": within {} of the best {}\n", gpus ? Plural(tuning.group_gpus, "GPU") : std::string("1 %"), range);
    std::vector<Column> columns;
    for (const Flatness::Value& value : flat.values) columns.push_back({ValueText(value.value), Align::kRight, ""});
    Table table(columns);
    std::vector<std::string> cells;
    for (const Flatness::Value& value : flat.values) {
      const TunePoint& point = tuning.points[value.best];
      std::string cell = !point.found ? "-" : gpus ? Count(point.gpus) : Percent(point.mean.mean);
      if (point.effort < tuning.points.front().effort) cell = "(" + cell + ")";
      cells.push_back(cell);
    }
    table.Row(std::move(cells));
    out += table.Text(style, 2) + "\n";
  }
  return out;
}

std::string TuneText(const Scenario& scenario, const Tuning& tuning, const TuneOptions& options, const Style& style) {
  const Target& target = options.plan.criteria.targets.front();
  const std::string kind = kAttainmentNames[static_cast<std::size_t>(target.kind)];
  std::string out = style.Bold(fmt::format("tune {}", scenario.name.empty() ? scenario.file : scenario.name));
  out += options.objective == TuneObjective::kGpus
             ? fmt::format(": the fewest GPUs of {} with {} % {} attainment", options.policy, Percent(target.share), kind)
             : fmt::format(": the most {} attainment of {}", kind, options.policy);
  out += fmt::format("\n{}, {}, {}{}\n\n", Plural(static_cast<std::int64_t>(tuning.points.size()), "point"),
                     Plural(options.plan.replications, "replication"), Plural(tuning.facts.seen.requests, "request"),
                     tuning.windowed ? fmt::format(", searched in the busiest {}", Duration(tuning.span_s)) : std::string());
  out += PointsTable(tuning, options, style) + "\n";
  if (tuning.fresh) {
    const auto n = static_cast<std::size_t>(options.plan.replications);
    out += Wrap(fmt::format("On {} that had no say in which is best: {} % with the best, {} % as it is now; {} points more.",
                            Plural(options.plan.replications, "fresh seed"), Percent(tuning.fresh->best.mean),
                            Percent(tuning.fresh->start.mean), Points(tuning.fresh->ahead, n)),
                kPageWidth, 0, 0) +
           "\n\n";
  }
  out += Wrap("Each value of a parameter with the others at their best beside it" +
                  std::string(options.method == TuneMethod::kHalving ? "; in brackets: given up in an earlier round" : "") + ".",
              kPageWidth, 0, 0) +
         "\n\n";
  return out + FlatnessText(tuning, options, style);
}

void TuneIt(const Options& options, const Invocation& invocation) {
  Scenario scenario = LoadScenarioArgument(options);
  TuneOptions tune = TuneOptionsOf(options, scenario);
  if (!options.policy.empty()) scenario = WithPolicy(scenario, options.policy);
  const bool to_files = !options.out.empty();
  const auto folder = to_files ? std::make_unique<ResultsFolder>(options.out) : nullptr;
  const auto guard = to_files ? std::make_unique<InterruptGuard>([&folder] { folder->Discard(); }) : nullptr;
  Tuning tuning;
  {
    StatusLine status(options.quiet);
    tune.plan.progress = [&status](const std::string& what) { status.Say(what); };
    tuning = Tune(scenario, tune);
  }
  if (to_files) {
    folder->Write("tune.json", FileText(TuneJson(tuning, tune)));
    folder->Write("tune.csv", TuneCsv(tuning, tune));
    folder->Write("scenario.json", FileText(ResolvedScenario(scenario)));
    folder->Write("best.json", ScenarioText(tuning.best, options.out));
    const Json manifest = ManifestJson(ProvenanceOf(options, invocation), scenario, tuning.facts, {});
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  if (options.json) {
    fmt::print("{}", FileText(TuneJson(tuning, tune)));
    return;
  }
  fmt::print("{}", TuneText(scenario, tuning, tune, StyleFor(STDOUT_FILENO)));
  if (to_files) fmt::print("Results: {}\n", options.out);
}

}  // namespace

void AddTuneCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tune", "find the parameters with which a policy serves best or needs fewest GPUs");
  AddSearchOptions(*command, *options, "gpus: the service, token or request attainment to hold; attainment: which of them",
                   "point", "gpus: ");
  command->add_option("--policy", options->policy, "whose parameters, of all pools (default: that of the scenario's first pool)")
      ->type_name("NAME");
  command->add_option("--param", options->params, "a parameter and its values; may be given often")
      ->required()
      ->allow_extra_args(false)
      ->type_name("NAME=VALUES");
  command->add_option("--objective", options->objective, "attainment or gpus (default: attainment)")
      ->check(CLI::IsMember({"attainment", "gpus"}).description(""))
      ->type_name("attainment|gpus");
  command->add_option("--method", options->method, "grid or halving (default: grid)")
      ->check(CLI::IsMember({"grid", "halving"}).description(""))
      ->type_name("grid|halving");
  command->add_option("--points", options->points, "values of a range (default: 5)")
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N");
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options, &invocation] { TuneIt(*options, invocation); }; });
}

}  // namespace poolsim
