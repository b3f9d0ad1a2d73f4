// `poolsim trace`: reading traces for their own sake.
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/table.h"
#include "sim/cli/trace_input.h"
#include "sim/errors.h"
#include "traces/export.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim trace stats day.csv.zst                             what is in a trace\n"
    "  poolsim trace convert day.csv.zst --out day.ptrace          read many times faster\n"
    "  poolsim trace generate my.json --out day.csv.zst            a generator's requests as a file";

constexpr const char* kConvertExamples =
    "Examples:\n"
    "  poolsim trace convert day.csv.zst --out day.ptrace\n"
    "  poolsim trace convert conversation.jsonl.gz --set workload.model=chat --out chat.csv.zst\n"
    "  poolsim trace convert my.json --out hour.csv --set workload.from_s=3600 --set workload.to_s=7200\n"
    "  poolsim trace convert azure.csv --out out.jsonl --set workload.on_bad_row=skip\n"
    "  poolsim trace convert day.ptrace --out lengths.csv --to vidur --drop model,base\n"
    "\n"
    "Any format that can be read (poolsim list formats), plain, .gz or .zst; slicing, scaling and dealing\n"
    "rows over models are settings of the workload (poolsim schema | jq .properties.workload).\n"
    "FILE appears when it is whole. Layouts that can be written:\n";

constexpr const char* kGenerateExamples =
    "Examples:\n"
    "  poolsim trace generate my.json --out day.ptrace\n"
    "  poolsim trace generate my.json --set seed=2 --set workload.params.duration_s=3600 --out hour.csv.zst\n"
    "\n"
    "The requests are those that a run of the scenario gets. A run needs no file: it generates them itself.";

struct Options {
  TraceInput input;
  std::string out;
  std::string to;
  std::vector<std::string> drop;
  bool quiet = false;
};

std::string Plural(std::int64_t count, const std::string& noun) {
  return fmt::format("{} {}{}", Count(count), noun, count == 1 ? "" : "s");
}

void Report(const Options& options, const TraceLayout& layout, const TraceExportResult& result, double seconds) {
  std::error_code error;
  const auto bytes = static_cast<double>(std::filesystem::file_size(options.out, error));
  const auto requests = static_cast<double>(result.requests);
  fmt::print("{}: {}, {} of {}, {}", options.out, layout.name, Plural(result.requests, "request"), Plural(result.models, "model"),
             ByteSize(bytes));
  if (result.requests > 0) fmt::print(" ({:.1f} bytes each)", bytes / requests);
  fmt::print(", {} requests/s\n", ShortCount(requests / std::max(seconds, 1e-9)));
  const SourceCounts& counts = result.counts;
  fmt::print("rows read {}, failed in the source {}, skipped {}, written {}\n", Count(counts.rows_read),
             Count(counts.rows_failed), Count(counts.rows_skipped), Count(result.requests));
  if (counts.rows_skipped > 0) fmt::print("the first skipped: {}\n", counts.first_skipped);
  const std::int64_t sliced = counts.rows_read - counts.rows_failed - counts.rows_skipped - result.requests;
  if (sliced > 0) fmt::print("{} are not in the slice, or thinned out\n", Plural(sliced, "row"));
  if (sliced < 0) fmt::print("{} are repeats\n", Plural(-sliced, "request"));
  if (result.dropped != 0) fmt::print("left out, as --drop says: {}\n", TracePartNames(result.dropped));
}

