// The command line: what every command adds to it, and what it does.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sim/report.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace poolsim {

// What was typed, and the command that was chosen.
struct Invocation {
  std::string command_line;  // quoted as for a shell, the program's name without its folder
  std::function<void()> action;
  int exit_code = 0;      // of an action that ends without an exception
  bool on_ranks = false;  // the action knows of other processes that mpirun started
};

void AddRunCommand(CLI::App& app, Invocation& invocation);
void AddCompareCommand(CLI::App& app, Invocation& invocation);
void AddPlanCommand(CLI::App& app, Invocation& invocation);
void AddReportCommand(CLI::App& app, Invocation& invocation);
void AddResumeCommand(CLI::App& app, Invocation& invocation);
void AddReproduceCommand(CLI::App& app, Invocation& invocation);
void AddSweepCommand(CLI::App& app, Invocation& invocation);
void AddTuneCommand(CLI::App& app, Invocation& invocation);
void AddCalibrateCommand(CLI::App& app, Invocation& invocation);
void AddTraceCommand(CLI::App& app, Invocation& invocation);
void AddListCommand(CLI::App& app, Invocation& invocation);
void AddExplainCommand(CLI::App& app, Invocation& invocation);
void AddLlmsCommand(CLI::App& app, Invocation& invocation);
void AddSchemaCommand(CLI::App& app, Invocation& invocation);

// The program but for main(): parses, runs the chosen command, returns the exit code (0; 2 for bad input; 3 when some
// points of a sweep could not be run).
int RunCommandLine(int argc, char** argv);

// What `run` and `compare` have in common.
struct SimulationOptions {
  std::string scenario;
  std::vector<std::string> set;
  std::string out;
  int threads = 1;
  bool check = false;
  bool quiet = false;
  bool json = false;
  bool report = false;
};
// Adds SCENARIO and the options; `options` must outlive the parse.
void AddSimulationOptions(CLI::App& command, SimulationOptions& options);
// The scenario file, with --set applied. Where there is no file of that name, "quickstart" is the scenario inside the executable.
Scenario LoadScenarioArgument(const SimulationOptions& options);

// --report, which needs --out. With it, AllowReport at the start throws InputError where no report can be made, and AddReport
// puts report.html beside what is in the folder named `out`; `manifest` is what Commit is to get.
void AddReportOption(CLI::App& command, bool& report);
void AllowReport(bool report);
void AddReport(bool report, ResultsFolder& folder, const std::string& out, const Json& manifest);

// "A,B" as policies. Throws InputError for one that is unknown or named twice.
std::vector<std::string> PolicyList(const std::string& list);
Provenance ProvenanceOf(const SimulationOptions& options, const Invocation& invocation);
// A scenario as a file of the results folder, ready to run: a trace's path starts from there.
std::string ScenarioText(Scenario scenario, const std::string& folder);
std::string Version();
// The executable to the byte: what is laid out as this very build does it (checkpoints, what ranks send) is for no other.
std::string Build();
// What `poolsim schema` prints: every setting of a scenario.
Json WholeSchema();
// Replaces the file in one step: it is there whole or as it was. InputError when it cannot be written.
void WriteWholeFile(const std::string& path, const std::string& text);

// What pictures are made of, as files of the folder; `prefix` stands before their names.
void WriteRecord(ResultsFolder& folder, const std::string& prefix, const RunResult& result);

// requests.csv as it comes.
class RequestRows {
 public:
  // Nothing unless there is a folder and the scenario asks for rows.
  RequestRows(ResultsFolder* folder, const Scenario& scenario, const std::string& name);
  std::function<void(std::string_view)> Sink();
  void Finish();
  void Drop();

 private:
  ResultsFolder* folder_;
  std::string name_;
  std::unique_ptr<ResultsFolder::File> file_;
};

}  // namespace poolsim
