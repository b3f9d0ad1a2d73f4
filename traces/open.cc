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
#include "sim/limits.h"
#include "sim/rng.h"
#include "traces/format.h"
#include "traces/ptrace.h"

namespace poolsim {

void RefuseWorkload(const SourceContext& context, std::string_view key, const std::string& what) {
  throw InputError(fmt::format("{}: /workload{}{}: {}", context.scenario_file, key.empty() ? "" : "/", key, what));
}

namespace {

struct AssignRule {
  double zipf = 1;
  std::int64_t models = 0;
  void Describe(Fields& f) {
    f.Real("zipf", zipf, "exponent s of the popularity 1/rank^s; 0: all models alike", 0, 20);
    f.Int("models", models, "number of models", 1, kMaxModels);
  }
};

// A time of the trace; slices may lie beyond the reach of TimePs.
TraceTime SliceTime(double seconds) { return static_cast<TraceTime>(seconds * 1e12 + 0.5); }

// What RequestDetails views, kept for a row that has to wait.
struct OwnedDetails {
  std::string session;
  std::vector<std::uint64_t> blocks;
  std::int32_t block_tokens = 0;

  void Take(const RequestDetails& details) {
    session.assign(details.session);
    blocks.assign(details.blocks.begin(), details.blocks.end());
    block_tokens = details.block_tokens;
  }
  RequestDetails View() const { return {session, blocks, block_tokens}; }
};

// Rows of one file, checked and in order, with a model each, their time counted from workload.from_s. The trace may span more
// than the clock's 106 days: rows before the slice all arrive at -1, rows behind it at kNever.
class TraceSource final : public RequestSource {
 public:
  TraceSource(const SourceContext& context, const TraceFormatEntry& format, std::unique_ptr<LineReader> lines)
      : format_(format), lines_(std::move(lines)), skip_(context.workload->on_bad_row == "skip") {
    const WorkloadConfig& workload = *context.workload;
    reorder_ = PsFromSeconds(workload.reorder_s);
    from_ = SliceTime(workload.from_s);
    if (workload.to_s) to_ = SliceTime(*workload.to_s);
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
    reader_ = format_.create({lines_.get(), &params, context.scenario_file, "/workload/params", context.seed, context.base_dir});
  }

  bool Next(RequestSpec& out) override {
    TraceTime time = 0;
    if (reorder_ == 0) {
      if (!Read(out, time)) return false;
    } else if (!NextSorted(out, time)) {
      return false;
    }
    if (!origin_) origin_ = format_.first_row_is_zero ? time : 0;
    time -= *origin_;
    if (Late(time)) {  // only where a row that was sorted to the front moved the origin
      throw InputError(
          fmt::format("{}: a row arrives {:.0f} s after the earliest; allowed: 106 days (workload.from_s and to_s read "
                      "a part of a longer trace)",
                      lines_->name(), Seconds(time)));
    }
    const TraceTime arrival = time - from_;
    out.arrival = arrival < 0 ? -1 : arrival > kMaxTime ? kNever : static_cast<TimePs>(arrival);
    return true;
  }

  const RequestDetails& details() const override { return details_; }
  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return names_; }

 private:
  struct Waiting {
    std::int64_t row;
    TraceTime time;
    RequestSpec spec;
    std::int32_t slot;  // of owned_, or kNone
  };
  static bool Later(const Waiting& a, const Waiting& b) { return a.time != b.time ? a.time > b.time : a.row > b.row; }

  static double Seconds(TraceTime time) { return static_cast<double>(time) / 1e12; }

  // Whether a row (its time counted from the origin) is neither before the end of the slice nor within the clock's reach.
  bool Late(TraceTime time) const { return time - from_ > kMaxTime && !(to_ && time >= *to_); }

  // The next good row in the order of the file, and its details.
  bool Read(RequestSpec& out, TraceTime& time) {
    for (;;) {
      TraceRow row;
      RowProblem problem;
      const RowStatus status = reader_->Next(row, problem);
      if (status == RowStatus::kEnd) return false;
      const std::int64_t number = counts_.rows_read++;
      if (status == RowStatus::kFailed) {
        ++counts_.rows_failed;
        continue;
      }
      if (status == RowStatus::kRow && Accept(row, number, out, problem)) {
        time = row.time;
        details_ = {row.session, row.blocks, row.block_tokens};
        return true;
      }
      const std::string message = fmt::format(
          "{}:{}:{}: {}", lines_->name(), problem.line != 0 ? problem.line : lines_->line_number(), problem.column, problem.what);
      if (!skip_) throw InputError(message);
      if (counts_.rows_skipped++ == 0) counts_.first_skipped = message;
    }
  }

