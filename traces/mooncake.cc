// The Mooncake traces: one JSON object a line, {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}, an id
// for every 512 tokens of the prompt. Equal ids stand for equal prefixes: in the public traces every id always has the same id
// before it.
#include "traces/format.h"
#include "traces/json_lines.h"

namespace poolsim {
namespace {

constexpr std::int32_t kBlockTokens = 512;

class MooncakeReader final : public TraceReader {
 public:
  explicit MooncakeReader(LineReader& lines)
      : lines_(lines, {{"timestamp"}, {"input_length"}, {"output_length"}, {"hash_ids", false}}) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    blocks_.clear();
    const JsonLines::Status status = lines_.Next(problem, [&](std::size_t member, JsonLines::Value& value) {
      switch (member) {
        case 0:
          return lines_.Time(value, member, 9, false, row.time, row.time_text, problem);
        case 1:
          return lines_.Tokens(value, member, row.prompt_tokens, problem);
        case 2:
          return lines_.Tokens(value, member, row.output_tokens, problem);
        default:
          return lines_.Integers(value, member, blocks_, problem);
      }
    });
    if (status != JsonLines::Status::kRow) return status == JsonLines::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    row.time_column = lines_.ColumnOf(row.time_text);
    row.blocks = blocks_;
    row.block_tokens = blocks_.empty() ? 0 : kBlockTokens;
    return RowStatus::kRow;
  }

 private:
  JsonLines lines_;
  std::vector<std::uint64_t> blocks_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "mooncake",
    .help = "JSON lines of the Mooncake traces; times in milliseconds, prefix hashes of blocks of 512 tokens",
    .example = R"({"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]})",
    .sniff =
        [](std::string_view first, std::string_view) {
          return LooksLikeObject(first, {"timestamp", "input_length", "output_length"}) &&
                 !LooksLikeObject(first, {"session_id"}) && !LooksLikeObject(first, {"chat_id"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<MooncakeReader>(*context.lines); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
