#include <algorithm>
#include <filesystem>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "sim/cli/commands.h"
#include "sim/embedded.h"
#include "sim/errors.h"
#include "sim/policy.h"

namespace poolsim {

void AddSimulationOptions(CLI::App& command, SimulationOptions& options) {
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  command.add_option("SCENARIO", options.scenario, "scenario file (JSON), or \"quickstart\" for the built-in one")
      ->required()
      ->type_name("");
  command.add_option("--set", options.set, "change one setting, as in fleet.gpus=32; may be given often")
      ->allow_extra_args(false)
      ->type_name("PATH=VALUE");
  command.add_option("--out", options.out, "folder for the results; without it nothing is written")
      ->check([](const std::string& folder) { return folder.empty() ? "expected the name of a folder" : ""; })
      ->type_name("DIR");
  AddReportOption(command, options.report);
  command.add_option("--threads", options.threads, "most threads; never changes results (default: one per core)")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  command.add_flag("--check", options.check, "check the books at every event (slower)");
  command.add_flag("--quiet", options.quiet, "no progress on stderr");
  command.add_flag("--json", options.json, "print JSON instead of a report");
}

namespace {

// Paths in a scenario start from its folder; one typed on the command line is meant from where it was typed.
std::string FromScenarioFolder(const std::string& assignment, const std::filesystem::path& folder) {
  constexpr std::string_view kKey = "workload.path=";
  if (assignment.rfind(kKey, 0) != 0) return assignment;
  const std::filesystem::path path = assignment.substr(kKey.size());
  std::error_code error;
  if (path.is_absolute() || !std::filesystem::is_regular_file(path, error)) return assignment;
  const std::filesystem::path from = std::filesystem::absolute(folder, error).lexically_normal();
  return std::string(kKey) + std::filesystem::absolute(path, error).lexically_normal().lexically_proximate(from).string();
}

}  // namespace

std::vector<std::string> PolicyList(const std::string& list) {
  std::vector<std::string> names(1);
  for (const char c : list) {
    if (c == ',') {
      names.emplace_back();
    } else {
      names.back() += c;
    }
  }
  for (auto name = names.begin(); name != names.end(); ++name) {
    if (Registry<PolicyEntry>::Get().Find(*name) == nullptr) {
      throw InputError("--policies: " + UnknownName("policy", *name, Registry<PolicyEntry>::Get().Names()));
    }
    if (std::find(names.begin(), name, *name) != name) throw InputError(fmt::format("--policies: {} is named twice", *name));
  }
  return names;
}

Scenario LoadScenarioArgument(const SimulationOptions& options) {
  AllowReport(options.report);
  std::error_code error;
  if (options.scenario == "quickstart" && !std::filesystem::is_regular_file(options.scenario, error)) {
    for (const EmbeddedFile& file : EmbeddedFiles()) {
      if (file.path == "results/quickstart/scenario.json")
        return ParseScenario(std::string(file.text), "quickstart", "", options.set);
    }
  }
  const std::filesystem::path folder = std::filesystem::path(options.scenario).parent_path();
  std::vector<std::string> assignments;
  for (const std::string& assignment : options.set)
    assignments.push_back(FromScenarioFolder(assignment, folder.empty() ? "." : folder));
  return LoadScenario(options.scenario, assignments);
}

std::string ScenarioText(Scenario s, const std::string& folder) {
  if (!s.workload.path.empty()) {
    const std::filesystem::path path = std::filesystem::absolute(std::filesystem::path(s.base_dir) / s.workload.path);
    s.workload.path = path.lexically_normal().lexically_proximate(std::filesystem::absolute(folder).lexically_normal()).string();
  }
  return FileText(ResolvedScenario(s));
}

void WriteRecord(ResultsFolder& folder, const std::string& prefix, const RunResult& result) {
  folder.Write(prefix + "distributions.csv", DistributionsCsv(result));
  folder.Write(prefix + "model_windows.csv", ModelWindowsCsv(result));
  folder.Write(prefix + "fleet.csv", FleetCsv(result));
}

RequestRows::RequestRows(ResultsFolder* folder, const Scenario& scenario, const std::string& name)
    : folder_(folder), name_(name) {
  if (folder == nullptr || !scenario.output.requests) return;
  file_ = folder->Open(name);
  file_->Write(RequestRowHeader());
}

std::function<void(std::string_view)> RequestRows::Sink() {
  if (!file_) return nullptr;
  return [this](std::string_view rows) { file_->Write(rows); };
}

void RequestRows::Finish() {
  if (file_) file_->Close();
}

void RequestRows::Drop() {
  if (!file_) return;
  file_.reset();
  folder_->Drop(name_);
}

}  // namespace poolsim
