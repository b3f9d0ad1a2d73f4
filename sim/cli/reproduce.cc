#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <unistd.h>

#include "planning/reproduce.h"
#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/process.h"
#include "sim/cli/reproduce.h"
#include "sim/cli/table.h"
#include "sim/embedded.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim reproduce aegaeon --out out/aegaeon\n"
    "  poolsim reproduce aegaeon --figure 11a,11b --out out/eleven\n"
    "\n"
    "DIR gets a folder per figure with table.csv, table.txt, figure.pdf, figure.png, the scenarios,\n"
    "the experiment and manifest.json, and claims.json with all that is claimed. Without --out only\n"
    "the claims are printed. results/aegaeon/README.md is the report.";

constexpr const char* kStudy = "aegaeon";

struct Options {
  std::string study;
  std::string figures = "all";
  std::string out;
  int threads = 1;
  bool quiet = false;
  bool report = false;
};

std::string Embedded(const std::string& path) {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.path == path) return std::string(file.text);
  }
  throw InputError(fmt::format("{} is not part of this executable", path));
}

std::string WithInterval(const Estimate& e) {
  if (e.low == e.high) return fmt::format("{:.4g}", e.mean);
  const double up = e.high - e.mean, down = e.mean - e.low;
  if (std::abs(up - down) > 1e-6 * e.mean) return fmt::format("{:.4g} [{:.4g}, {:.4g}]", e.mean, e.low, e.high);
  return fmt::format("{:.4g} +-{:.2g}", e.mean, up);
}

// Case by case: policies side by side where there are several, else columns.
std::string TableText(const ExperimentResult& result, const Style& style) {
  const ExperimentSpec& spec = result.spec;
  std::string text = fmt::format("{}\nmean over seeds +- half of its 95 % confidence interval\n", style.Bold(spec.title));
  for (std::size_t c = 0; c < spec.cases.size(); ++c) {
    std::vector<std::string> policies;
    std::vector<double> xs;
    for (const ExperimentRow& row : result.rows) {
      if (row.in_case != c) continue;
      if (std::find(policies.begin(), policies.end(), row.policy) == policies.end()) policies.push_back(row.policy);
      if (std::find(xs.begin(), xs.end(), row.x) == xs.end()) xs.push_back(row.x);
    }
    const std::string& axis = spec.cases[c].axis.values.empty() ? spec.axis.name : spec.cases[c].axis.name;
    text += fmt::format("\n{}{}\n", spec.cases[c].name, policies.size() > 1 ? ": " + spec.columns.front() : "");
    std::vector<Column> columns = {{axis, Align::kRight, ""}};
    if (policies.size() > 1) {
      for (const std::string& policy : policies) columns.push_back({policy, Align::kRight, ""});
    } else {
      for (const std::string& column : spec.columns) columns.push_back({column, Align::kRight, ""});
    }
    Table table(columns);
    for (const double x : xs) {
      std::vector<std::string> cells = {fmt::format("{}", x)};
      for (const std::string& policy : policies) {
        const ExperimentRow* row = result.Find(c, policy, x);
        if (policies.size() > 1) {
          cells.push_back(row->infeasible.empty() ? WithInterval(EstimateOf(row->values.front())) : "infeasible");
          continue;
        }
        for (const std::vector<double>& values : row->values)
          cells.push_back(row->infeasible.empty() ? WithInterval(EstimateOf(values)) : "infeasible");
      }
      table.Row(cells);
    }
    text += table.Text(style, 2);
  }
  return text;
}

std::string ClaimsText(const std::vector<Claim>& claims, const Style& style) {
  Table table({{"figure", Align::kLeft, ""},
               {"claim", Align::kLeft, ""},
               {"ours", Align::kRight, ""},
               {"reported", Align::kRight, ""},
               {"off, %", Align::kRight, ""}});
  for (const Claim& c : claims) {
    const std::string reported = c.reported_low == c.reported_high ? fmt::format("{:g}", c.reported_low)
                                                                   : fmt::format("{:g} to {:g}", c.reported_low, c.reported_high);
    table.Row({c.figure, c.claim, WithInterval(c.ours), reported, fmt::format("{:+.1f}", c.DeviationPct())});
  }
  return table.Text(style);
}

