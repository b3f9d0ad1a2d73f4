// BurstGPT (https://github.com/HPMLL/BurstGPT): Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,... The
// second release has sessions (blank for calls of the API). A response of 0 tokens is a request that failed in the source. The
// traces span more than the 106 days of a scenario: from_s and to_s say which part is read. poolsim writes this format too, with
// models as CsvCell has them.
#include "sim/foreign.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

class BurstGptReader final : public TraceReader {
 public:
  explicit BurstGptReader(LineReader& lines)
      : table_(lines),
        time_(table_.Require("Timestamp")),
        model_(table_.Require("Model")),
        request_(table_.Require("Request tokens")),
        response_(table_.Require("Response tokens")),
        session_(table_.Find("Session ID")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    if (!table_.Seconds(time_, row.time, problem) || !table_.Name(model_, row.model, problem) ||
        !table_.Tokens(response_, row.output_tokens, problem, 0) ||
        !table_.Tokens(request_, row.prompt_tokens, problem, row.output_tokens == 0 ? 0 : 1)) {
      return RowStatus::kBad;
    }
    if (row.output_tokens == 0) return RowStatus::kFailed;
    row.model = UnguardedCell(row.model);
    row.session = session_ == kNone ? std::string_view() : table_.Text(session_);
    row.time_column = table_.ColumnOf(time_);
    row.time_text = table_.Text(time_);
    return RowStatus::kRow;
  }

 private:
  CsvTable table_;
  int time_;
  int model_;
  int request_;
  int response_;
  int session_;
};

bool IsBurstGpt(std::string_view first, bool sessions) {
  return HasColumns(first, {"Timestamp", "Model", "Request tokens", "Response tokens"}) &&
         HasColumns(first, {"Session ID"}) == sessions;
}

std::unique_ptr<TraceReader> Create(const TraceContext& context) { return std::make_unique<BurstGptReader>(*context.lines); }

const Register<TraceFormatEntry> kRegistered1{{
    .name = "burstgpt-v1",
    .help = "CSV of BurstGPT's first release; rows without a response failed in the source; the first request arrives at 0",
    .example = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log",
    .sniff = [](std::string_view first, std::string_view) { return IsBurstGpt(first, false); },
    .create = Create,
    .has_models = true,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

const Register<TraceFormatEntry> kRegistered2{{
    .name = "burstgpt-v2",
    .help = "CSV of BurstGPT's second release, with sessions; otherwise as burstgpt-v1",
    .example = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
               "19440110.0,5d0f3c1e,43,GPT-4,906,446,1352,Conversation log",
    .sniff = [](std::string_view first, std::string_view) { return IsBurstGpt(first, true); },
    .create = Create,
    .has_models = true,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
