#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

#include "planning/plan.h"
#include "planning/savings.h"
#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/ranks.h"
#include "sim/cli/search_options.h"
#include "sim/cli/table.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim plan quickstart --policies dedicated,serverless-llm,aegaeon\n"
    "  poolsim plan my.json --target service=0.99 --per-model-target service=0.9 --out out/plan\n"
    "  poolsim plan my.json --replications 10 --window-s 7200\n"
    "  poolsim plan my.json --choose-pooled --attribution exact --out out/mix\n"
    "\n"
    "The fewest GPUs of each policy that hold the target, in whole groups of an instance, by simulation:\n"
    "replication r has the scenario's seed + r, and every size sees the same replications. Each pool is\n"
    "sized on its own; under dedicated, each model; where prefill and decode are apart, their split is\n"
    "searched too. A workload longer than the window is searched in its busiest window, after a warm-up.\n"
    "DIR gets plan.json, scenario.json, manifest.json, answer-POLICY.json, a scenario per policy at its\n"
    "answer, ready to run; and savings.csv, model by model, where dedicated and a shared policy are planned.";

struct Options : SearchOptions {
  std::string policies;
  double confidence = 0.95;
  bool confidence_typed = false;
  bool confirm = false;
  bool no_confirm = false;
  std::string attribution = "busy";
  bool choose_pooled = false;
};

PlanOptions AllOptionsOf(const Options& options) {
  PlanOptions plan = PlanOptionsOf(options);
  plan.confirm = options.confirm ? Confirm::kAlways : options.no_confirm ? Confirm::kNo : Confirm::kIfShort;
  plan.criteria.confidence = options.confidence;
  if (options.confidence_typed && options.replications < 2) {
    throw InputError(
        fmt::format("--confidence: an interval needs at least 2 replications; found --replications {}", options.replications));
  }
  return plan;
}

bool SizesByModel(const PolicyPlan& p) { return p.found && !p.units.front().unit.model.empty(); }
bool IsOracle(const PolicyPlan& p) { return p.units.front().unit.policy->oracle; }

// What saves, and what it is held against: the plan that gives every model its own, and of the others that with the fewest GPUs;
// one that knows the future only when there is no other. Null where there is none.
struct Pair {
  const PolicyPlan* dedicated = nullptr;
  const PolicyPlan* pooled = nullptr;
};
Pair PairOf(const Plan& plan) {
  Pair pair;
  for (const PolicyPlan& p : plan.policies) {
    if (!p.found) continue;
    if (SizesByModel(p)) {
      if (pair.dedicated == nullptr) pair.dedicated = &p;
    } else if (pair.pooled == nullptr || std::pair(IsOracle(p), p.gpus) < std::pair(IsOracle(*pair.pooled), pair.pooled->gpus)) {
      pair.pooled = &p;
    }
  }
  return pair;
}

std::string SavingsText(const Pair& pair, const std::vector<ModelSaving>& savings, const Style& style) {
  constexpr std::size_t kShown = 12;
  const double saved = 1 - static_cast<double>(pair.pooled->gpus) / static_cast<double>(pair.dedicated->gpus);
  std::string out = fmt::format("{} needs {} instead of {} ({:+.0f} %). Who frees most:\n\n", pair.pooled->policy,
                                Plural(pair.pooled->gpus, "GPU"), Count(pair.dedicated->gpus), -100 * saved);
  const bool exact = savings.front().without.has_value();
  std::vector<Column> columns = {{"model", Align::kLeft, ""},
                                 {"requests", Align::kRight, ""},
                                 {"own", Align::kRight, "GPUs"},
                                 {"in pool", Align::kRight, "GPUs"}};
  if (exact) columns.push_back({"left out", Align::kRight, "GPUs"});
  for (const char* title : {"freed", "% of all", "% in time", "switches"}) columns.push_back({title, Align::kRight, ""});
  Table table(columns);
  const auto row = [&](const ModelSaving& s) {
    std::vector<std::string> cells = {s.name, Count(s.requests), Count(s.dedicated_gpus), Number(s.pool_gpus)};
    if (exact) cells.push_back(Count(*s.without));
    for (const std::string& cell :
         {Number(s.freed), fmt::format("{:.1f}", 100 * s.share), Percent(s.attainment), ShortCount(s.switches)}) {
      cells.push_back(cell);
    }
    table.Row(std::move(cells));
  };
  const std::size_t tail = savings.size() > kShown ? 3 : 0;
  const std::size_t head = std::min(savings.size(), kShown) - tail;
  for (std::size_t i = 0; i < head; ++i) row(savings[i]);
  if (tail > 0) table.Remark("...", Plural(static_cast<std::int64_t>(savings.size() - head - tail), "model"));
  for (std::size_t i = savings.size() - tail; i < savings.size(); ++i) row(savings[i]);
  return out + table.Text(style) + "\n";
}