FigureOutput SweepFigure(const std::string& name, const FigureContext& context) {
  const std::string folder = "results/aegaeon/" + name + "/";
  const FileReader read = [&folder](const std::string& file) { return Embedded(folder + file); };
  FigureOutput out;
  out.experiment = RunExperiment(name, read, *context.team);
  out.claims = out.experiment->claims;
  for (const EmbeddedFile& file : EmbeddedIn(folder)) {
    out.files.push_back({std::string(file.path.substr(folder.size())), std::string(file.text)});
  }
  out.files.push_back({"table.csv", ExperimentCsv(*out.experiment)});
  out.files.push_back({"table.txt", TableText(*out.experiment, Style{})});
  Json figure = out.experiment->spec.figure;
  figure["title"] = out.experiment->spec.title;
  out.files.push_back({"figure.json", FileText(figure)});
  return out;
}

struct Figure {
  const char* name;
  const char* help;
  FigureOutput (*make)(const std::string& name, const FigureContext& context);
};

// In the order in which "all" makes them.
constexpr Figure kFigures[] = {
    {"4", "models that are active at once", SweepFigure},
    {"11a", "service attainment over models, 0.1 requests/s each", SweepFigure},
    {"11b", "the same, 0.5 requests/s each", SweepFigure},
    {"11c", "the same over the rate of 40 models", SweepFigure},
    {"12", "prompts and outputs twice as long", SweepFigure},
    {"13", "stricter targets", SweepFigure},
    {"14", "where the time of a request goes", SweepFigure},
    {"15", "how long switches and moves of KV take", SweepFigure},
    {"16", "KV memory that holds no token", SweepFigure},
    {"17", "small GPUs, large models", SweepFigure},
    {"deployment", "1,192 GPUs and 213", DeploymentFigure},
    {"fleet", "what pooling the cold models saves of 30,000 GPUs", FleetFigure},
};

std::vector<const Figure*> Chosen(const std::string& list) {
  std::vector<std::string> known;
  for (const Figure& f : kFigures) known.push_back(f.name);
  known.push_back("all");
  std::vector<const Figure*> chosen;
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t comma = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, comma - begin);
    begin = comma + 1;
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw InputError("--figure: " + UnknownName("figure", name, known));
    for (const Figure& f : kFigures) {
      const bool again = std::find(chosen.begin(), chosen.end(), &f) != chosen.end();
      if ((name == "all" || name == f.name) && !again) chosen.push_back(&f);
    }
  }
  return chosen;
}

// A folder of our own under the system's temporary ones, gone with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "poolsim-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw InputError("no temporary folder can be made");
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void Put(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw InputError(fmt::format("{}: cannot be written", path.string()));
}

// Adds figure.pdf and figure.png to every figure that has a figure.json; says so where that cannot be done.
void Draw(std::vector<std::pair<std::string, FigureOutput>>& outputs) {
  const ScratchFolder scratch;
  Put(scratch.path() / "figures", Embedded("scripts/figures"));
  std::vector<std::string> folders;
  for (const auto& [name, output] : outputs) {
    const fs::path folder = scratch.path() / name;
    fs::create_directory(folder);
    bool drawn = false;
    for (const auto& [file, text] : output.files) {
      if (file == "table.csv" || file == "figure.json") Put(folder / file, text);
      drawn = drawn || file == "figure.json";
    }
    if (drawn) folders.push_back(folder.string());
  }
  if (folders.empty()) return;
  // The first Python with matplotlib: one of a virtual environment often has none.
  std::string python;
  for (const char* candidate : {"python3", "/usr/bin/python3"}) {
    if (python.empty() && RunProgram({candidate, "-c", "import matplotlib"}) == 0) python = candidate;
  }
  if (python.empty()) {
    fmt::print(stderr,
               "figure.pdf and figure.png are left out: there is no python3 with matplotlib (Debian: python3-matplotlib)\n");
    return;
  }
  const std::string log = (scratch.path() / "log").string();
  std::vector<std::string> words = {python, (scratch.path() / "figures").string()};
  words.insert(words.end(), folders.begin(), folders.end());
  if (RunProgram(words, "", log) != 0) {
    fmt::print(stderr, "figures could not all be drawn:\n{}", ReadWholeFile(log));
  }
  for (auto& [name, output] : outputs) {
    for (const char* file : {"figure.pdf", "figure.png"}) {
      const fs::path path = scratch.path() / name / file;
      if (fs::exists(path)) output.files.push_back({file, ReadWholeFile(path.string())});
    }
  }
}

