// Traces: every format by its name, any file by its contents, folders of ServeGen clients, .ptrace files, and generators.
#include <optional>

#include "sim/errors.h"
#include "sim/registry.h"
#include "sim/request_source.h"
#include "tests/fuzz/targets/targets.h"
#include "traces/export.h"
#include "traces/format.h"
#include "traces/ptrace.h"

namespace poolsim::fuzz {
namespace {

constexpr std::size_t kMostRequests = 2000;  // clients and generators may be made to ask without end

struct Request {
  TimePs arrival = 0;
  std::int32_t prompt_tokens = 0;
  std::int32_t output_tokens = 0;
  std::string model;
  std::string base;
  std::string session;
  std::vector<std::uint64_t> blocks;
  bool operator==(const Request&) const = default;
};

struct Read {
  bool refused = false;
  bool whole = false;  // up to its end
  std::vector<Request> requests;
  SourceCounts counts;
};

Read ReadAll(RequestSource& source) {
  Read read;
  RequestSpec spec;
  TimePs last = 0;
  while (read.requests.size() < kMostRequests) {
    if (!source.Next(spec)) {
      read.whole = true;
      break;
    }
    Expect(spec.arrival >= last && spec.arrival <= kMaxTime, "an arrival before the last one, or beyond 106 days");
    Expect(spec.prompt_tokens >= 1 && spec.prompt_tokens <= kMaxTokens, "a prompt out of range");
    Expect(spec.output_tokens >= 1 && spec.output_tokens <= kMaxTokens, "an output out of range");
    Expect(spec.model >= 0 && static_cast<std::size_t>(spec.model) < source.names().models().size(), "an unknown model");
    last = spec.arrival;
    const ModelNames::Model& model = source.names().models()[static_cast<std::size_t>(spec.model)];
    const RequestDetails& details = source.details();
    read.requests.push_back({spec.arrival,
                             spec.prompt_tokens,
                             spec.output_tokens,
                             model.name,
                             model.base,
                             std::string(details.session),
                             {details.blocks.begin(), details.blocks.end()}});
  }
  read.counts = source.counts();
  return read;
}

using Opener = std::function<std::unique_ptr<RequestSource>()>;

Read ReadAll(const Opener& open) {
  Read read;
  if (!Accepts([&] { read = ReadAll(*open()); })) read.refused = true;
  return read;
}

Opener OpenerOf(const WorkloadConfig& workload) {
  return [workload] {
    SourceContext context;
    context.workload = &workload;
    context.scenario_file = "scenario.json";
    return OpenWorkload(context);
  };
}

// Written in a layout of ours and read again, the requests are the same, or the layout says what it cannot hold.
void ExpectSameFrom(const Read& read, const Opener& open, const std::string& layout, const std::string& path) {
  if (!read.whole) return;
  const unsigned drop = layout == "poolsim" ? unsigned{kBlocksPart} : 0;
  if (!Accepts([&] { TraceExport(FindTraceLayout(layout, path), path, drop).Write(open); })) {
    Expect(layout != "ptrace", "what was read could not be written as .ptrace");
    return;
  }
  WorkloadConfig workload;
  workload.path = path;
  workload.format = layout;
  Read again = ReadAll(OpenerOf(workload));
  if (read.requests.empty() && layout != "ptrace") return;
  Expect(!again.refused, "what was written in layout " + layout + " could not be read");
  std::vector<Request> wanted = read.requests;
  if (layout == "poolsim") {
    for (Request& request : wanted) request.blocks.clear();
  }
  Expect(again.requests == wanted, "what was written in layout " + layout + " reads otherwise");
}

void RunFormat(const std::string& format, const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/trace";
  Put(path, bytes);
  WorkloadConfig workload;
  workload.path = path;
  workload.format = format;
  if (format == "vidur" && bytes.find("arrived_at") == std::string::npos) workload.params["rate"] = 2;
  const Opener strict = OpenerOf(workload);
  const Read read = ReadAll(strict);
  WorkloadConfig skipping = workload;
  skipping.on_bad_row = "skip";
  const Opener lenient = OpenerOf(skipping);
  const Read skipped = ReadAll(lenient);
  if (!read.refused) {
    Expect(!skipped.refused && skipped.counts.rows_skipped == 0, "without a bad row, on_bad_row: skip skips or refuses");
    Expect(skipped.requests == read.requests, "without a bad row, on_bad_row: skip reads otherwise");
  }
  if (skipped.refused) return;
  const SourceCounts& counts = skipped.counts;
  if (skipped.whole) {
    Expect(static_cast<std::int64_t>(skipped.requests.size()) + counts.rows_failed + counts.rows_skipped == counts.rows_read,
           "a row is not accounted for");
  }
  Expect((counts.rows_skipped > 0) == !counts.first_skipped.empty(), "a skipped row without a reason");
  ExpectSameFrom(skipped, lenient, "ptrace", folder + "/again.ptrace");
  ExpectSameFrom(skipped, lenient, "poolsim", folder + "/again.csv");
}

void RunPtrace(const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/trace.ptrace";
  Put(path, bytes);
  const Opener open = [&path] { return OpenPtrace(path); };
  const Read read = ReadAll(open);
  if (read.refused) return;
  Accepts([&] {
    const auto source = OpenPtrace(path);
    const std::size_t models = source->names().models().size();
    for (const double window_s : {60.0, 120.0, 86'400.0}) {
      const std::vector<Forecast> forecasts = source->Forecasts(window_s);
      Expect(forecasts.empty() || forecasts.size() == models, "a forecast that is of no model");
    }
    if (!read.whole) return;
    // Model by model there is the same number of requests.
    std::size_t requests = 0;
    for (std::size_t m = 0; m < models && m < 50; ++m) {
      const std::int32_t number = static_cast<std::int32_t>(m);
      RequestSpec spec;
      const auto part = source->Split(std::span(&number, 1));
      while (part->Next(spec)) ++requests;
    }
    Expect(models > 50 || requests == read.requests.size(), "the models have other requests than all together");
  });
  ExpectSameFrom(read, open, "ptrace", folder + "/again.ptrace");
}

void RunServeGen(const std::string& bytes, const std::string& folder) {
  Unpack(bytes, folder + "/clients");
  WorkloadConfig workload;
  workload.path = folder + "/clients";
  ReadAll(OpenerOf(workload));
}

// Of a workload's settings; those of a file have targets of their own.
void RunGenerator(const std::string& bytes, const std::string&) {
  WorkloadConfig workload;
  if (!Accepts([&] { ReadStruct(ParseJson(bytes, "w.json"), "w.json", "/workload", workload); })) return;
  if (!workload.path.empty()) return;
  const Read read = ReadAll(OpenerOf(workload));
  const Read again = ReadAll(OpenerOf(workload));
  Expect(read.refused == again.refused && read.requests == again.requests, "the same settings give other requests");
}

}  // namespace

void AddTraceTargets(std::vector<Target>& targets) {
  for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) {
    if (entry.open_folder) continue;
    targets.push_back({"trace-" + entry.name, [format = entry.name](const std::string& bytes, const std::string& folder) {
                         RunFormat(format, bytes, folder);
                       }});
  }
  targets.push_back(
      {"trace-auto", [](const std::string& bytes, const std::string& folder) { RunFormat("auto", bytes, folder); }});
  targets.push_back({"ptrace", RunPtrace});
  targets.push_back({"servegen", RunServeGen});
  targets.push_back({"generator", RunGenerator});
}

}  // namespace poolsim::fuzz
