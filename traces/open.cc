// From a workload's settings to a sorted stream of requests.
//
//     trace file -> lines -> rows (a format) -> TraceSource: bad rows, sorting, models -> ScaledSource: slice, thin or repeat,
//     scale generator ---------------------------------------------------------------------->
#include <algorithm>
#include <bit>
#include <deque>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/ids.h"
#include "sim/rng.h"
#include "traces/format.h"

namespace poolsim {

void RefuseWorkload(const SourceContext& context, std::string_view key, const std::string& what) {
  throw InputError(fmt::format("{}: /workload{}{}: {}", context.scenario_file, key.empty() ? "" : "/", key, what));
}

namespace {

constexpr std::int64_t kMaxAssignedModels = 1'000'000;

struct AssignRule {
  double zipf = 1;
  std::int64_t models = 0;
  void Describe(Fields& f) {
    f.Real("zipf", zipf, "exponent s of the popularity 1/rank^s; 0: all models alike", 0, 20);
    f.Int("models", models, "number of models", 1, kMaxAssignedModels);
  }
};

// Rows of one file, checked and in order, with a model each.
class TraceSource final : public RequestSource {
 public:
  TraceSource(const SourceContext& context, const TraceFormatEntry& format, std::unique_ptr<LineReader> lines)
      : format_(format), lines_(std::move(lines)), skip_(context.workload->on_bad_row == "skip") {
    const WorkloadConfig& workload = *context.workload;
    reorder_ = PsFromSeconds(workload.reorder_s);
    if (format_.has_models) {
      if (!workload.model.empty())
        RefuseWorkload(context, "model", fmt::format("format \"{}\" names the model of each row", format_.name));
      if (!workload.assign.is_null())
        RefuseWorkload(context, "assign", fmt::format("format \"{}\" names the model of each row", format_.name));
    } else if (!workload.assign.is_null()) {
      if (!workload.model.empty()) RefuseWorkload(context, "assign", "model and assign are both given; expected one of them");
      AssignRule rule;
      ReadStruct(workload.assign, context.scenario_file, "/workload/assign", rule);
      if (rule.models == 0) RefuseWorkload(context, "assign/models", "is missing; expected a number of models");
      deal_ = DiscreteTable(ZipfWeights(static_cast<std::size_t>(rule.models), rule.zipf));
      deal_key_ = Hash64("assign", context.seed);
      for (std::int64_t i = 0; i < rule.models; ++i) names_.Intern(fmt::format("model_{:04}", i));
    } else {
      names_.Intern(workload.model.empty() ? "model" : workload.model);
    }

    const Json none = Json::object();
    const Json& params = workload.params.is_null() ? none : workload.params;
    if (!format_.params) ReadFields(params, context.scenario_file, "/workload/params", [](Fields&) {});
    reader_ = format_.create({lines_.get(), &params, context.scenario_file, "/workload/params", context.seed});
  }

  bool Next(RequestSpec& out) override {
    if (reorder_ == 0) {
      if (!Read(out)) return false;
    } else if (!NextSorted(out)) {
      return false;
    }
    if (format_.first_row_is_zero) {
      if (!origin_) origin_ = out.arrival;
      out.arrival -= *origin_;
    }
    return true;
  }

  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return names_; }

 private:
  struct Waiting {
    std::int64_t row;
    RequestSpec spec;
  };
  static bool Later(const Waiting& a, const Waiting& b) {
    return a.spec.arrival != b.spec.arrival ? a.spec.arrival > b.spec.arrival : a.row > b.row;
  }

  // The next good row in the order of the file.
  bool Read(RequestSpec& out) {
    for (;;) {
      TraceRow row;
      RowProblem problem;
      const RowStatus status = reader_->Next(row, problem);
      if (status == RowStatus::kEnd) return false;
      const std::int64_t number = counts_.rows_read++;
      if (status == RowStatus::kRow && Accept(row, number, out, problem)) return true;
      const std::string message =
          fmt::format("{}:{}:{}: {}", lines_->name(), lines_->line_number(), problem.column, problem.what);
      if (!skip_) throw InputError(message);
      if (counts_.rows_skipped++ == 0) counts_.first_skipped = message;
    }
  }

