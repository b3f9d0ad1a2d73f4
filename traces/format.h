// Where a trace format or a generator plugs in. Each is one file with one self-registration:
//
//     const Register<TraceFormatEntry> kRegistered{{.name = "vidur", .help = "one line", .example = "...", ...}};
//     const Register<SourceEntry> kRegistered{{.name = "poisson", ...}};
//
// A format turns lines into rows and says what is wrong with a line; traces/open.cc does the rest: opening, bad rows, sorting,
// models, slicing, scaling.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/registry.h"
#include "sim/request_source.h"
#include "traces/line_reader.h"
#include "traces/text.h"

namespace poolsim {

// One row as the trace states it. Views are valid until the reader's next call.
struct TraceRow {
  TraceTime time = 0;      // as in the file; for a format with `first_row_is_zero`, since an instant that the reader fixes
  std::string_view model;  // empty when the format has no model column
  std::string_view base;   // catalogue LLM behind the model; empty when the trace does not say
  std::int32_t prompt_tokens = 0;
  std::int32_t output_tokens = 0;
  std::string_view session = {};               // empty: none
  std::span<const std::uint64_t> blocks = {};  // see RequestDetails
  std::int32_t block_tokens = 0;
  std::int64_t time_column = 1;  // where the time stands in the line, and its text, for messages
  std::string_view time_text;
  std::int64_t line = 0;  // of the file; 0: the one that the LineReader gave last
};

// kFailed: a good row of a request that failed where the trace was taken; it is counted (SourceCounts) and left out.
enum class RowStatus { kRow, kFailed, kBad, kEnd };

class TraceReader {
 public:
  virtual ~TraceReader() = default;
  // Reads the next row. kBad: `problem` is filled in, the row is over and the reader can go on with the next one. A row must not
  // leave traces in the reader when it is bad. Throws InputError for faults of the file itself.
  virtual RowStatus Next(TraceRow& row, RowProblem& problem) = 0;
};

struct TraceContext {
  LineReader* lines = nullptr;   // at the first line; lives as long as the reader
  const Json* params = nullptr;  // workload.params; the reader checks it in full (unknown keys are errors)
  std::string scenario_file;
  std::string params_path;  // JSON path of params, for messages
  std::uint64_t seed = 1;
  std::string base_dir;  // folder that relative paths in params start from
};

struct TraceFormatEntry {
  std::string name;
  std::string help;
  std::string example;  // header and one row, or one line
  // Whether a file may be of this format, from its first two lines that are not blank (`second` is empty when there is one only).
  // At most one format may claim a given file.
  std::function<bool(std::string_view first, std::string_view second)> sniff;
  // Throws InputError when a column is missing or a parameter is wrong.
  std::function<std::unique_ptr<TraceReader>(const TraceContext&)> create;
  // For a format that is a folder; empty function: it is a file. Does all that open.cc does for a file but slicing and scaling.
  std::function<std::unique_ptr<RequestSource>(const SourceContext&, const std::string& folder)> open_folder = nullptr;
  bool has_models = false;         // rows name their model
  bool first_row_is_zero = false;  // times are absolute: the earliest row arrives at 0. Otherwise they are kept as they are
  // LLM of the i-th model by first appearance where the format has such a rule; empty function: none.
  std::function<std::string_view(std::size_t i)> base_rule;
  // Declares the params that the format takes; empty function: none.
  Fields::Describer params;
};

struct SourceEntry {
  std::string name;
  std::string help;
  std::string example;  // a `params` block
  // `context.workload->params` is checked in full. Applies workload.rate_scale itself (to its rates); slicing and time_scale are
  // applied by the caller. names() is complete from the start. Throws InputError.
  std::function<std::unique_ptr<RequestSource>(const SourceContext&)> create;
  std::function<Json()> schema;  // JSON Schema of `params`
};

// "scenario.json: /workload/path: what", as an InputError.
[[noreturn]] void RefuseWorkload(const SourceContext& context, std::string_view key, const std::string& what);

}  // namespace poolsim