  bool Accept(const TraceRow& row, std::int64_t number, RequestSpec& out, RowProblem& problem) {
    const auto refuse = [&](std::int64_t column, std::string what) {
      problem = {column, std::move(what), row.line};
      return false;
    };
    if (latest_ && row.time < *latest_ - reorder_) {
      return refuse(
          row.time_column,
          fmt::format("{}: the time goes back by {} s, more than reorder_s = {}; workload.reorder_s={} would sort it",
                      Quoted(row.time_text), Seconds(*latest_ - row.time), ToSeconds(reorder_), Seconds(*latest_ - row.time)));
    }
    const TraceTime first = !format_.first_row_is_zero ? 0 : first_ ? std::min(*first_, row.time) : row.time;
    if (Late(row.time - first)) {
      return refuse(
          row.time_column,
          fmt::format("{} is out of range: more than 106 days after {} (workload.from_s and to_s read a part of a longer "
                      "trace)",
                      Quoted(row.time_text),
                      from_ != 0                  ? "from_s"
                      : format_.first_row_is_zero ? "the first row"
                                                  : "0"));
    }
    for (const std::string_view name : {row.model, row.base, row.session}) {
      if (name.size() > kMaxNameBytes)
        return refuse(1, fmt::format("{}: a name of more than {} bytes", Quoted(name), kMaxNameBytes));
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
        const std::string& known = names_.models()[static_cast<std::size_t>(out.model)].base;
        return refuse(1, fmt::format("model {} has base {} here and {} where it first appeared", Quoted(row.model),
                                     Quoted(row.base), known.empty() ? "none" : Quoted(known)));
      }
    }
    if (out.model >= kMaxModels) throw InputError(fmt::format("{}: it has more than {} models", lines_->name(), kMaxModels));
    out.prompt_tokens = row.prompt_tokens;
    out.output_tokens = row.output_tokens;
    first_ = first;
    latest_ = latest_ ? std::max(*latest_, row.time) : row.time;
    return true;
  }

  bool NextSorted(RequestSpec& out, TraceTime& time) {
    if (given_ != kNone) free_.push_back(given_);
    given_ = kNone;
    // A row may leave when no later row of the file can come before it.
    while (!at_end_ && (waiting_.empty() || waiting_.front().time > *latest_ - reorder_)) {
      Waiting next;
      next.row = counts_.rows_read;
      if (Read(next.spec, next.time)) {
        next.slot = Keep();
        waiting_.push_back(next);
        std::push_heap(waiting_.begin(), waiting_.end(), Later);
      } else {
        at_end_ = true;
      }
    }
    if (waiting_.empty()) return false;
    std::pop_heap(waiting_.begin(), waiting_.end(), Later);
    out = waiting_.back().spec;
    time = waiting_.back().time;
    given_ = waiting_.back().slot;
    details_ = given_ == kNone ? RequestDetails() : owned_[static_cast<std::size_t>(given_)].View();
    waiting_.pop_back();
    return true;
  }

  // Copies details_ for a row that waits; kNone when there is nothing to copy.
  std::int32_t Keep() {
    if (details_.session.empty() && details_.blocks.empty()) return kNone;
    if (free_.empty()) {
      free_.push_back(static_cast<std::int32_t>(owned_.size()));
      owned_.emplace_back();
    }
    const std::int32_t slot = free_.back();
    free_.pop_back();
    owned_[static_cast<std::size_t>(slot)].Take(details_);
    return slot;
  }

