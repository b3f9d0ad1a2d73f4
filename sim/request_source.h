// The port through which requests come in: a sorted pull, one request at a time, so that memory does not grow with the trace.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/fields.h"
#include "sim/forecast.h"
#include "sim/ids.h"
#include "sim/time.h"

namespace poolsim {

// One request as the workload states it. Lengths are in tokens, both at least 1.
struct RequestSpec {
  TimePs arrival = 0;      // since the start of the scenario; never decreases from one request to the next
  std::int32_t model = 0;  // index into the names that the source was given or has found (see ModelNames)
  std::int32_t prompt_tokens = 0;
  std::int32_t output_tokens = 0;
};

// What a trace says about a request beyond what a simulation takes; statistics and conversions use it.
struct RequestDetails {
  std::string_view session;               // empty: none. Valid until the source's next call, as is `blocks`
  std::span<const std::uint64_t> blocks;  // a hash for every block of the prompt, from its start: equal hashes, equal prefixes
  std::int32_t block_tokens = 0;          // tokens of a block; 0: the trace has no hashes
};

// What a source counts while it runs; reported, never silent. rows_read = requests handed out before slicing and scaling +
// rows_failed + rows_skipped.
struct SourceCounts {
  std::int64_t rows_read = 0;
  std::int64_t rows_failed = 0;   // requests that failed where the trace was taken (no output), which the format leaves out
  std::int64_t rows_skipped = 0;  // bad rows passed over because `on_bad_row` is "skip"
  std::string first_skipped;      // place and reason of the first of them
};

// The models a trace talks about. Sources intern names in order of first appearance; `base` is the catalogue LLM that the trace
// itself names, or empty.
class ModelNames {
 public:
  struct Model {
    std::string name;
    std::string base;
  };
  // Index of `name`, which is added when new. A base given later for a known name must agree, ignoring case (*base_agrees says
  // whether it does; an empty one always agrees). The first one stays: requests may have been handed out with it.
  std::int32_t Intern(std::string_view name, std::string_view base = {}, bool* base_agrees = nullptr);
  const std::vector<Model>& models() const { return models_; }

 private:
  std::vector<Model> models_;
  std::vector<std::int32_t> slots_;  // open addressing over models_, size a power of two
};

class RequestSource {
 public:
  virtual ~RequestSource() = default;
  // The next request in order of arrival; false at the end. Throws InputError (file:line:column) on a bad row.
  virtual bool Next(RequestSpec& out) = 0;
  // Of the request that Next gave last.
  virtual const RequestDetails& details() const {
    static const RequestDetails none;
    return none;
  }
  virtual const SourceCounts& counts() const = 0;
  // Models seen so far (all of them, once Next has returned false; generators and .ptrace files know theirs from the start).
  virtual const ModelNames& names() const = 0;

  // The requests of these models alone (sorted numbers of names()), from the start, as a source that shares nothing that changes
  // with this one, so that it may be read on another thread; model numbers stay. Null: the workload can only be read as a whole.
  // What was failed or skipped when a file was made is in counts() of the whole, before anything is read; a part's counts() mean
  // nothing.
  virtual std::unique_ptr<RequestSource> Split(std::span<const std::int32_t> models) const {
    (void)models;
    return nullptr;
  }
  // The load of every model of names(), known without reading it; the peak is that of the busiest window of `window_s`. Empty: it
  // has to be read.
  virtual std::vector<Forecast> Forecasts(double window_s) const {
    (void)window_s;
    return {};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Settings of `workload` in a scenario. Exactly one of `path`, `source` and `market` says where requests come from.
struct WorkloadConfig {
  std::string format = "auto";      // a registered trace format; auto: found from the header or first line
  std::string path;                 // trace file, plain, .gz or .zst; relative to the scenario's folder
  std::string source;               // a registered generator, such as "poisson"
  Json params = Json::object();     // the generator's own block, or the trace format's
  Json market;                      // the generator "market" by its params alone
  std::string model;                // model of a trace without a model column
  Json assign;                      // {zipf: s, models: n}: deals rows without a model over n models, "model_0000" the hottest
  double from_s = 0;                // drop earlier rows; times are then counted from here
  std::optional<double> to_s;       // drop rows at or after this; the trace is not read further
  double rate_scale = 1;            // keeps (below 1) or repeats (above 1) rows at random, by row; generators scale their rates
  double time_scale = 1;            // multiplies all arrival times, after slicing
  double reorder_s = 0;             // rows out of order by up to this are sorted in passing
  std::string on_bad_row = "fail";  // fail | skip
  std::string cache;                // .ptrace made from the trace by the first run, and read instead of it by the next
  void Describe(Fields& f);
};

struct SourceContext {
  const WorkloadConfig* workload = nullptr;
  std::string scenario_file;  // for messages
  std::string base_dir;       // folder that relative paths start from
  std::uint64_t seed = 1;
};

// Opens what `workload` describes: format found, decompressed, sorted, sliced, scaled. Throws InputError. `context.workload` must
// live as long as the call only. traces/open.cc defines this and what follows (sim/ knows no format; only sim/cli/ calls them).
std::unique_ptr<RequestSource> OpenWorkload(const SourceContext& context);

// Rows for `poolsim list formats`: {name, kind: "trace" | "generator", help, example}, sorted by kind, then name.
Json FormatListing();
// JSON Schema of `workload.params` for a generator or trace format. InputError for an unknown name.
Json SourceParamsSchema(const std::string& name);

}  // namespace poolsim