  bool Accept(const TraceRow& row, std::int64_t number, RequestSpec& out, RowProblem& problem) {
    if (latest_ && row.time < *latest_ - reorder_) {
      problem = {row.time_column, fmt::format("{}: the time goes back by {} s, more than reorder_s = {}", Quoted(row.time_text),
                                              ToSeconds(*latest_ - row.time), ToSeconds(reorder_))};
      return false;
    }
    if (row.model.empty()) {
      out.model =
          deal_.size() == 0 ? 0 : static_cast<std::int32_t>(deal_.Pick(HashAt(deal_key_, static_cast<std::uint64_t>(number))));
    } else if (format_.base_rule) {
      out.model = names_.Intern(row.model, format_.base_rule(names_.models().size()));
    } else {
      bool agrees = true;
      out.model = names_.Intern(row.model, row.base, &agrees);
      if (!agrees) {
        const std::string& first = names_.models()[static_cast<std::size_t>(out.model)].base;
        problem = {1, fmt::format("model {} has base {} here and {} where it first appeared", Quoted(row.model), Quoted(row.base),
                                  first.empty() ? "none" : Quoted(first))};
        return false;
      }
    }
    out.arrival = row.time;
    out.prompt_tokens = row.prompt_tokens;
    out.output_tokens = row.output_tokens;
    latest_ = latest_ ? std::max(*latest_, row.time) : row.time;
    return true;
  }

  bool NextSorted(RequestSpec& out) {
    // A row may leave when no later row of the file can come before it.
    while (!at_end_ && (waiting_.empty() || waiting_.front().spec.arrival > *latest_ - reorder_)) {
      Waiting next;
      next.row = counts_.rows_read;
      if (Read(next.spec)) {
        waiting_.push_back(next);
        std::push_heap(waiting_.begin(), waiting_.end(), Later);
      } else {
        at_end_ = true;
      }
    }
    if (waiting_.empty()) return false;
    std::pop_heap(waiting_.begin(), waiting_.end(), Later);
    out = waiting_.back().spec;
    waiting_.pop_back();
    return true;
  }

  const TraceFormatEntry& format_;
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<TraceReader> reader_;
  bool skip_;
  TimePs reorder_ = 0;
  std::optional<TimePs> latest_;  // of the good rows so far
  std::optional<TimePs> origin_;
  std::vector<Waiting> waiting_;  // a heap, earliest first
  bool at_end_ = false;
  DiscreteTable deal_;  // empty: one model
  std::uint64_t deal_key_ = 0;
  SourceCounts counts_;
  ModelNames names_;
};

// x * factor in ps, rounded to nearest; empty beyond 106 days. Exact: the double is taken apart, the product has 128 bits.
// REQUIRES x >= 0, 2^-50 < factor < 2^50.
std::optional<TimePs> Scale(TimePs x, double factor) {
  const auto bits = std::bit_cast<std::uint64_t>(factor);
  const auto mantissa = (bits & ((std::uint64_t{1} << 52) - 1)) | (std::uint64_t{1} << 52);
  const int shift = 1075 - static_cast<int>(bits >> 52);  // factor = mantissa / 2^shift, 2 <= shift <= 102
  const auto product = static_cast<unsigned __int128>(x) * mantissa;
  const auto half = static_cast<unsigned __int128>(1) << (shift - 1);
  const auto rounded = (product + half) >> shift;
  if (rounded > static_cast<unsigned __int128>(kMaxTime)) return std::nullopt;
  return static_cast<TimePs>(rounded);
}

// A slice of another source, thinned or repeated, with time stretched.
//
// rate_scale r below 1 keeps a row when a hash of its number is below r, so the rows kept at a lower rate are among those kept at
// a higher. Above 1 a row stands for floor(r) requests, and one more with probability r - floor(r), by the same hash: the first
// at its time, the others anywhere between it and the next row. So rates scale at every time scale, and repeats do not arrive as
// batches unless rows of the trace do. Copies of the last row arrive with it.
class ScaledSource final : public RequestSource {
 public:
  ScaledSource(const SourceContext& context, std::unique_ptr<RequestSource> inner, double rate_scale)
      : inner_(std::move(inner)),
        scenario_file_(context.scenario_file),
        from_(PsFromSeconds(context.workload->from_s)),
        to_(context.workload->to_s ? PsFromSeconds(*context.workload->to_s) : kNever),
        time_scale_(context.workload->time_scale),
        key_(Hash64("rate_scale", context.seed)),
        copies_(static_cast<std::int64_t>(rate_scale)),
        part_(rate_scale - static_cast<double>(copies_)) {}

