// The Azure LLM inference traces: TIMESTAMP[,NumImages],ContextTokens,GeneratedTokens. The years differ in how they write the
// time
// ("2023-11-16 18:17:03.9799600", "2024-05-10 00:00:00.009930+00:00", "2024-10-15T12:00:00.269Z"); every reader understands all.
// https://github.com/Azure/AzurePublicDataset. The context of the multimodal trace counts the tokens of images, so the number of
// images is not needed.
#include "traces/csv.h"
#include "traces/format.h"
#include "traces/timestamp.h"

namespace poolsim {
namespace {

class AzureReader final : public TraceReader {
 public:
  explicit AzureReader(LineReader& lines)
      : table_(lines),
        time_(table_.Require("TIMESTAMP")),
        context_(table_.Require("ContextTokens")),
        generated_(table_.Require("GeneratedTokens")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    row.time_column = table_.ColumnOf(time_);
    row.time_text = table_.Text(time_);
    if (!times_.Parse(row.time_text, "TIMESTAMP", row.time, problem.what)) {
      problem.column = row.time_column;
      return RowStatus::kBad;
    }
    if (!table_.Tokens(context_, row.prompt_tokens, problem) || !table_.Tokens(generated_, row.output_tokens, problem))
      return RowStatus::kBad;
    return RowStatus::kRow;
  }

 private:
  CsvTable table_;
  TimestampParser times_;
  int time_;
  int context_;
  int generated_;
};

bool IsAzure(std::string_view first, bool images) {
  return HasColumns(first, {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}) && HasColumns(first, {"NumImages"}) == images;
}

bool BeginsWithZonedTime(std::string_view row) { return HasZone(Trim(row.substr(0, row.find(',')))); }

std::unique_ptr<TraceReader> Create(const TraceContext& context) { return std::make_unique<AzureReader>(*context.lines); }

const Register<TraceFormatEntry> kRegistered2023{{
    .name = "azure-2023",
    .help = "CSV of the Azure LLM inference traces of 2023; the first request arrives at 0",
    .example = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10",
    .sniff = [](std::string_view first,
                std::string_view second) { return IsAzure(first, false) && !BeginsWithZonedTime(second); },
    .create = Create,
    .has_models = false,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

const Register<TraceFormatEntry> kRegistered2024{{
    .name = "azure-2024",
    .help = "CSV of the Azure LLM inference traces of 2024, whose times have a zone; the first request arrives at 0",
    .example = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5",
    .sniff = [](std::string_view first, std::string_view second) { return IsAzure(first, false) && BeginsWithZonedTime(second); },
    .create = Create,
    .has_models = false,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

const Register<TraceFormatEntry> kRegistered2025{{
    .name = "azure-multimodal-2025",
    .help = "CSV of the Azure multimodal inference trace of 2025; ContextTokens include images; the first request arrives at 0",
    .example = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15T12:00:00.269Z,0,770,491",
    .sniff = [](std::string_view first, std::string_view) { return IsAzure(first, true); },
    .create = Create,
    .has_models = false,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