void Reproduce(const Options& options, const Invocation& invocation) {
  if (options.study != kStudy) throw InputError(UnknownName("study", options.study, {kStudy}));
  const std::vector<const Figure*> figures = Chosen(options.figures);
  AllowReport(options.report);
  const auto folder = options.out.empty() ? nullptr : std::make_unique<ResultsFolder>(options.out);
  const auto guard = folder ? std::make_unique<InterruptGuard>([&folder] { folder->Discard(); }) : nullptr;
  Team team(options.threads);
  FigureContext context;
  context.team = &team;
  context.threads = options.threads;
  if (!options.quiet) context.progress = [](const std::string& what) { fmt::print(stderr, "  {}\n", what); };

  std::vector<std::pair<std::string, FigureOutput>> outputs;
  std::vector<Claim> claims;
  std::vector<ExperimentResult> swept;
  for (const Figure* figure : figures) {
    const auto begin = std::chrono::steady_clock::now();
    outputs.emplace_back(figure->name, figure->make(figure->name, context));
    FigureOutput& output = outputs.back().second;
    claims.insert(claims.end(), output.claims.begin(), output.claims.end());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (!options.quiet) fmt::print(stderr, "{}: {}, {}\n", figure->name, figure->help, Duration(seconds));
    if (output.experiment) swept.push_back(std::move(*output.experiment));
  }
  const auto counts = [](const ExperimentResult& e) {
    return std::any_of(e.spec.cases.begin(), e.spec.cases.end(), [](const CaseSpec& c) { return c.goodput; });
  };
  const auto all_of_them = std::count_if(std::begin(kFigures), std::end(kFigures), [](const Figure& f) {
    return std::string_view(f.name).substr(0, 2) == "11" || std::string_view(f.name) == "12" || std::string_view(f.name) == "13";
  });
  if (std::count_if(swept.begin(), swept.end(), counts) == all_of_them) {
    const std::vector<Claim> together = GoodputClaims(swept);
    claims.insert(claims.end(), together.begin(), together.end());
  }

  if (folder != nullptr) {
    Draw(outputs);
    const Provenance of = ProvenanceOf(SimulationOptions{}, invocation);
    const Json manifest{{"poolsim_version", of.version}, {"poolsim_commit", of.commit}, {"command", of.command}};
    for (const auto& [name, output] : outputs) {
      std::vector<std::string> files;
      for (const auto& [file, text] : output.files) {
        folder->Write(name + "/" + file, text);
        files.push_back(file);
      }
      Json own = manifest;
      own["figure"] = name;
      for (const auto& [key, value] : output.facts.items()) own[key] = value;
      own["files"] = files;
      folder->Write(name + "/manifest.json", FileText(own));
    }
    folder->Write("claims.json", FileText(ClaimsJson(claims)));
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  fmt::print("{}", ClaimsText(claims, StyleFor(STDOUT_FILENO)));
  if (folder != nullptr) fmt::print("\nResults: {}\n", options.out);
}

}  // namespace

void AddReproduceCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  options->threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  CLI::App* command = app.add_subcommand("reproduce", "run a paper's experiments and compare with what it reports");
  command->add_option("STUDY", options->study, "aegaeon")->required()->type_name("");
  std::string names;
  for (const Figure& f : kFigures) names += fmt::format("{}, ", f.name);
  command->add_option("--figure", options->figures, fmt::format("which: {}or all (default); several with commas", names))
      ->type_name("NAME");
  command->add_option("--out", options->out, "folder for the results; without it nothing is written")
      ->check([](const std::string& folder) { return folder.empty() ? "expected the name of a folder" : ""; })
      ->type_name("DIR");
  AddReportOption(*command, options->report);
  command->add_option("--threads", options->threads, "most threads; never changes results (default: one per core)")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  command->add_flag("--quiet", options->quiet, "nothing on stderr");
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options, &invocation] { Reproduce(*options, invocation); }; });
}

}  // namespace poolsim