  bool Next(RequestSpec& out) override {
    if (copies_ == 0) {
      do {
        if (!Pull(out)) return false;
      } while (!(Chance(row_) < part_));
    } else {
      if (next_copy_ == times_.size() && !Repeat()) return false;
      out = current_;
      out.arrival = times_[next_copy_++];
    }
    if (time_scale_ != 1) {
      const std::optional<TimePs> scaled = Scale(out.arrival, time_scale_);
      if (!scaled) {
        throw InputError(fmt::format("{}: /workload/time_scale: at {} request {} of the trace would arrive after 106 days",
                                     scenario_file_, time_scale_, row_));
      }
      out.arrival = *scaled;
    }
    return true;
  }

  const SourceCounts& counts() const override { return inner_->counts(); }
  const ModelNames& names() const override { return inner_->names(); }

 private:
  double Chance(std::int64_t row) const { return ToUniform01(HashAt(key_, static_cast<std::uint64_t>(row))); }

  // The next row of the slice, its time counted from the start of the slice.
  bool Pull(RequestSpec& out) {
    while (!ended_ && inner_->Next(out)) {
      ++row_;
      if (out.arrival >= to_) break;
      if (out.arrival < from_) continue;
      out.arrival -= from_;
      return true;
    }
    ended_ = true;
    return false;
  }

  // Fills times_ with the arrivals that the next row stands for.
  bool Repeat() {
    if (row_ == 0) has_ahead_ = Pull(ahead_);
    if (!has_ahead_) return false;
    current_ = ahead_;
    const std::int64_t row = row_;
    has_ahead_ = Pull(ahead_);
    const TimePs gap = has_ahead_ ? ahead_.arrival - current_.arrival : 0;
    const std::int64_t count = copies_ + (Chance(row) < part_ ? 1 : 0);
    const std::uint64_t key = HashAt(key_ + 1, static_cast<std::uint64_t>(row));
    times_.assign(1, current_.arrival);
    for (std::int64_t i = 1; i < count; ++i) {
      const auto offset =
          (static_cast<unsigned __int128>(HashAt(key, static_cast<std::uint64_t>(i))) * static_cast<std::uint64_t>(gap)) >> 64;
      times_.push_back(current_.arrival + static_cast<TimePs>(offset));
    }
    std::sort(times_.begin(), times_.end());
    next_copy_ = 0;
    return true;
  }

  std::unique_ptr<RequestSource> inner_;
  std::string scenario_file_;
  TimePs from_;
  TimePs to_;
  double time_scale_;
  std::uint64_t key_;
  std::int64_t copies_;  // of every row; 0: rows are kept with probability part_
  double part_;
  std::int64_t row_ = 0;  // number of the row pulled last, from 1, counted from the start of the trace
  bool ended_ = false;
  RequestSpec current_;
  RequestSpec ahead_;
  bool has_ahead_ = false;
  std::vector<TimePs> times_;  // of the copies of current_
  std::size_t next_copy_ = 0;
};

const TraceFormatEntry& FindFormat(const SourceContext& context, LineReader& lines) {
  const auto& registry = Registry<TraceFormatEntry>::Get();
  const std::string& wanted = context.workload->format;
  if (wanted != "auto") {
    const TraceFormatEntry* found = registry.Find(wanted);
    if (found == nullptr) {
      std::vector<std::string> known = registry.Names();
      known.push_back("auto");
      RefuseWorkload(context, "format", UnknownName("trace format", wanted, known));
    }
    return *found;
  }
  const std::vector<std::string> head = lines.Head(2);
  if (head.empty()) throw InputError(fmt::format("{}: the file is empty", lines.name()));
  for (const TraceFormatEntry& entry : registry.entries()) {
    if (entry.sniff(head[0], head.size() > 1 ? std::string_view(head[1]) : std::string_view())) return entry;
  }
  throw InputError(fmt::format("{}:1:1: no trace format has a first line like {}; workload.format may name one of {}",
                               lines.name(), Quoted(head[0]), fmt::join(registry.Names(), ", ")));
}

std::unique_ptr<RequestSource> OpenTrace(const SourceContext& context) {
  const WorkloadConfig& workload = *context.workload;
  const std::filesystem::path path = std::filesystem::path(context.base_dir) / workload.path;  // an absolute path stays
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    RefuseWorkload(context, "path", fmt::format("no file {} (looked for {})", Quoted(workload.path), path.string()));
  }
  if (std::filesystem::is_directory(path, error)) {
    for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) {
      if (entry.open_folder && (workload.format == "auto" || workload.format == entry.name))
        return entry.open_folder(context, path.string());
    }
    RefuseWorkload(context, "path", fmt::format("{} is a folder", path.string()));
  }
  auto lines = std::make_unique<LineReader>(path.string(), path.string());
  const TraceFormatEntry& format = FindFormat(context, *lines);
  return std::make_unique<TraceSource>(context, format, std::move(lines));
}

