// The Mooncake traces: one JSON object a line, {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}.
#include <fmt/format.h>
#include <simdjson.h>

#include "sim/errors.h"
#include "traces/format.h"

namespace poolsim {
namespace {

namespace ondemand = simdjson::ondemand;

class MooncakeReader final : public TraceReader {
 public:
  explicit MooncakeReader(LineReader& lines) : lines_(lines) {}

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    if (!lines_.NextFilled(line_)) return RowStatus::kEnd;
    row.model = {};
    row.base = {};
    return Parse(row, problem) ? RowStatus::kRow : RowStatus::kBad;
  }

 private:
  // `where` points into the line, or is null when the place is not known.
  bool Fail(RowProblem& problem, const char* where, std::string what) const {
    const bool inside = where >= line_.data() && where <= line_.data() + line_.size();
    const std::size_t at = inside ? static_cast<std::size_t>(where - line_.data()) : 0;
    problem = {static_cast<std::int64_t>(at) + 1, std::move(what) + ": " + Quoted(line_.substr(at))};
    return false;
  }
  bool Fail(RowProblem& problem, simdjson::error_code error) {
    const char* where = nullptr;
    if (document_.current_location().get(where) != simdjson::SUCCESS) where = nullptr;
    return Fail(problem, where, fmt::format("not a JSON object ({})", simdjson::error_message(error)));
  }

  bool Parse(TraceRow& row, RowProblem& problem) {
    const simdjson::padded_string_view text(line_.data(), line_.size(), line_.size() + LineReader::kPadding);
    if (const auto error = parser_.iterate(text).get(document_))
      return Fail(problem, nullptr, fmt::format("not a JSON object ({})", simdjson::error_message(error)));
    ondemand::object object;
    if (const auto error = document_.get_object().get(object)) return Fail(problem, error);
    bool has_time = false;
    bool has_input = false;
    bool has_output = false;
    bool has_hashes = false;
    for (auto item : object) {
      ondemand::field field;
      if (const auto error = std::move(item).get(field)) return Fail(problem, error);
      const ondemand::raw_json_string key = field.key();
      ondemand::value value = field.value();
      const auto once = [](bool& seen) {
        const bool again = seen;
        seen = true;
        return !again;
      };
      if (key == "timestamp") {
        const std::string_view token = Trim(value.raw_json_token());
        if (!once(has_time)) return Fail(problem, token.data(), "timestamp is given twice");
        row.time_text = token;
        row.time_column = token.data() - line_.data() + 1;
        // The token is checked as a number here and as JSON by what follows it.
        if (!ParseTime(token, "timestamp", 9, row.time, problem.what)) {
          problem.column = row.time_column;
          return false;
        }
        double number = 0;
        if (const auto error = value.get_double().get(number)) return Fail(problem, error);
      } else if (key == "input_length" || key == "output_length") {
        const bool input = key == "input_length";
        const std::string_view name = input ? "input_length" : "output_length";
        const std::string_view token = Trim(value.raw_json_token());
        if (!once(input ? has_input : has_output)) return Fail(problem, token.data(), fmt::format("{} is given twice", name));
        if (!ParseTokens(token, name, input ? row.prompt_tokens : row.output_tokens, problem.what)) {
          problem.column = token.data() - line_.data() + 1;
          return false;
        }
        double number = 0;
        if (const auto error = value.get_double().get(number)) return Fail(problem, error);
      } else if (key == "hash_ids") {
        const char* where = value.raw_json_token().data();
        if (!once(has_hashes)) return Fail(problem, where, "hash_ids is given twice");
        ondemand::array ids;
        if (value.get_array().get(ids) != simdjson::SUCCESS) return Fail(problem, where, "hash_ids is not a list of integers");
        for (auto id : ids) {
          std::uint64_t number = 0;
          if (id.get_uint64().get(number) != simdjson::SUCCESS) return Fail(problem, where, "hash_ids is not a list of integers");
        }
      }
    }
    const char* rest = nullptr;
    if (document_.current_location().get(rest) == simdjson::SUCCESS) return Fail(problem, rest, "something follows the object");
    if (!has_time) return Fail(problem, nullptr, "no timestamp");
    if (!has_input) return Fail(problem, nullptr, "no input_length");
    if (!has_output) return Fail(problem, nullptr, "no output_length");
    return true;
  }

  LineReader& lines_;
  std::string_view line_;
  ondemand::parser parser_;
  ondemand::document document_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "mooncake",
    .help = "JSON lines of the Mooncake traces; times in milliseconds, prefix block hashes are checked and not used",
    .example = R"({"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]})",
    .sniff =
        [](std::string_view first, std::string_view) {
          const auto has = [first](std::string_view key) { return first.find(key) != std::string_view::npos; };
          return !first.empty() && Trim(first).front() == '{' && has("\"timestamp\"") && has("\"input_length\"") &&
                 has("\"output_length\"") && !has("\"session_id\"") && !has("\"chat_id\"");
        },
    .create = [](const TraceContext& context) { return std::make_unique<MooncakeReader>(*context.lines); },
    .has_models = false,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
