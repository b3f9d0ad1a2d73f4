// Workloads of the Aegaeon artifact: Request Time (HH:MM:SS.mmm since the start),Model Name,Input Length,Output Length.
#include <array>

#include <fmt/format.h>

#include "sim/errors.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

// The artifact deals LLMs to models in order of first appearance; the ten repeat.
constexpr std::array<std::string_view, 10> kMix = {"qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b",  "qwen2.5-7b",
                                                   "qwen2.5-7b", "yi-1.5-9b",  "yi-1.5-9b",  "llama-2-13b", "llama-2-13b"};

// H..H:MM:SS[.fraction]; hours may exceed 23.
bool ParseClock(std::string_view text, std::string_view name, TraceTime& out, std::string& why) {
  const auto digits = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  const std::size_t first = text.find(':');
  const std::size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
  std::int64_t hours = 0;
  std::int64_t minutes = 0;
  TimePs seconds = 0;
  const bool shaped = second != std::string_view::npos && digits(text.substr(0, first)) && second == first + 3 &&
                      digits(text.substr(first + 1, 2)) && text.size() >= second + 3 && digits(text.substr(second + 1, 2)) &&
                      (text.size() == second + 3 || (text[second + 3] == '.' && digits(text.substr(second + 4))));
  if (!shaped) {
    why = text.empty() ? fmt::format("{} is missing", name)
                       : fmt::format("{}: {} is not a time (HH:MM:SS.mmm)", name, Quoted(text));
    return false;
  }
  const bool small = ParseScaled(text.substr(0, first), 0, 106 * 24, hours) == NumberFault::kFine;
  ParseScaled(text.substr(first + 1, 2), 0, 99, minutes);
  ParseScaled(text.substr(second + 1), 12, 100 * kPsPerSecond, seconds);
  if (minutes > 59 || seconds >= 60 * kPsPerSecond) {
    why = fmt::format("{}: {} is not a time: minutes and seconds end at 59", name, Quoted(text));
    return false;
  }
  const std::int64_t whole = hours * 3600 + minutes * 60;
  if (!small || whole * kPsPerSecond > kMaxTime - seconds) {
    why = fmt::format("{}: {} is out of range; allowed: 0 to 106 days", name, Quoted(text));
    return false;
  }
  out = whole * kPsPerSecond + seconds;
  return true;
}

class AegaeonReader final : public TraceReader {
 public:
  explicit AegaeonReader(LineReader& lines)
      : table_(lines),
        time_(table_.Require("Request Time")),
        model_(table_.Require("Model Name")),
        input_(table_.Require("Input Length")),
        output_(table_.Require("Output Length")) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    const CsvTable::Status status = table_.Next(problem);
    if (status != CsvTable::Status::kRow) return status == CsvTable::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    row.time_column = table_.ColumnOf(time_);
    row.time_text = table_.Text(time_);
    if (!ParseClock(row.time_text, "Request Time", row.time, problem.what)) {
      problem.column = row.time_column;
      return RowStatus::kBad;
    }
    if (!table_.Name(model_, row.model, problem) || !table_.Tokens(input_, row.prompt_tokens, problem) ||
        !table_.Tokens(output_, row.output_tokens, problem)) {
      return RowStatus::kBad;
    }
    row.base = {};
    return RowStatus::kRow;
  }

 private:
  CsvTable table_;
  int time_;
  int model_;
  int input_;
  int output_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "aegaeon",
    .help =
        "CSV of the Aegaeon artifact; LLMs by first appearance, ten repeating: six qwen2.5-7b, two yi-1.5-9b, two llama-2-13b",
    .example = "Request Time,Model Name,Input Length,Output Length\n00:00:00.133,synth_model_10,1180,327",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"Request Time", "Model Name", "Input Length", "Output Length"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<AegaeonReader>(*context.lines); },
    .has_models = true,
    .first_row_is_zero = false,
    .base_rule = [](std::size_t i) { return kMix[i % kMix.size()]; },
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
