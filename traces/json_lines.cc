#include "traces/json_lines.h"

#include <fmt/format.h>

#include "sim/rng.h"

namespace poolsim {
namespace {

constexpr const char* kFollows = "something follows the object";

// What follows the object that the line begins with; null when that does not end or nothing follows. The parser finds only that
// the line does not end with a brace.
const char* BehindObject(std::string_view line) {
  int depth = 0;
  bool in_text = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_text && c == '\\') ++i;
    if (c == '"') in_text = !in_text;
    if (in_text) continue;
    depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (depth > 0 || c == ' ' || c == '\t') continue;
    const std::string_view rest = Trim(line.substr(i + 1));
    return c == '}' && !rest.empty() ? rest.data() : nullptr;
  }
  return nullptr;
}

}  // namespace

JsonLines::JsonLines(LineReader& lines, std::initializer_list<Member> members) : lines_(lines), members_(members) {}

bool JsonLines::Fail(RowProblem& problem, const char* where, std::string what) const {
  const bool inside = where >= line_.data() && where <= line_.data() + line_.size();
  const std::size_t at = inside ? static_cast<std::size_t>(where - line_.data()) : 0;
  problem = {static_cast<std::int64_t>(at) + 1, std::move(what) + ": " + Quoted(line_.substr(at))};
  return false;
}

JsonLines::Status JsonLines::Refuse(RowProblem& problem, simdjson::error_code error) {
  const char* where = nullptr;
  if (document_.current_location().get(where) != simdjson::SUCCESS) where = nullptr;
  Fail(problem, where, fmt::format("not a JSON object ({})", simdjson::error_message(error)));
  return Status::kBad;
}

bool JsonLines::Begin(simdjson::ondemand::object& object, RowProblem& problem) {
  seen_ = 0;
  const simdjson::padded_string_view text(line_.data(), line_.size(), line_.size() + LineReader::kPadding);
  if (const auto error = parser_.iterate(text).get(document_))
    return Fail(problem, nullptr, fmt::format("not a JSON object ({})", simdjson::error_message(error)));
  if (const auto error = document_.get_object().get(object)) {
    if (const char* rest = BehindObject(line_)) return Fail(problem, rest, kFollows);
    return Refuse(problem, error) == Status::kRow;
  }
  return true;
}

bool JsonLines::Once(std::size_t member, Value& value, RowProblem& problem) {
  const std::uint32_t bit = std::uint32_t{1} << member;
  if ((seen_ & bit) != 0) return Fail(problem, Start(value), Name(member) + " is given twice");
  seen_ |= bit;
  return true;
}

bool JsonLines::Finish(RowProblem& problem) {
  const char* rest = nullptr;
  if (document_.current_location().get(rest) == simdjson::SUCCESS) return Fail(problem, rest, kFollows);
  for (std::size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].required && (seen_ >> i & 1) == 0) return Fail(problem, nullptr, "no " + Name(i));
  }
  return true;
}

bool JsonLines::Tokens(Value& value, std::size_t member, std::int32_t& out, RowProblem& problem) {
  const std::string_view token = Trim(value.raw_json_token());
  if (!ParseTokens(token, members_[member].name, out, problem.what)) {
    problem.column = ColumnOf(token);
    return false;
  }
  double number = 0;  // the text is a number of ours; this checks that it is one of JSON's
  if (const auto error = value.get_double().get(number)) return Refuse(problem, error) == Status::kRow;
  return true;
}

bool JsonLines::Time(Value& value, std::size_t member, int digits, bool quoted, TraceTime& out, std::string_view& text,
                     RowProblem& problem) {
  text = Trim(value.raw_json_token());
  std::string_view number = text;
  if (quoted && value.get_string().get(number) != simdjson::SUCCESS)
    return Fail(problem, text.data(), Name(member) + " is not a string");
  if (!ParseTime(number, members_[member].name, digits, out, problem.what)) {
    problem.column = ColumnOf(text);
    return false;
  }
  double unused = 0;
  if (quoted) return true;
  if (const auto error = value.get_double().get(unused)) return Refuse(problem, error) == Status::kRow;
  return true;
}

bool JsonLines::Integer(Value& value, std::size_t member, std::int64_t& out, RowProblem& problem) {
  const char* where = Start(value);
  if (value.get_int64().get(out) != simdjson::SUCCESS) return Fail(problem, where, Name(member) + " is not an integer");
  return true;
}

bool JsonLines::Text(Value& value, std::size_t member, std::string_view& out, RowProblem& problem) {
  const char* where = Start(value);
  if (value.get_string().get(out) != simdjson::SUCCESS) return Fail(problem, where, Name(member) + " is not a string");
  return true;
}

bool JsonLines::Integers(Value& value, std::size_t member, std::vector<std::uint64_t>& out, RowProblem& problem) {
  const char* where = Start(value);
  const auto refuse = [&] { return Fail(problem, where, Name(member) + " is not a list of integers"); };
  simdjson::ondemand::array list;
  if (value.get_array().get(list) != simdjson::SUCCESS) return refuse();
  for (auto item : list) {
    std::uint64_t number = 0;
    if (item.get_uint64().get(number) != simdjson::SUCCESS) return refuse();
    out.push_back(number);
  }
  return true;
}

void ChainBlocks(std::vector<std::uint64_t>& blocks) {
  std::uint64_t hash = 0;
  for (std::uint64_t& block : blocks) block = hash = HashAt(hash, block);
}

bool LooksLikeObject(std::string_view line, std::initializer_list<std::string_view> members) {
  line = Trim(line);
  if (line.empty() || line.front() != '{') return false;
  for (const std::string_view member : members) {
    if (line.find("\"" + std::string(member) + "\"") == std::string_view::npos) return false;
  }
  return true;
}

}  // namespace poolsim
