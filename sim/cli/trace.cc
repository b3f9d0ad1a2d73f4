// `poolsim trace`: reading traces for their own sake.
#include <algorithm>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/table.h"
#include "sim/cli/trace_input.h"
#include "sim/errors.h"
#include "traces/export.h"
#include "traces/market.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim trace stats day.csv.zst                             what is in a trace\n"
    "  poolsim trace convert day.csv.zst --out day.ptrace          read many times faster\n"
    "  poolsim trace generate --template market --out day.ptrace   a generator's requests as a file";

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
    "  poolsim trace generate --template arena --out arena.csv.zst\n"
    "  poolsim trace generate my.json --set seed=2 --set workload.to_s=3600 --out hour.csv.zst\n"
    "\n"
    "The requests are those that a run of the scenario gets. A run needs no file: it generates them itself.";

struct Options {
  TraceInput input;
  std::string out;
  std::string to;
  std::vector<std::string> drop;
  bool quiet = false;
};

void Report(const Options& options, const Scenario& scenario, const TraceLayout& layout, const TraceExportResult& result,
            double seconds) {
  std::error_code error;
  const auto bytes = static_cast<double>(std::filesystem::file_size(options.out, error));
  const auto requests = static_cast<double>(result.requests);
  fmt::print("{}: {}, {} of {}, {}", options.out, layout.name, Plural(result.requests, "request"), Plural(result.models, "model"),
             ByteSize(bytes));
  if (result.requests > 0) fmt::print(" ({:.1f} bytes each)", bytes / requests);
  fmt::print(", {} requests/s\n", ShortCount(requests / std::max(seconds, 1e-9)));
  const RowAccount account = AccountOfRows(scenario, result.counts, result.requests);
  if (account.rows) {
    fmt::print("rows read {}, failed in the source {}, skipped {}, written {}\n", Count(account.counts.rows_read),
               Count(account.counts.rows_failed), Count(account.counts.rows_skipped), Count(result.requests));
  }
  for (const std::string& remark : account.Remarks()) fmt::print("{}\n", remark);
  if (result.dropped != 0) fmt::print("left out, as --drop says: {}\n", TracePartNames(result.dropped));
}

// Whether the workload is read from something that cannot be read twice.
bool IsPipe(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error) &&
         !std::filesystem::is_directory(path, error);
}

