#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <fmt/format.h>

#include "sim/checkpoint.h"
#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/ranks.h"
#include "sim/cli/table.h"
#include "sim/cli/text_report.h"
#include "sim/errors.h"
#include "sim/timeline.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim run quickstart\n"
    "  poolsim run quickstart --set policy.name=serverless-llm --out out/serverless\n"
    "  poolsim run my.json --set workload.path=day.csv.zst --set fleet.gpus=64 --out out/day\n"
    "  poolsim run my.json --set 'policy.params.aegaeon={\"resident_models\": 2}'\n"
    "  poolsim run my.json --set output.requests=true --out out/rows    adds a row per request\n"
    "  poolsim run my.json --json --quiet | jq .attainment\n"
    "  poolsim run quickstart --timeline run.json.gz    what every GPU does when, for ui.perfetto.dev\n"
    "  poolsim run my.json --timeline run.json.gz --timeline-window 3600..3660 --timeline-instances 0-15,40\n"
    "  poolsim run my.json --out out/day --checkpoint day.ckpt --every 5m; poolsim resume day.ckpt    after a crash\n"
    "\n"
    "DIR gets scenario.json (every setting), manifest.json (where it comes from), summary.json,\n"
    "models.csv, tenants.csv (where the scenario has any), windows.csv, what pictures are made of (distributions.csv, "
    "model_windows.csv and fleet.csv:\n"
    "latencies and lengths, each model over time, every GPU over time) and, on demand, requests.csv.\n"
    "All settings: poolsim schema.\n"
    "\n"
    "A timeline shows prefills, turns of decode, switches and moves of weights and KV cache on each\n"
    "instance, counters, and requests as flows: those whose whole way lies in the window and on the\n"
    "instances. Instances are numbered as in fleet.csv, requests as in requests.csv. It holds a million\n"
    "events: it ends where there would be more, and says so.";

struct Options : SimulationOptions {
  std::string timeline;  // file; empty: none
  std::string window;
  std::string instances;
  std::string checkpoint;  // file; empty: none
  std::string every = "60s";
  bool every_given = false;
};

[[noreturn]] void Refuse(const char* option, const char* expected, std::string_view found) {
  throw InputError(fmt::format("{}: expected {}, found \"{}\"", option, expected, found));
}

// The whole of `text` as a number.
template <class T>
std::optional<T> NumberIn(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void ReadWindow(const std::string& text, Timeline::Options& options) {
  constexpr const char* kExpected = "two times in seconds with 0 <= A < B, as in 60..90.5";
  const std::string_view all = text;
  const std::size_t dots = all.find("..");
  if (dots == std::string_view::npos) Refuse("--timeline-window", kExpected, text);
  const auto a = NumberIn<double>(all.substr(0, dots)), b = NumberIn<double>(all.substr(dots + 2));
  const auto from = FromSeconds(a.value_or(-1)), to = FromSeconds(b.value_or(-1));
  if (!from || !to || *from < 0 || *to <= *from) Refuse("--timeline-window", kExpected, text);
  options.from = *from;
  options.to = *to;
}

void ReadInstances(const std::string& text, Timeline::Options& options) {
  constexpr const char* kExpected = "numbers and stretches of instances, as in 0-15,40";
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view item = std::string_view(text).substr(at, comma - at);
    const std::size_t dash = std::min(item.find('-'), item.size());
    const auto first = NumberIn<std::int64_t>(item.substr(0, dash));
    const auto last = dash == item.size() ? first : NumberIn<std::int64_t>(item.substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first) Refuse("--timeline-instances", kExpected, item);
    options.instances.push_back({*first, *last});
    at = comma + 1;
  }
}

std::unique_ptr<Timeline> TimelineOf(const Options& options) {
  if (options.timeline.empty()) {
    if (!options.window.empty()) throw InputError("--timeline-window: there is no --timeline to cut it from");
    if (!options.instances.empty()) throw InputError("--timeline-instances: there is no --timeline to show them in");
    return nullptr;
  }
  Timeline::Options wanted;
  if (!options.window.empty()) ReadWindow(options.window, wanted);
  if (!options.instances.empty()) ReadInstances(options.instances, wanted);
  return std::make_unique<Timeline>(std::move(wanted));
}