void Write(const Options& options, const Scenario& scenario) {
  const TraceLayout& layout = FindTraceLayout(options.to, options.out);
  const auto begin = std::chrono::steady_clock::now();
  TraceExport out(layout, options.out, TracePartsNamed(options.drop));
  const InterruptGuard guard([&out] { out.Discard(); });
  TraceExportResult result;
  {
    const Progress progress(Progress::ModeFor(options.quiet));
    result = out.Write([&scenario] { return OpenWorkloadOf(scenario); });
  }
  Report(options, layout, result, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

void Convert(const Options& options) { Write(options, LoadTraceInput(options.input)); }

void Generate(const Options& options) {
  const Scenario scenario = LoadTraceInput(options.input);
  if (scenario.workload.source.empty()) {
    throw InputError(
        fmt::format("{}: /workload/source: no generator is named, so there is nothing to generate; poolsim trace convert writes "
                    "the requests of a trace",
                    scenario.file));
  }
  Write(options, scenario);
}

void AddOutput(CLI::App& command, Options& options) {
  std::vector<std::string> names;
  for (const TraceLayout& layout : TraceLayouts()) names.push_back(layout.name);
  command.add_option("--out", options.out, "file to write; .gz and .zst compress")->required()->type_name("FILE");
  command
      .add_option("--to", options.to,
                  fmt::format("layout: {} (default: by the name, .ptrace, .csv or .jsonl)", fmt::join(names, ", ")))
      ->type_name("LAYOUT");
  command.add_option("--drop", options.drop, "leave out what the layout cannot hold: model, base, session, blocks")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("PART,...");
  command.add_flag("--quiet", options.quiet, "no progress on stderr");
}

bool IsScenario(const std::string& path) {
  constexpr std::uintmax_t kMost = 16 << 20;  // a trace in one JSON document may be of any size
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return path == "quickstart";
  if (std::filesystem::path(path).extension() != ".json" || std::filesystem::file_size(path, error) > kMost) return false;
  return ReadWholeFile(path).find("\"workload\"") != std::string::npos;
}

}  // namespace

void AddTraceInput(CLI::App& command, TraceInput& input, const char* name, const char* help) {
  command.add_option(name, input.in, help)->required()->type_name("");
  command.add_option("--format", input.format, "format of the trace (default: found from its first lines)")->type_name("NAME");
  command.add_option("--set", input.set, "change one setting, as in workload.model=chat; may be given often")
      ->allow_extra_args(false)
      ->type_name("PATH=VALUE");
}

Scenario LoadTraceInput(const TraceInput& input) {
  std::vector<std::string> set = input.set;
  if (!input.format.empty()) set.push_back("workload.format=" + input.format);
  if (IsScenario(input.in)) {
    SimulationOptions options;
    options.scenario = input.in;
    options.set = set;
    return LoadScenarioArgument(options);
  }
  std::error_code error;
  if (!std::filesystem::exists(input.in, error)) throw InputError(fmt::format("{}: there is no such file", input.in));
  const Json document{{"workload", Json{{"path", input.in}}}};
  return ParseScenario(document.dump(), input.in, "", set);
}

std::unique_ptr<RequestSource> OpenWorkloadOf(const Scenario& scenario) {
  SourceContext context;
  context.workload = &scenario.workload;
  context.scenario_file = scenario.file;
  context.base_dir = scenario.base_dir;
  context.seed = static_cast<std::uint64_t>(scenario.seed);
  return OpenWorkload(context);
}

void AddTraceCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* trace = app.add_subcommand("trace", "look into traces, convert them, write a generator's requests");
  trace->require_subcommand(1);
  trace->footer(kExamples);
  AddTraceStatsCommand(*trace, invocation);

  const auto converted = std::make_shared<Options>();
  CLI::App* convert = trace->add_subcommand("convert", "write a trace, or a scenario's workload, in another layout");
  AddTraceInput(*convert, converted->input, "IN", "trace file, or scenario (JSON) for its workload");
  AddOutput(*convert, *converted);
  std::string layouts;
  for (const TraceLayout& layout : TraceLayouts()) layouts += fmt::format("  {:<12} {}\n", layout.name, layout.help);
  convert->footer(kConvertExamples + layouts);
  convert->callback([converted, &invocation] { invocation.action = [converted] { Convert(*converted); }; });

  const auto generated = std::make_shared<Options>();
  CLI::App* generate = trace->add_subcommand("generate", "write the requests of a scenario's generator");
  AddTraceInput(*generate, generated->input, "SCENARIO", "scenario file (JSON) with a workload.source");
  AddOutput(*generate, *generated);
  generate->footer(kGenerateExamples);
  generate->callback([generated, &invocation] { invocation.action = [generated] { Generate(*generated); }; });
}

}  // namespace poolsim
