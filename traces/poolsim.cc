// The format poolsim writes: arrival_s,model[,base],prompt_tokens,output_tokens[,session]. Names are cells of CsvCell.
#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/ids.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

class PoolsimReader final : public TraceReader {
 public:
  explicit PoolsimReader(LineReader& lines)
      : table_(lines),
        arrival_(table_.Require("arrival_s")),
        model_(table_.Require("model")),
        base_(table_.Find("base")),
        prompt_(table_.Require("prompt_tokens")),
        output_(table_.Require("output_tokens")),
        session_(table_.Find("session")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    if (!table_.Seconds(arrival_, row.time, problem) || !table_.Name(model_, row.model, problem) ||
        !table_.Tokens(prompt_, row.prompt_tokens, problem) || !table_.Tokens(output_, row.output_tokens, problem)) {
      return RowStatus::kBad;
    }
    row.model = UnguardedCell(row.model);
    row.base = base_ == kNone ? std::string_view() : UnguardedCell(table_.Text(base_));
    row.session = session_ == kNone ? std::string_view() : UnguardedCell(table_.Text(session_));
    row.time_column = table_.ColumnOf(arrival_);
    row.time_text = table_.Text(arrival_);
    return RowStatus::kRow;
  }

 private:
  CsvTable table_;
  int arrival_;
  int model_;
  int base_;
  int prompt_;
  int output_;
  int session_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "poolsim",
    .help = "CSV that poolsim writes: seconds since the start, model, optionally its catalogue LLM (base) and a session",
    .example = "arrival_s,model,base,prompt_tokens,output_tokens\n0.418,chat-a,qwen2.5-7b,436,211",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"arrival_s", "model", "prompt_tokens", "output_tokens"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<PoolsimReader>(*context.lines); },
    .has_models = true,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