std::unique_ptr<RequestSource> OpenGenerator(const SourceContext& context) {
  const WorkloadConfig& workload = *context.workload;
  const auto& registry = Registry<SourceEntry>::Get();
  const SourceEntry* entry = registry.Find(workload.market.is_null() ? workload.source : "market");
  if (entry == nullptr) RefuseWorkload(context, "source", UnknownName("source", workload.source, registry.Names()));
  const auto refuse = [&](const char* key) { RefuseWorkload(context, key, "goes with a trace (path), not with a source"); };
  if (!workload.market.is_null() && workload.params != Json::object())
    RefuseWorkload(context, "params", "goes with source, not with market");
  if (workload.format != "auto") refuse("format");
  if (!workload.model.empty()) refuse("model");
  if (!workload.assign.is_null()) refuse("assign");
  if (workload.reorder_s != 0) refuse("reorder_s");
  return entry->create(context);
}

}  // namespace

std::unique_ptr<RequestSource> OpenWorkload(const SourceContext& context) {
  const WorkloadConfig& workload = *context.workload;
  const int given = (workload.path.empty() ? 0 : 1) + (workload.source.empty() ? 0 : 1) + (workload.market.is_null() ? 0 : 1);
  if (given != 1) {
    RefuseWorkload(context, "path",
                   fmt::format("{} given; expected exactly one of path (a trace file), source (a generator) and market",
                               given == 0                  ? "neither path nor source nor market is"
                               : workload.market.is_null() ? "both path and source are"
                                                           : "both market and path or source are"));
  }
  if (workload.to_s && *workload.to_s <= workload.from_s) {
    RefuseWorkload(context, "to_s", fmt::format("{} is not after from_s = {}", *workload.to_s, workload.from_s));
  }
  const bool trace = !workload.path.empty();
  std::unique_ptr<RequestSource> source = trace ? OpenTrace(context) : OpenGenerator(context);
  const double rate_scale = trace ? workload.rate_scale : 1;
  if (workload.from_s == 0 && !workload.to_s && workload.time_scale == 1 && rate_scale == 1) return source;
  return std::make_unique<ScaledSource>(context, std::move(source), rate_scale);
}

Json FormatListing() {
  Json rows = Json::array();
  const auto add = [&rows](const auto& entry, const char* kind) {
    rows.push_back(Json{{"name", entry.name}, {"kind", kind}, {"help", entry.help}, {"example", entry.example}});
  };
  for (const SourceEntry& entry : Registry<SourceEntry>::Get().entries()) add(entry, "generator");
  for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) add(entry, "trace");
  return rows;
}

Json SourceParamsSchema(const std::string& name) {
  if (const SourceEntry* entry = Registry<SourceEntry>::Get().Find(name)) return entry->schema();
  if (const TraceFormatEntry* entry = Registry<TraceFormatEntry>::Get().Find(name)) {
    return SchemaOfFields(entry->params ? entry->params : [](Fields&) {});
  }
  std::vector<std::string> known = Registry<SourceEntry>::Get().Names();
  for (const std::string& format : Registry<TraceFormatEntry>::Get().Names()) known.push_back(format);
  throw InputError(UnknownName("source or trace format", name, known));
}

}  // namespace poolsim
