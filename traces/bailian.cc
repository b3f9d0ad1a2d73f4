// The Qwen Bailian traces (https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon): one JSON object a line with chat_id,
// parent_chat_id (-1: none), timestamp [s], input_length, output_length, type, turn, hash_ids, an id for every 16 tokens of the
// prompt. A chat is one turn; the session of a turn is its first one.
#include <unordered_map>

#include <fmt/format.h>

#include "traces/format.h"
#include "traces/json_lines.h"

namespace poolsim {
namespace {

constexpr std::int32_t kBlockTokens = 16;

class BailianReader final : public TraceReader {
 public:
  explicit BailianReader(LineReader& lines)
      : lines_(
            lines,
            {{"timestamp"}, {"input_length"}, {"output_length"}, {"chat_id"}, {"parent_chat_id", false}, {"hash_ids", false}}) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    blocks_.clear();
    std::int64_t chat = 0;
    std::int64_t parent = -1;
    const JsonLines::Status status = lines_.Next(problem, [&](std::size_t member, JsonLines::Value& value) {
      switch (member) {
        case 0:
          return lines_.Time(value, member, 12, false, row.time, row.time_text, problem);
        case 1:
          return lines_.Tokens(value, member, row.prompt_tokens, problem);
        case 2:
          return lines_.Tokens(value, member, row.output_tokens, problem);
        case 3:
          return lines_.Integer(value, member, chat, problem);
        case 4:
          return lines_.Integer(value, member, parent, problem);
        default:
          return lines_.Integers(value, member, blocks_, problem);
      }
    });
    if (status != JsonLines::Status::kRow) return status == JsonLines::Status::kEnd ? RowStatus::kEnd : RowStatus::kBad;
    std::int64_t root = chat;
    if (parent != -1) {
      const auto known = roots_.find(parent);
      root = known == roots_.end() ? parent : known->second;  // a parent that is not known has none itself
      roots_[chat] = root;
    }
    session_ = fmt::to_string(root);
    ChainBlocks(blocks_);
    row.session = session_;
    row.time_column = lines_.ColumnOf(row.time_text);
    row.blocks = blocks_;
    row.block_tokens = blocks_.empty() ? 0 : kBlockTokens;
    return RowStatus::kRow;
  }

 private:
  JsonLines lines_;
  std::vector<std::uint64_t> blocks_;
  std::unordered_map<std::int64_t, std::int64_t> roots_;  // of every chat that has a parent: some 40 bytes each
  std::string session_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "bailian",
    .help = "JSON lines of the Qwen Bailian traces; times in seconds, sessions by parent_chat_id, hashes of blocks of 16 tokens",
    .example =
        R"({"chat_id": 12, "parent_chat_id": -1, "timestamp": 1.25, "input_length": 40, "output_length": 9, "type": "text", )"
        R"("turn": 1, "hash_ids": [7, 8, 9]})",
    .sniff =
        [](std::string_view first, std::string_view) {
          return LooksLikeObject(first, {"timestamp", "input_length", "output_length", "chat_id"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<BailianReader>(*context.lines); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