std::string ChoicesText(const Pair& pair, const std::vector<Choice>& choices) {
  std::string out;
  std::int64_t gpus = 0;
  for (const Choice& choice : choices) {
    const auto models = static_cast<std::int64_t>(choice.order.size());
    gpus += choice.best.gpus();
    std::string tried;
    for (const Cut& cut : choice.tried) {
      tried += fmt::format("{}{} of {}: {}", tried.empty() ? "" : ", ", cut.pooled_models, models,
                           cut.found ? Count(cut.gpus()) : "not found");
    }
    out += Wrap(fmt::format(
                    "Pool \"{}\": {} of {} on {}, the others on {} of their own. Tried with the first replication, in GPUs: {}.",
                    choice.pool, choice.best.pooled_models, Plural(models, "model"), Plural(choice.best.pool_gpus, "shared GPU"),
                    choice.best.dedicated_gpus, tried),
                kPageWidth, 2, 0) +
           "\n";
  }
  return out + fmt::format("That is {}; all dedicated {}, all shared {}.\n", Plural(gpus, "GPU"), Count(pair.dedicated->gpus),
                           Count(pair.pooled->gpus));
}

std::string TargetText(const PlanOptions& options) {
  std::string text;
  const auto add = [&text](const Target& t, const char* of) {
    text += fmt::format("{}{} % {} attainment{}", text.empty() ? "" : ", ", Percent(t.share),
                        kAttainmentNames[static_cast<std::size_t>(t.kind)], of);
  };
  for (const Target& t : options.criteria.targets) add(t, "");
  for (const Target& t : options.criteria.model_targets) add(t, " of every model");
  return text;
}

// `below`: the kind of attainment of the size below.
void PolicyRow(const PolicyPlan& p, AttainmentKind below, Table& table) {
  if (!p.found) return table.Remark(p.policy, "not found: " + p.reason);
  const auto share = [](const std::vector<Tally>& tallies, AttainmentKind kind) {
    return Percent(AttainmentEstimate(tallies, kind, 0.95).mean);
  };
  const Tally mean = MeanOf(p.at);
  double busy = 0;
  for (int a = 0; a < kWork; ++a) busy += MeanActivity(p.at)[a];
  const double hours = std::max(mean.hours, 1e-9);
  table.Row({p.policy, Count(p.gpus),
             p.at.size() > 1 ? fmt::format("{}-{}", Count(p.low_gpus), p.high_open ? "?" : Count(p.high_gpus)) : "-",
             share(p.at, AttainmentKind::kService), share(p.at, AttainmentKind::kToken), share(p.at, AttainmentKind::kRequest),
             p.below.empty() ? "-" : share(p.below, below), Percent(busy), ShortCount(static_cast<double>(mean.switches) / hours),
             mean.usd_per_hour ? Number(*mean.usd_per_hour) : "-", mean.power_kw ? Number(*mean.power_kw) : "-",
             Number(p.fluid_gpus), Number(p.memory_gpus), LargestUnit(p).binding.constraint});
}

std::string Notes(const Plan& plan, const PlanOptions& options) {
  std::string out;
  const auto say = [&out](const std::string& text) { out += Wrap(text, kPageWidth, 2, 0) + "\n"; };
  for (const PolicyPlan& p : plan.policies) {
    if (!p.found) continue;
    const SizedUnit& largest = LargestUnit(p);
    std::string split;
    if (largest.sized.size.prefill > 0) {
      split = fmt::format("; {} of {} prefill", largest.sized.size.prefill, Plural(largest.sized.size.instances, "instance"));
    }
    const std::string where = p.units.size() > 1 ? " (" + largest.unit.name() + ")" : "";
    say(fmt::format("{}{}: {}{}.", p.policy, where, largest.binding.words, split));
    for (const SizedUnit& unit : p.units) {
      if (unit.sized.misses_above.empty()) continue;
      say(fmt::format("{}{}: not monotone: the target is held at {} GPUs and missed at {}.", p.policy,
                      p.units.size() > 1 ? " (" + unit.unit.name() + ")" : "", unit.sized.gpus,
                      fmt::join(unit.sized.misses_above, ", ")));
    }
    if (!plan.windowed || (!p.whole.done && options.confirm == Confirm::kNo)) continue;
    if (!p.whole.done) {
      say(fmt::format("{}: not run on the whole workload: {}.", p.policy, p.whole.reason));
    } else {
      const Tally mean = MeanOf(p.whole.tallies);
      double busy = 0;
      for (int a = 0; a < kWork; ++a) busy += MeanActivity(p.whole.tallies)[a];
      say(fmt::format("{}: on the whole workload {} % of service time within target, {} % busy, {} GPU-hours{}{}.", p.policy,
                      Percent(AttainmentEstimate(p.whole.tallies, AttainmentKind::kService, 0.95).mean), Percent(busy),
                      Count(static_cast<std::int64_t>(mean.owned / 3600 + 0.5)),
                      p.gpus > p.searched_gpus
                          ? fmt::format(", with {} more than the busiest window needs", Plural(p.gpus - p.searched_gpus, "GPU"))
                          : "",
                      p.whole.holds ? "" : ", and the target is still missed"));
    }
  }
  return out;
}