  const TraceFormatEntry& format_;
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<TraceReader> reader_;
  bool skip_;
  TimePs reorder_ = 0;
  TraceTime from_ = 0;
  std::optional<TraceTime> to_;
  std::optional<TraceTime> first_;   // the earliest of the good rows so far; 0 where times are kept as they are
  std::optional<TraceTime> latest_;  // of the good rows so far
  std::optional<TraceTime> origin_;  // what the times of the file are counted from
  RequestDetails details_;
  std::vector<Waiting> waiting_;  // a heap, earliest first
  std::vector<OwnedDetails> owned_;
  std::vector<std::int32_t> free_;  // slots of owned_
  std::int32_t given_ = kNone;      // slot of the row that Next gave last
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

// What a ScaledSource does to another source.
struct Scaling {
  std::string scenario_file;  // for messages
  TimePs from = 0;            // of the other source's time, as is `to`
  TimePs to = kNever;
  double time_scale = 1;
  double rate_scale = 1;
  std::uint64_t key = 0;  // of the random stream
};

// A slice of another source, thinned or repeated, with time stretched.
//
// rate_scale r below 1 keeps a row when a hash of its number is below r, so the rows kept at a lower rate are among those kept at
// a higher. Above 1 a row stands for floor(r) requests, and one more with probability r - floor(r), by the same hash: the first
// at its time, the others anywhere between it and the next row. So rates scale at every time scale, and repeats do not arrive as
// batches unless rows of the trace do. Copies of the last row arrive with it. Copies keep the session and the blocks of their
// row.
class ScaledSource final : public RequestSource {
 public:
  ScaledSource(const Scaling& scaling, std::unique_ptr<RequestSource> inner)
      : scaling_(scaling),
        inner_(std::move(inner)),
        copies_(static_cast<std::int64_t>(scaling.rate_scale)),
        part_(scaling.rate_scale - static_cast<double>(copies_)) {}

  bool Next(RequestSpec& out) override {
    if (scaling_.rate_scale == 1) {
      if (!Pull(out)) return false;
    } else if (copies_ == 0) {
      do {
        if (!Pull(out)) return false;
      } while (!(Chance(row_) < part_));
    } else {
      if (next_copy_ == times_.size() && !Repeat()) return false;
      out = current_;
      out.arrival = times_[next_copy_++];
    }
    if (scaling_.time_scale != 1) {
      const std::optional<TimePs> scaled = Scale(out.arrival, scaling_.time_scale);
      if (!scaled) {
        throw InputError(fmt::format("{}: /workload/time_scale: at {} the request at {} s would arrive after 106 days",
                                     scaling_.scenario_file, scaling_.time_scale, ToSeconds(out.arrival)));
      }
      out.arrival = *scaled;
    }
    return true;
  }

  const RequestDetails& details() const override {
    return copies_ == 0 || scaling_.rate_scale == 1 ? inner_->details() : details_;
  }
  const SourceCounts& counts() const override { return inner_->counts(); }
  const ModelNames& names() const override { return inner_->names(); }

  // Slicing and stretching treat every row alike; thinning goes by the number of a row among all.
  std::unique_ptr<RequestSource> Split(std::span<const std::int32_t> models) const override {
    if (scaling_.rate_scale != 1) return nullptr;
    std::unique_ptr<RequestSource> part = inner_->Split(models);
    return part == nullptr ? nullptr : std::make_unique<ScaledSource>(scaling_, std::move(part));
  }

 private:
  double Chance(std::int64_t row) const { return ToUniform01(HashAt(scaling_.key, static_cast<std::uint64_t>(row))); }

  // The next row of the slice, its time counted from the start of the slice.
  bool Pull(RequestSpec& out) {
    while (!ended_ && inner_->Next(out)) {
      ++row_;
      if (out.arrival >= scaling_.to) break;
      if (out.arrival < scaling_.from) continue;
      out.arrival -= scaling_.from;
      return true;
    }
    ended_ = true;
    return false;
  }

  void PullAhead() {
    has_ahead_ = Pull(ahead_);
    if (has_ahead_) ahead_details_.Take(inner_->details());
  }

