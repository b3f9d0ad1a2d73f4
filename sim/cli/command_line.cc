#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "sim/cli/commands.h"
#include "sim/cli/ranks.h"
#include "sim/errors.h"
#include "version.h"

namespace poolsim {
namespace {

constexpr int kBadInput = 2;
constexpr int kBroken = 1;

constexpr const char* kDescription =
    "poolsim replays LLM request traces on a modelled GPU fleet and says what pooling saves:\n"
    "how many GPUs each way of sharing needs, and what service each request gets.";

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim compare quickstart                        five ways to share GPUs, same requests\n"
    "  poolsim run quickstart --out out/first            one policy, with results as files\n"
    "  poolsim run my.json --set policy.name=dedicated   any setting can be changed from here\n"
    "  poolsim list policies                             what there is to choose from\n"
    "  poolsim explain attainment.service                what a metric, a policy or a setting means\n"
    "  poolsim compare --help                            more, for each command";

// As a shell would take it back.
std::string Quoted(std::string_view word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                          "_-+=./,:@%") == std::string_view::npos;
  if (plain) return std::string(word);
  std::string out = "'";
  for (const char c : word) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

std::string CommandLine(int argc, char** argv) {
  std::string line = "poolsim";
  for (int i = 1; i < argc; ++i) line += " " + Quoted(argv[i]);
  return line;
}

std::string OneLine(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// Of several processes with the same command line, one says what is wrong with it.
int Refuse(const std::string& message) {
  if (Ranks::LaunchedRank() == 0) {
    fmt::print(stderr, "poolsim: {}\n", OneLine(message));
  } else {
    std::this_thread::sleep_for(std::chrono::seconds(1));  // the launcher ends all with the first that leaves
  }
  return kBadInput;
}

// The command that was named, or the program.
const CLI::App& Innermost(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : Innermost(*chosen.front());
}

std::string Spelled(const CLI::App& app) {
  return app.get_parent() == nullptr ? "poolsim" : Spelled(*app.get_parent()) + " " + app.get_name();
}

// CLI11 says what is wrong; this also says what would be right.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = Innermost(app);
  const std::string help = fmt::format("; see {} --help", Spelled(command));
  // A mistyped subcommand is first of all one that is missing.
  const bool choice = !command.get_subcommands(nullptr).empty();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr &&
      !(choice && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)) {
    return error.what() + help;
  }
  for (const std::string& word : app.remaining(true)) {
    if (word.size() > 1 && word[0] == '-') {
      std::vector<std::string> known;
      for (const CLI::Option* option : command.get_options()) {
        for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      }
      return UnknownName("option", word.substr(0, word.find('=')), known) + help;
    }
    if (choice) {
      std::vector<std::string> known;
      for (const CLI::App* sub : command.get_subcommands(nullptr)) known.push_back(sub->get_name());
      return UnknownName("command", word, known) + help;
    }
    return fmt::format("unexpected argument \"{}\"{}", word, help);
  }
  return error.what() + help;
}

}  // namespace

std::string Version() { return fmt::format("poolsim {} ({})", POOLSIM_VERSION, POOLSIM_COMMIT); }

std::string Build() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return fmt::format("{}, executable {:016x}", Version(), Hash64(bytes));
}

void WriteWholeFile(const std::string& path, const std::string& text) {
  const std::string partial = path + ".partial";
  errno = 0;
  std::ofstream out(partial, std::ios::binary);
  out << text;
  out.close();
  std::error_code error(out ? 0 : errno, std::generic_category());
  if (out) std::filesystem::rename(partial, path, error);
  if (!out || error) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw InputError(fmt::format("{}: cannot be written{}", path, error ? ": " + error.message() : std::string()));
  }
}

Provenance ProvenanceOf(const SimulationOptions& options, const Invocation& invocation) {
  return {POOLSIM_VERSION, POOLSIM_COMMIT, invocation.command_line, options.scenario};
}

int RunCommandLine(int argc, char** argv) {
  Invocation invocation;
  invocation.command_line = CommandLine(argc, argv);

  CLI::App app(kDescription, "poolsim");
  app.get_formatter()->column_width(30);
  app.set_help_flag("-h,--help", "what you are reading");
  app.set_version_flag("--version", fmt::format("{}\nMPI: {}", Version(), Ranks::Library()), "version, commit, and MPI");
  app.footer(kExamples);
  app.require_subcommand(0, 1);
  AddRunCommand(app, invocation);
  AddCompareCommand(app, invocation);
  AddPlanCommand(app, invocation);
  AddReportCommand(app, invocation);
  AddReproduceCommand(app, invocation);
  AddTuneCommand(app, invocation);
  AddResumeCommand(app, invocation);
  AddSweepCommand(app, invocation);
  AddCalibrateCommand(app, invocation);
  AddTraceCommand(app, invocation);
  AddListCommand(app, invocation);
  AddExplainCommand(app, invocation);
  AddLlmsCommand(app, invocation);
  AddSchemaCommand(app, invocation);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help and version
    return Refuse(UsageMessage(app, error));
  }
  if (!invocation.action) {
    fmt::print("{}", app.help());
    return 0;
  }
  if (Ranks::LaunchedSize() > 1 && !invocation.on_ranks) {
    return Refuse(fmt::format("{} runs in one process, found {}; poolsim sweep, plan and run share their work",
                              Spelled(Innermost(app)), Ranks::LaunchedSize()));
  }
  try {
    invocation.action();
    return invocation.exit_code;
  } catch (const InputError& error) {
    return Refuse(error.what());
  } catch (const std::exception& error) {
    fmt::print(stderr, "poolsim: {}\n", OneLine(error.what()));
    return kBroken;
  }
}

}  // namespace poolsim
