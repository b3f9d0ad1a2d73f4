// CSV dump of the public invocation log of Chutes: ...,chute_id,...,started_at,...,it,ot,... The model is the chute; `it` and
// `ot` are its input and output tokens. An invocation without output (0, or nothing where it never completed) failed in the
// source.
#include "traces/csv.h"
#include "traces/format.h"
#include "traces/timestamp.h"

namespace poolsim {
namespace {

class ChutesReader final : public TraceReader {
 public:
  explicit ChutesReader(LineReader& lines)
      : table_(lines),
        chute_(table_.Require("chute_id")),
        started_(table_.Require("started_at")),
        input_(table_.Require("it")),
        output_(table_.Require("ot")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    row.time_column = table_.ColumnOf(started_);
    row.time_text = table_.Text(started_);
    if (!times_.Parse(row.time_text, "started_at", row.time, problem.what)) {
      problem.column = row.time_column;
      return RowStatus::kBad;
    }
    if (!table_.Name(chute_, row.model, problem)) return RowStatus::kBad;
    if (table_.Text(output_).empty()) return RowStatus::kFailed;
    if (!table_.Tokens(output_, row.output_tokens, problem, 0)) return RowStatus::kBad;
    if (row.output_tokens == 0) return RowStatus::kFailed;
    return table_.Tokens(input_, row.prompt_tokens, problem) ? RowStatus::kRow : RowStatus::kBad;
  }

 private:
  CsvTable table_;
  TimestampParser times_;
  int chute_;
  int started_;
  int input_;
  int output_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "chutes",
    .help = "CSV dump of the Chutes invocation log; the model is the chute_id; rows without output failed; the first is at 0",
    .example = "invocation_id,function_name,chute_id,user_id,rehash_round,instance_id,started_at,completed_at,it,ot,ct,ttft\n"
               "i-1,chat_stream,chute-a,u-1,0,n-1,2025-06-01 00:00:00.125,2025-06-01 00:00:09.5,812,240,0,0.31",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"chute_id", "started_at", "it", "ot"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<ChutesReader>(*context.lines); },
    .has_models = true,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
