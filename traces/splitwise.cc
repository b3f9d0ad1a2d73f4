// Traces of splitwise-sim (https://github.com/Mutinifni/splitwise-sim): request_id,request_type,application_id,arrival_timestamp,
// batch_size,prompt_size,token_size, in seconds. Its other kinds of requests are no LLM's.
#include <fmt/format.h>

#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

class SplitwiseReader final : public TraceReader {
 public:
  explicit SplitwiseReader(LineReader& lines)
      : table_(lines),
        type_(table_.Require("request_type")),
        arrival_(table_.Require("arrival_timestamp")),
        batch_(table_.Find("batch_size")),
        prompt_(table_.Require("prompt_size")),
        output_(table_.Require("token_size")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    if (!Is(type_, "2", "an LLM request", problem) || (batch_ != kNone && !Is(batch_, "1", "one request", problem)) ||
        !table_.Seconds(arrival_, row.time, problem) || !table_.Tokens(prompt_, row.prompt_tokens, problem) ||
        !table_.Tokens(output_, row.output_tokens, problem)) {
      return RowStatus::kBad;
    }
    row.time_column = table_.ColumnOf(arrival_);
    row.time_text = table_.Text(arrival_);
    return RowStatus::kRow;
  }

 private:
  bool Is(int column, std::string_view wanted, std::string_view meaning, RowProblem& problem) const {
    if (table_.Text(column) == wanted) return true;
    problem = {table_.ColumnOf(column),
               fmt::format("{}: {} is not {} ({})", table_.NameOf(column), Quoted(table_.Text(column)), wanted, meaning)};
    return false;
  }

  CsvTable table_;
  int type_;
  int arrival_;
  int batch_;
  int prompt_;
  int output_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "splitwise-sim",
    .help = "CSV of splitwise-sim, arrivals in seconds; every request is an LLM's (request_type 2)",
    .example = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,1.5,1,4096,32",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"request_type", "arrival_timestamp", "prompt_size", "token_size"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<SplitwiseReader>(*context.lines); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