std::string PlanText(const Scenario& scenario, const Plan& plan, const PlanOptions& options, const Style& style) {
  std::string out = style.Bold(fmt::format("plan {}", scenario.name.empty() ? scenario.file : scenario.name)) + ": " +
                    TargetText(options) + "\n";
  out += fmt::format("{}{}, {}\n\n", Plural(plan.facts.seen.requests, "request"),
                     plan.windowed ? fmt::format(", searched in the busiest {}", Duration(plan.span_s))
                                   : fmt::format(" over {}", Duration(plan.span_s)),
                     Plural(options.replications, "replication"));
  Table table({{"policy", Align::kLeft, ""},
               {"GPUs", Align::kRight, ""},
               {fmt::format("{:.3g} %", 100 * options.criteria.confidence), Align::kRight, ""},
               {"time", Align::kRight, "% within target"},
               {"token", Align::kRight, "% within target"},
               {"reqs", Align::kRight, "% within target"},
               {"below", Align::kRight, "% within target"},
               {"%", Align::kRight, "busy"},
               {"/h", Align::kRight, "switch"},
               {"/h", Align::kRight, "USD"},
               {"kW", Align::kRight, ""},
               {"work", Align::kRight, "bound"},
               {"mem", Align::kRight, "bound"},
               {"binding", Align::kLeft, ""}});
  for (const PolicyPlan& p : plan.policies) PolicyRow(p, options.criteria.targets.front().kind, table);
  out += table.Text(style) + "\n" + Notes(plan, options);
  if (!scenario.workload.path.empty() && options.replications > 1) {
    out += Wrap(
               "The workload is a file: replications differ by the policies' own draws alone, and intervals say nothing of other "
               "days.",
               kPageWidth, 0, 0) +
           "\n";
  }
  return out;
}

