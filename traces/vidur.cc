// Vidur's length files: num_prefill_tokens,num_decode_tokens[,arrived_at]. Those without arrivals are given Poisson ones on
// request.
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/ids.h"
#include "sim/rng.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

struct Params {
  std::optional<double> rate;
  void Describe(Fields& f) {
    f.OptReal("rate", rate, "requests per second of Poisson arrivals, for a file without a column arrived_at", 1e-9, 1e9);
  }
};

class VidurReader final : public TraceReader {
 public:
  explicit VidurReader(const TraceContext& context)
      : lines_(*context.lines),
        table_(lines_),
        arrived_(table_.Find("arrived_at")),
        prefill_(table_.Require("num_prefill_tokens")),
        decode_(table_.Require("num_decode_tokens")),
        gaps_(context.seed, "arrivals", "vidur") {
    Params params;
    ReadStruct(*context.params, context.scenario_file, context.params_path, params);
    if (arrived_ == kNone && !params.rate) {
      throw InputError(
          fmt::format("{}: the trace has no column \"arrived_at\"; a rate is needed: set {} to {{\"rate\": requests per second}}",
                      lines_.name(), context.params_path));
    }
    if (arrived_ != kNone && params.rate) {
      throw InputError(fmt::format(
          "{}: {}/rate: the trace {} has arrivals of its own (column \"arrived_at\"); use rate_scale to change their rate",
          context.scenario_file, context.params_path, lines_.name()));
    }
    if (params.rate) mean_gap_ps_ = 1e12 / *params.rate;
  }

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    row.model = {};
    row.base = {};
    if (!table_.Tokens(prefill_, row.prompt_tokens, problem) || !table_.Tokens(decode_, row.output_tokens, problem))
      return RowStatus::kBad;
    if (arrived_ == kNone) {
      const TimePs gap = gaps_.ExponentialPs(mean_gap_ps_);
      if (gap > kMaxTime - now_) {
        throw InputError(
            fmt::format("{}:{}: at this rate the row would arrive after 106 days", lines_.name(), lines_.line_number()));
      }
      now_ += gap;
      row.time = now_;
      row.time_column = 1;
      row.time_text = {};
      return RowStatus::kRow;
    }
    row.time_column = table_.ColumnOf(arrived_);
    row.time_text = table_.Text(arrived_);
    return table_.Seconds(arrived_, row.time, problem) ? RowStatus::kRow : RowStatus::kBad;
  }

 private:
  LineReader& lines_;
  CsvTable table_;
  int arrived_;
  int prefill_;
  int decode_;
  Rng gaps_;
  double mean_gap_ps_ = 0;
  TimePs now_ = 0;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "vidur",
    .help = "CSV of Vidur, with arrivals in seconds or, given params {rate: r}, lengths only under Poisson arrivals",
    .example = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,3772,54",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"num_prefill_tokens", "num_decode_tokens"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<VidurReader>(context); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = [](Fields& f) { Params().Describe(f); },
}};

}  // namespace
}  // namespace poolsim