void Write(const Options& options, const Scenario& scenario) {
  const TraceLayout& layout = FindTraceLayout(options.to, options.out);
  const std::filesystem::path read = std::filesystem::path(scenario.base_dir) / scenario.workload.path;
  std::error_code error;
  for (const std::filesystem::path& input : {read, std::filesystem::path(options.input.in)}) {
    if (std::filesystem::is_regular_file(input, error) && std::filesystem::equivalent(input, options.out, error))
      throw InputError(fmt::format("{}: is what is read; --out must name another file", options.out));
  }
  const auto begin = std::chrono::steady_clock::now();
  TraceExport out(layout, options.out, TracePartsNamed(options.drop));
  const InterruptGuard guard([&out] { out.Discard(); });
  TraceExportResult result;
  {
    const Progress progress(Progress::ModeFor(options.quiet));
    bool again = false;
    result = out.Write([&] {
      if (again && IsPipe(read)) {
        throw InputError(fmt::format(
            "{}: a request has an LLM or a session, the first had none, and {} cannot be read again to begin the file anew; "
            "write a .ptrace",
            options.out, scenario.workload.path));
      }
      again = true;
      return OpenWorkloadOf(scenario);
    });
  }
  Report(options, scenario, layout, result, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

void Convert(const Options& options) { Write(options, LoadTraceInput(options.input)); }

void Generate(const Options& options) {
  const Scenario scenario = LoadTraceInput(options.input);
  if (scenario.workload.source.empty() && scenario.workload.market.is_null()) {
    throw InputError(fmt::format(
        "{}: /workload: there is neither a source nor a market, so there is nothing to generate; poolsim trace convert "
        "writes the requests of a trace",
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
  command.add_option("--drop", options.drop, "leave out of the requests: model, base (the LLM), session, blocks")
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

void AddTraceInput(CLI::App& command, TraceInput& input, const char* name, const char* help, unsigned kinds) {
  CLI::Option* in = command.add_option(name, input.in, help)->type_name("");
  if ((kinds & kTemplates) != 0) {
    command.add_option("--template", input.template_name, "instead: a market as poolsim lists it (poolsim list templates)")
        ->type_name("NAME");
  } else {
    in->required();
  }
  if ((kinds & kTraceFiles) != 0)
    command.add_option("--format", input.format, "format of the trace (default: found from its first lines)")->type_name("NAME");
  command.add_option("--set", input.set, "change one setting, as in workload.model=chat; may be given often")
      ->allow_extra_args(false)
      ->type_name("PATH=VALUE");
}

Scenario LoadTraceInput(const TraceInput& input) {
  std::vector<std::string> set = input.set;
  if (!input.format.empty()) set.push_back("workload.format=" + input.format);
  if (input.in.empty() == input.template_name.empty()) {
    throw InputError(fmt::format("{}; expected a file or --template NAME",
                                 input.in.empty() ? "nothing to read is named" : "a file and --template are both given"));
  }
  if (!input.template_name.empty()) {
    const Json document{{"workload", Json{{"market", Json{{"template", input.template_name}}}}}};
    return ParseScenario(document.dump(), "--template", "", set);
  }
  if (IsScenario(input.in)) {
    SimulationOptions options;
    options.scenario = input.in;
    options.set = set;
    return LoadScenarioArgument(options);
  }
  std::error_code error;
  if (!std::filesystem::exists(input.in, error)) {
    const Json templates = TemplateListing();
    const bool known = std::any_of(templates.begin(), templates.end(), [&](const Json& row) { return row["name"] == input.in; });
    throw InputError(fmt::format("{}: there is no such file{}", input.in,
                                 known ? fmt::format("; --template {} is the market of that name", input.in) : ""));
  }
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

RowAccount AccountOfRows(const Scenario& scenario, const SourceCounts& counts, std::int64_t requests) {
  const WorkloadConfig& workload = scenario.workload;
  std::error_code error;
  RowAccount account;
  account.rows =
      !workload.path.empty() && !std::filesystem::is_directory(std::filesystem::path(scenario.base_dir) / workload.path, error);
  account.counts = counts;
  const std::int64_t left = counts.rows_read - counts.rows_failed - counts.rows_skipped - requests;
  account.left_out = std::max<std::int64_t>(0, left);
  account.repeated = std::max<std::int64_t>(0, -left);
  account.both = (workload.from_s > 0 || workload.to_s) && workload.rate_scale > 1;
  return account;
}

std::vector<std::string> RowAccount::Remarks() const {
  std::vector<std::string> remarks;
  if (!rows) return remarks;
  if (counts.rows_skipped > 0) remarks.push_back("the first skipped: " + counts.first_skipped);
  if (both) {
    if (left_out > 0) remarks.push_back(fmt::format("{} fewer: not in the slice, less repeats", Plural(left_out, "request")));
    if (repeated > 0) remarks.push_back(fmt::format("{} more: repeats, less rows not in the slice", Plural(repeated, "request")));
    return remarks;
  }
  if (left_out > 0)
    remarks.push_back(
        fmt::format("{} {} not in the slice, or thinned out", Plural(left_out, "row"), left_out == 1 ? "is" : "are"));
  if (repeated > 0)
    remarks.push_back(fmt::format("{} {}", Plural(repeated, "request"), repeated == 1 ? "is a repeat" : "are repeats"));
  return remarks;
}

void AddTraceCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* trace = app.add_subcommand("trace", "look into traces, convert them, write a generator's requests");
  trace->require_subcommand(1);
  trace->footer(kExamples);
  AddTraceStatsCommand(*trace, invocation);

  const auto converted = std::make_shared<Options>();
  CLI::App* convert = trace->add_subcommand("convert", "write a trace, or a scenario's workload, in another layout");
  AddTraceInput(*convert, converted->input, "IN", "trace file, or scenario (JSON) for its workload", kTraceFiles);
  AddOutput(*convert, *converted);
  std::string layouts;
  for (const TraceLayout& layout : TraceLayouts()) layouts += fmt::format("  {:<12} {}\n", layout.name, layout.help);
  convert->footer(kConvertExamples + layouts);
  convert->callback([converted, &invocation] { invocation.action = [converted] { Convert(*converted); }; });

  const auto generated = std::make_shared<Options>();
  CLI::App* generate = trace->add_subcommand("generate", "write the requests of a scenario's generator, or of a template");
  AddTraceInput(*generate, generated->input, "SCENARIO", "scenario file (JSON) with a workload.source or workload.market",
                kTemplates);
  AddOutput(*generate, *generated);
  generate->footer(kGenerateExamples);
  generate->callback([generated, &invocation] { invocation.action = [generated] { Generate(*generated); }; });
}

}  // namespace poolsim