void MakeThePlan(const Options& options, const Invocation& invocation) {
  const Scenario scenario = LoadScenarioArgument(options);
  std::vector<std::string> policies;
  if (!options.policies.empty()) policies = PolicyList(options.policies);
  if (policies.empty() && options.choose_pooled) policies = {"dedicated", ""};
  PlanOptions plan_options = AllOptionsOf(options);
  const bool to_files = !options.out.empty();
  std::unique_ptr<ResultsFolder> folder;
  // Before anything that starts threads.
  const auto guard = to_files ? std::make_unique<InterruptGuard>(
                                    [&folder] {
                                      if (folder) folder->Discard();
                                    },
                                    [] { return std::string(Ranks::LaunchedRank() == 0 ? "no results were written" : ""); })
                              : nullptr;
  const Ranks ranks;
  std::string error, identity;
  try {
    if (to_files && ranks.rank() == 0) folder = std::make_unique<ResultsFolder>(options.out);
    if (ranks.size() > 1)
      identity = fmt::format("{}; {}; {}", Build(), invocation.command_line, ResolvedScenario(scenario).dump());
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (!ranks.Agree(error, identity)) return;
  plan_options.share = ranks.Sharing(options.threads);
  Plan plan;
  std::vector<ModelSaving> savings;
  std::vector<Choice> choices;
  Scenario chosen;
  std::vector<Tally> chosen_whole;  // on the whole workload, where the pooled answer was run on it
  Pair pair;
  {
    StatusLine status(options.quiet || ranks.rank() != 0);
    plan_options.progress = [&status](const std::string& what) { status.Say(what); };
    try {
      plan = MakePlan(scenario, policies, plan_options);
    } catch (const std::exception& e) {
      if (ranks.rank() != 0) ranks.Abandon(e.what());
      throw;
    }
    if (ranks.rank() != 0) return;
    plan_options.share = nullptr;  // what follows is done here
    pair = PairOf(plan);
    const bool both = pair.dedicated != nullptr && pair.pooled != nullptr;
    if (options.choose_pooled && !both) {
      throw InputError(
          "--choose-pooled: it takes a policy that gives every model its own GPUs and one that shares, both with an answer");
    }
    if (options.attribution == "exact" && !both) {
      throw InputError(
          "--attribution: exact compares a policy that gives every model its own GPUs with one that shares; plan both");
    }
    if (both) savings = SavingsByModel(*pair.dedicated, *pair.pooled, plan_options, options.attribution == "exact");
    if (options.choose_pooled) {
      choices = ChoosePooled(*pair.dedicated, *pair.pooled, plan_options);
      chosen = ChosenScenario(*pair.dedicated, *pair.pooled, choices);
      if (pair.pooled->whole.done) chosen_whole = RunWhole(chosen, plan.facts, plan_options, "chosen");
    }
  }
  Json json = PlanJson(plan, plan_options);
  if (!choices.empty()) json["choose_pooled"] = ChoicesJson(choices);
  for (const Target& t : plan_options.criteria.targets) {
    if (chosen_whole.empty()) break;
    json["choose_pooled_whole_workload"][kAttainmentNames[static_cast<std::size_t>(t.kind)]] =
        Rounded(AttainmentEstimate(chosen_whole, t.kind, plan_options.criteria.confidence).mean);
  }
  if (to_files) {
    folder->Write("plan.json", FileText(json));
    folder->Write("scenario.json", FileText(ResolvedScenario(scenario)));
    for (const PolicyPlan& p : plan.policies) {
      if (p.found) folder->Write("answer-" + p.policy + ".json", ScenarioText(p.scenario, options.out));
    }
    if (!savings.empty()) folder->Write("savings.csv", SavingsCsv(savings));
    if (!choices.empty()) folder->Write("answer-chosen.json", ScenarioText(chosen, options.out));
    const Json manifest = ManifestJson(ProvenanceOf(options, invocation), scenario, plan.facts, {});
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  const Style style = StyleFor(STDOUT_FILENO);
  if (options.json) {
    fmt::print("{}", FileText(json));
    return;
  }
  fmt::print("{}", PlanText(scenario, plan, plan_options, style));
  if (!savings.empty()) fmt::print("\n{}", SavingsText(pair, savings, style));
  if (!choices.empty()) fmt::print("\n{}", ChoicesText(pair, choices));
  for (const Target& t : plan_options.criteria.targets) {
    if (chosen_whole.empty()) break;
    const double mean = AttainmentEstimate(chosen_whole, t.kind, plan_options.criteria.confidence).mean;
    fmt::print("On the whole workload: {} % {} attainment{}.\n", Percent(mean),
               kAttainmentNames[static_cast<std::size_t>(t.kind)], mean < t.share ? ", short of the target" : "");
  }
  if (to_files) fmt::print("\nResults: {}\n", options.out);
}

}  // namespace

void AddPlanCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", "find the fewest GPUs of each policy that hold a target");
  AddSearchOptions(*command, *options,
                   "service, token or request attainment that the requests of a pool must have; may be given often", "size", "");
  command->add_option("--policies", options->policies, "which, in this order (default: those of the scenario's pools)")
      ->type_name("A,B,...");
  CLI::Option* confidence = command->add_option("--confidence", options->confidence, "of the intervals (default: 0.95)")
                                ->check(CLI::Range(0.5, 0.9999).description(""))
                                ->type_name("SHARE");
  CLI::Option* confirm = command->add_flag(
      "--confirm", options->confirm, "run the answers on the whole workload however long it takes (else within 10 minutes)");
  command->add_flag("--no-confirm", options->no_confirm, "never")->excludes(confirm);
  command
      ->add_option("--attribution", options->attribution,
                   "a model's part of a pool: by its busy time, or exact: also what the pool can do without when it is left out "
                   "(default: busy)")
      ->check(CLI::IsMember({"busy", "exact"}).description(""))
      ->type_name("busy|exact");
  command->add_flag(
      "--choose-pooled", options->choose_pooled,
      "which models of a pool should share, and which keep GPUs of their own: the cut with the fewest GPUs of those tried");
  command->footer(kExamples);
  command->callback([options, confidence, &invocation] {
    options->confidence_typed = confidence->count() > 0;
    invocation.on_ranks = true;
    invocation.action = [options, &invocation] { MakeThePlan(*options, invocation); };
  });
}

}  // namespace poolsim