// Writes it, and says in one line what is in it.
std::string WriteTimeline(const Timeline& timeline, const Options& options, const Scenario& scenario, const RunResult& result,
                          TimelineFile& file) {
  const auto cut = timeline.cut();
  Json about;
  about["scenario"] = scenario.name;
  about["policy"] = result.policy;
  about["simulated_s"] = ToSeconds(result.end);
  about["window"] = options.window;
  about["instances"] = options.instances;
  about["cut_s"] = cut == kNever ? Json() : Json(ToSeconds(cut));
  timeline.Write(about, [&file](std::string_view text) { file.Write(text); });
  file.Commit();
  std::string line = fmt::format("{}, {}", options.timeline, Plural(timeline.events(), "event"));
  if (cut != kNever) {
    line += fmt::format("; cut at {} s of {} s: more than {} do not fit (--timeline-window, --timeline-instances)",
                        ToSeconds(cut), Number(ToSeconds(result.end)), Count(kMostEvents));
  } else if (timeline.events() == 0 || timeline.from() >= result.end) {
    line += fmt::format(": nothing happens there; the run ends at {} s", Number(ToSeconds(result.end)));
  }
  return line;
}

// A results folder holds what its manifest lists, and nothing else.
void CheckOutside(const char* option, const std::string& file, const std::string& folder) {
  const fs::path below = fs::absolute(file).lexically_normal().lexically_relative(fs::absolute(folder).lexically_normal());
  if (!below.empty() && *below.begin() != "..")
    throw InputError(fmt::format("{}: {} lies in the results folder {}; expected a file beside it", option, file, folder));
}

// "90", "60s", "5m" or "2h" in seconds.
double ReadEvery(const std::string& text) {
  const double unit = text.ends_with('m') ? 60 : text.ends_with('h') ? 3600 : 1;
  const bool named = text.ends_with('s') || unit > 1;
  const auto number = NumberIn<double>(std::string_view(text).substr(0, text.size() - (named ? 1 : 0)));
  if (!number || !(*number >= 0 && *number <= 1e6)) Refuse("--every", "a time, as in 60s, 5m or 1h", text);
  return *number * unit;
}

// The checkpoints of a run: what there is to know to take it up again, and what it is taken up from.
class Keeper {
 public:
  // A run that begins. `file` must not be there.
  Keeper(const Options& options, const Scenario& scenario, const Invocation& invocation) : file_(options.checkpoint) {
    if (!options.timeline.empty()) throw InputError("--checkpoint: a run with --timeline keeps none");
    if (!options.out.empty()) CheckOutside("--checkpoint", file_, options.out);
    std::error_code error;
    if (fs::exists(file_, error)) {
      throw InputError(IsCheckpoint(file_) ? fmt::format("--checkpoint: {} is there; \"poolsim resume {}\" goes on from it, and "
                                                         "without it a run begins anew",
                                                         file_, file_)
                                           : fmt::format("--checkpoint: {} is there, and is no checkpoint of poolsim's", file_));
    }
    about_["build"] = Build();
    about_["folder"] = fs::current_path(error).string();
    about_["command"] = invocation.command_line;
    about_["scenario"] = ResolvedScenario(scenario);
    about_["scenario_file"] = scenario.file;
    about_["scenario_folder"] = scenario.base_dir;
    about_["argument"] = options.scenario;
    about_["out"] = options.out;
    about_["threads"] = options.threads;
    about_["check"] = options.check;
    about_["quiet"] = options.quiet;
    about_["json"] = options.json;
    about_["report"] = options.report;
    about_["every_s"] = ReadEvery(options.every);
    about_["wall_s"] = 0.0;
    Lock();
    Prepare();
  }
  // One that goes on.
  explicit Keeper(const std::string& file) : file_(fs::absolute(file).string()) {
    if (fs::exists(file_)) Lock();
    Checkpoint checkpoint = ReadCheckpoint(file, Build());
    about_ = std::move(checkpoint.about);
    state_ = std::move(checkpoint.state);
    Prepare();
    checkpoints_.from = state_;
  }

  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  ~Keeper() {
    CleanUp();
    if (lock_ >= 0) close(lock_);
  }

