// RAGPulse (https://github.com/flashserve/RAGPulse): one JSON object a line with timestamp (seconds, as a string), input_length,
// output_length, hash_ids (lists of ids of pieces: system prompt, passages, history, ...) and session_id. The public file holds
// two weeks that both begin at 0, so the whole of it needs a reorder_s of a week.
#include "traces/format.h"
#include "traces/json_lines.h"

namespace poolsim {
namespace {

class RagPulseReader final : public TraceReader {
 public:
  explicit RagPulseReader(LineReader& lines)
      : lines_(lines, {{"timestamp"}, {"input_length"}, {"output_length"}, {"hash_ids", false}, {"session_id", false}}) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    blocks_.clear();
    const JsonLines::Status status = lines_.Next(problem, [&](std::size_t member, JsonLines::Value& value) {
      switch (member) {
        case 0:
          return lines_.Time(value, member, 12, true, row.time, row.time_text, problem);
        case 1:
          return lines_.Tokens(value, member, row.prompt_tokens, problem);
        case 2:
          return lines_.Tokens(value, member, row.output_tokens, problem);
        case 3:
          return lines_.Each(value, member, problem,
                             [&](JsonLines::Value& ids) { return lines_.Integers(ids, member, blocks_, problem); });
        default:
          return lines_.Text(value, member, row.session, problem);
      }
    });
    if (status != JsonLines::Status::kRow) return status == JsonLines::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    ChainBlocks(blocks_);
    row.time_column = lines_.ColumnOf(row.time_text);
    row.blocks = blocks_;
    // The trace does not say how long each piece is: all of a prompt count alike.
    const auto pieces = static_cast<std::int32_t>(blocks_.size());
    row.block_tokens = pieces == 0 ? 0 : (row.prompt_tokens + pieces - 1) / pieces;
    return RowStatus::kRow;
  }

 private:
  JsonLines lines_;
  std::vector<std::uint64_t> blocks_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "ragpulse",
    .help =
        "JSON lines of RAGPulse; times in seconds (two weeks that both begin at 0: reorder_s 604800), sessions, hashes of pieces",
    .example = R"({"timestamp": "82", "input_length": 311, "output_length": 19, "hash_ids": {"sys_prompt": [83, 14], )"
               R"("user_input": [26]}, "session_id": "s-1"})",
    .sniff =
        [](std::string_view first, std::string_view) {
          return LooksLikeObject(first, {"timestamp", "input_length", "output_length", "session_id"}) &&
                 !LooksLikeObject(first, {"chat_id"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<RagPulseReader>(*context.lines); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