  // Fills times_ with the arrivals that the next row stands for.
  bool Repeat() {
    if (row_ == 0) PullAhead();
    if (!has_ahead_) return false;
    current_ = ahead_;
    std::swap(current_details_, ahead_details_);
    details_ = current_details_.View();
    const std::int64_t row = row_;
    PullAhead();
    const TimePs gap = has_ahead_ ? ahead_.arrival - current_.arrival : 0;
    const std::int64_t count = copies_ + (Chance(row) < part_ ? 1 : 0);
    const std::uint64_t key = HashAt(scaling_.key + 1, static_cast<std::uint64_t>(row));
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

  Scaling scaling_;
  std::unique_ptr<RequestSource> inner_;
  std::int64_t copies_;  // of every row; 0: rows are kept with probability part_
  double part_;
  std::int64_t row_ = 0;  // number of the row pulled last, from 1, counted from the start of the trace
  bool ended_ = false;
  RequestSpec current_;
  RequestSpec ahead_;
  OwnedDetails current_details_;
  OwnedDetails ahead_details_;
  RequestDetails details_;  // of current_
  bool has_ahead_ = false;
  std::vector<TimePs> times_;  // of the copies of current_
  std::size_t next_copy_ = 0;
};

const TraceFormatEntry& FindFormat(const SourceContext& context, LineReader& lines) {
  const auto& registry = Registry<TraceFormatEntry>::Get();
  const std::string& wanted = context.workload->format;
  const TraceFormatEntry* named = registry.Find(wanted);
  if (named == nullptr && wanted != "auto") {
    std::vector<std::string> known = registry.Names();
    known.push_back("auto");
    RefuseWorkload(context, "format", UnknownName("trace format", wanted, known));
  }
  const std::vector<std::string> head = lines.Head(2);
  if (head.empty()) throw InputError(fmt::format("{}: the file is empty", lines.name()));
  if (named != nullptr) return *named;
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
  if (workload.format == "ptrace" || IsPtrace(path.string())) return OpenPtraceWorkload(context, path.string());
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
  if (workload.on_bad_row != "fail") refuse("on_bad_row");
  if (!workload.cache.empty()) refuse("cache");
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
  const TraceTime from = SliceTime(workload.from_s);
  std::unique_ptr<RequestSource> source;
  TraceTime counted_from = 0;
  if (!trace) {
    source = OpenGenerator(context);
  } else if (workload.cache.empty()) {
    source = OpenTrace(context);
    if (dynamic_cast<const TraceSource*>(source.get()) != nullptr) counted_from = from;
  } else {
    // The cache holds the whole trace, so that runs of different slices share it.
    WorkloadConfig whole = workload;
    whole.from_s = 0;
    whole.to_s.reset();
    SourceContext all = context;
    all.workload = &whole;
    source = OpenThroughCache(context, [&all] { return OpenTrace(all); });
  }
  const double rate_scale = trace ? workload.rate_scale : 1;  // generators scale their rates
  if (workload.from_s == 0 && !workload.to_s && workload.time_scale == 1 && rate_scale == 1) return source;
  const auto clamp = [](TraceTime time) { return time > kMaxTime ? kNever : static_cast<TimePs>(time); };
  Scaling scaling{.scenario_file = context.scenario_file,
                  .from = clamp(from - counted_from),
                  .time_scale = workload.time_scale,
                  .rate_scale = rate_scale,
                  .key = Hash64("rate_scale", context.seed)};
  if (workload.to_s) scaling.to = clamp(SliceTime(*workload.to_s) - counted_from);
  return std::make_unique<ScaledSource>(scaling, std::move(source));
}

Json FormatListing() {
  Json rows = Json::array();
  const auto add = [&rows](const auto& entry, const char* kind) {
    rows.push_back(Json{{"name", entry.name},
                        {"kind", kind},
                        {"help", entry.help},
                        {"example", entry.example},
                        {"params", SourceParamsSchema(entry.name)["properties"]}});
  };
  for (const SourceEntry& entry : Registry<SourceEntry>::Get().entries()) add(entry, "generator");
  for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) add(entry, "trace");
  rows.push_back(
      Json{{"name", "ptrace"}, {"kind", "trace"}, {"help", kPtraceHelp}, {"example", "(binary)"}, {"params", Json::object()}});
  return rows;
}

Json SourceParamsSchema(const std::string& name) {
  if (const SourceEntry* entry = Registry<SourceEntry>::Get().Find(name)) return entry->schema();
  if (const TraceFormatEntry* entry = Registry<TraceFormatEntry>::Get().Find(name)) {
    return SchemaOfFields(entry->params ? entry->params : [](Fields&) {});
  }
  if (name == "ptrace") return SchemaOfFields([](Fields&) {});
  std::vector<std::string> known = Registry<SourceEntry>::Get().Names();
  for (const std::string& format : Registry<TraceFormatEntry>::Get().Names()) known.push_back(format);
  throw InputError(UnknownName("source or trace format", name, known));
}

}  // namespace poolsim