  const Json& about() const { return about_; }
  double wall_s_before() const { return before_s_; }  // that earlier calls took, until their checkpoints
  const Checkpoints& checkpoints() const { return checkpoints_; }
  // The run is over, and its results are where they belong.
  void Remove() const {
    std::error_code ignored;
    for (const char* end : {"", ".partial", ".rows"}) fs::remove(file_ + end, ignored);
  }
  // What is of no use without a checkpoint, or half of one.
  void CleanUp() const {
    std::error_code ignored;
    if (lock_ < 0) return;
    fs::remove(file_ + ".partial", ignored);
    if (!fs::exists(file_, ignored)) fs::remove(file_ + ".rows", ignored);
  }
  // What a run that was interrupted leaves.
  bool Kept() const {
    std::error_code ignored;
    return fs::exists(file_, ignored);
  }
  std::string Left() const {
    return Kept() ? fmt::format("\"poolsim resume {}\" goes on", file_) : "there was no checkpoint yet";
  }

 private:
  // FILE.rows, which is never replaced, says by its lock that a run is at work.
  void Lock() {
    const std::string rows = file_ + ".rows";
    lock_ = open(rows.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock_ < 0) throw InputError(fmt::format("{}: {}", rows, std::generic_category().message(errno)));
    if (flock(lock_, LOCK_EX | LOCK_NB) == 0) return;
    close(lock_);
    lock_ = -1;
    throw InputError(fmt::format("{}: a run is at work with it", file_));
  }
  void Prepare() {
    before_s_ = about_["wall_s"];
    begin_ = std::chrono::steady_clock::now();
    checkpoints_.every_s = about_["every_s"];
    checkpoints_.rows = file_ + ".rows";
    checkpoints_.write = [this](std::string_view state) {
      about_["wall_s"] = before_s_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
      WriteCheckpoint(file_, about_, state);
    };
  }

  std::string file_;
  Json about_;
  std::string state_;
  Checkpoints checkpoints_;
  double before_s_ = 0;
  std::chrono::steady_clock::time_point begin_;
  int lock_ = -1;
};

struct Outcome {
  WorkloadFacts facts;
  RunResult result;
};

Outcome RunWithProgress(const Scenario& scenario, const Options& options, WorkloadFacts facts, RequestRows& rows,
                        Timeline* timeline, const Keeper* keeper, const Ranks& ranks) {
  Progress progress(ranks.rank() == 0 ? Progress::ModeFor(options.quiet) : Progress::Mode::kOff);
  Outcome outcome;
  outcome.facts = std::move(facts);
  progress.Expect(1, outcome.facts.seen.requests);
  RunOptions run;
  run.threads = options.threads;
  run.check = options.check;
  run.record = !options.out.empty();
  run.timeline = timeline;
  run.share = ranks.Sharing(options.threads);
  run.checkpoints = keeper == nullptr ? nullptr : &keeper->checkpoints();
  run.request_rows = rows.Sink();
  run.progress = progress.Sink(0, scenario.pools.empty() ? scenario.policy.name : "pools");
  try {
    outcome.result = Simulate(scenario, outcome.facts, run);
  } catch (const InfeasibleError& error) {
    throw InputError(fmt::format("{}: infeasible: {}", scenario.file, error.what()));
  }
  outcome.facts.seen = outcome.result.seen;
  return outcome;
}

void RunScenario(const Options& options, const Scenario& scenario, const Invocation& invocation, const Keeper* keeper) {
  const std::unique_ptr<Timeline> timeline = TimelineOf(options);
  const bool to_files = !options.out.empty();
  if (to_files && timeline) CheckOutside("--timeline", options.timeline, options.out);
  std::unique_ptr<ResultsFolder> folder;
  std::unique_ptr<TimelineFile> file;
  const auto clean_up = [&folder, &file, keeper] {
    if (folder) folder->Discard();
    if (file) file->Remove();
    if (keeper != nullptr) keeper->CleanUp();
  };
  const auto left = [keeper] {
    if (Ranks::LaunchedRank() != 0) return std::string();
    return keeper == nullptr ? std::string("no results were written") : keeper->Left();
  };
  // Before anything that starts threads.
  const auto guard = to_files || timeline || keeper != nullptr ? std::make_unique<InterruptGuard>(clean_up, left) : nullptr;
  const Ranks ranks;
  WorkloadFacts facts;
  std::string error, identity;
  try {
    if (ranks.size() > 1) {
      const char* alone = timeline != nullptr ? "--timeline" : scenario.output.requests ? "output.requests" : nullptr;
      if (alone != nullptr) throw InputError(fmt::format("{} takes one process, found {}", alone, ranks.size()));
    }
    if (ranks.rank() == 0) {
      if (to_files) folder = std::make_unique<ResultsFolder>(options.out);
      if (timeline) file = std::make_unique<TimelineFile>(options.timeline);
    }
    facts = SurveyWorkload(scenario);
    if (ranks.size() > 1) {
      identity = fmt::format("{}; {}; {}; {:016x}", Build(), invocation.command_line, ResolvedScenario(scenario).dump(),
                             facts.seen.hash);
    }
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (!ranks.Agree(error, identity)) return;
  RequestRows rows(folder.get(), scenario, "requests.csv");
  Outcome outcome;
  try {
    outcome = RunWithProgress(scenario, options, std::move(facts), rows, timeline.get(), keeper, ranks);
  } catch (const std::exception& e) {
    if (ranks.rank() != 0) ranks.Abandon(e.what());
    if (keeper != nullptr && keeper->Kept() && dynamic_cast<const InputError*>(&e) != nullptr)
      throw InputError(fmt::format("{}; {}", e.what(), keeper->Left()));
    throw;
  }
  if (ranks.rank() != 0) return;
  if (keeper != nullptr) outcome.result.wall_s += keeper->wall_s_before();
  const Json summary = SummaryJson(scenario, outcome.result);
  const std::string drawn = file ? WriteTimeline(*timeline, options, scenario, outcome.result, *file) : "";
  if (to_files) {
    rows.Finish();
    folder->Write("scenario.json", FileText(ResolvedScenario(scenario)));
    folder->Write("summary.json", FileText(summary));
    folder->Write("models.csv", ModelsCsv(outcome.result));
    if (!scenario.tenants.empty()) folder->Write("tenants.csv", TenantsCsv(outcome.result));
    folder->Write("windows.csv", WindowsCsv(outcome.result));
    WriteRecord(*folder, "", outcome.result);
    const Json manifest = ManifestJson(ProvenanceOf(options, invocation), scenario, outcome.facts, {outcome.result});
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  fmt::print("{}",
             options.json ? FileText(summary) : RunReport(scenario, outcome.facts, outcome.result, StyleFor(STDOUT_FILENO)));
  if (to_files && !options.json) fmt::print("  results       {}\n", options.out);
  if (file && !options.json) {
    fmt::print("  timeline      {}\n", drawn);
  } else if (file && timeline->cut() != kNever) {
    fmt::print(stderr, "poolsim: timeline {}\n", drawn);
  }
  if (keeper != nullptr) keeper->Remove();
}

void Run(const Options& options, const Invocation& invocation) {
  const Scenario scenario = LoadScenarioArgument(options);
  if (options.checkpoint.empty()) {
    if (options.every_given) throw InputError("--every: there is no --checkpoint to write so often");
    return RunScenario(options, scenario, invocation, nullptr);
  }
  if (Ranks::LaunchedSize() > 1) throw InputError(fmt::format("--checkpoint takes one process, found {}", Ranks::LaunchedSize()));
  const Keeper keeper(options, scenario, invocation);
  RunScenario(options, scenario, invocation, &keeper);
}

// With the folder and the arguments of the run's first call, so that all paths mean the same, and what is written says the same.
void Resume(const std::string& file, bool quiet) {
  const Keeper keeper(file);
  const Json& about = keeper.about();
  Options options;
  options.scenario = about["argument"];
  options.out = about["out"];
  options.threads = about["threads"];
  options.check = about["check"];
  options.quiet = quiet || about["quiet"].get<bool>();
  options.json = about["json"];
  options.report = about["report"];
  const std::string folder = about["folder"];
  std::error_code error;
  fs::current_path(folder, error);
  if (error) throw InputError(fmt::format("{}: the run's folder, {}: {}", file, folder, error.message()));
  AllowReport(options.report);
  const Scenario scenario = ParseScenario(about["scenario"].dump(), about["scenario_file"], about["scenario_folder"], {});
  if (ResolvedScenario(scenario) != about["scenario"])
    throw InputError(fmt::format("{}: files that the scenario names are not what they were", file));
  Invocation invocation;
  invocation.command_line = about["command"];
  RunScenario(options, scenario, invocation, &keeper);
}

}  // namespace

void AddRunCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("run", "simulate a scenario and report on it");
  AddSimulationOptions(*command, *options);
  command->add_option("--timeline", options->timeline, "what every instance does when, as a trace for Perfetto")
      ->check([](const std::string& file) { return file.empty() ? "expected the name of a file" : ""; })
      ->type_name("FILE.json.gz");
  command->add_option("--timeline-window", options->window, "only of this time, in seconds; default: as much as fits")
      ->check([](const std::string& text) { return text.empty() ? "expected A..B" : ""; })
      ->type_name("A..B");
  command->add_option("--timeline-instances", options->instances, "only of these, as in 0-15,40; default: all")
      ->check([](const std::string& text) { return text.empty() ? "expected numbers of instances" : ""; })
      ->type_name("LIST");
  command
      ->add_option("--checkpoint", options->checkpoint, "keep what \"poolsim resume FILE\" goes on from, until the run is over")
      ->check([](const std::string& file) { return file.empty() ? "expected the name of a file" : ""; })
      ->type_name("FILE");
  const CLI::Option* every =
      command->add_option("--every", options->every, "at least so long between two, as in 60s, 5m or 1h; default 60s")
          ->type_name("TIME");
  command->footer(kExamples);
  command->callback([options, every, &invocation] {
    options->every_given = every->count() > 0;
    invocation.on_ranks = true;
    invocation.action = [options, &invocation] { Run(*options, invocation); };
  });
}

void AddResumeCommand(CLI::App& app, Invocation& invocation) {
  struct ResumeOptions {
    std::string file;
    bool quiet = false;
  };
  const auto options = std::make_shared<ResumeOptions>();
  CLI::App* command = app.add_subcommand("resume", "go on with a run that was killed");
  command->add_option("FILE", options->file, "what run --checkpoint FILE wrote")->required()->type_name("");
  command->add_flag("--quiet", options->quiet, "no progress on stderr");
  command->footer(
      "The run goes on from its last checkpoint, in the folder and with the options that it was started with, and ends\n"
      "with the same results, byte for byte but for times and memory, as if nothing had happened. FILE is removed then, as\n"
      "is FILE.rows, which belongs to it: it holds rows of requests.csv meanwhile. The workload is read again up to where the "
      "run was, so a trace must still be\n"
      "there, and the executable must be the very same. Interrupted sweeps need no checkpoint: sweep --help.");
  command->callback([options, &invocation] { invocation.action = [options] { Resume(options->file, options->quiet); }; });
}

}  // namespace poolsim
