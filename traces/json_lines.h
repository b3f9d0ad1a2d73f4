// One JSON object a line.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <simdjson.h>

#include "traces/line_reader.h"
#include "traces/text.h"

namespace poolsim {

// Reads objects member by member. Members that the reader does not know are passed over; one that comes twice, a line that is not
// an object and text behind the object make a bad row.
//
//     JsonLines lines(reader, {{"timestamp"}, {"hash_ids", false}});
//     status = lines.Next(problem, [&](std::size_t member, JsonLines::Value& value) { ...lines.Tokens(value, ...)... });
class JsonLines {
 public:
  using Value = simdjson::ondemand::value;
  struct Member {
    std::string_view name;
    bool required = true;
  };
  JsonLines(LineReader& lines, std::initializer_list<Member> members);

  // Goes to the next line that is not blank and calls take(index into members, value) for each member that is known, in the order
  // of the line; take returns false when it has filled in the problem. Views from the values below are valid until the next call.
  enum class Status { kRow, kBad, kEnd };
  template <class Take>
  Status Next(RowProblem& problem, Take&& take) {
    if (!lines_.NextFilled(line_)) return Status::kEnd;
    simdjson::ondemand::object object;
    if (!Begin(object, problem)) return Status::kBad;
    for (auto item : object) {
      simdjson::ondemand::field field;
      if (const auto error = std::move(item).get(field)) return Refuse(problem, error);
      std::size_t member = 0;
      while (member < members_.size() && field.key() != members_[member].name) ++member;
      if (member == members_.size()) continue;
      Value value = field.value();
      if (!Once(member, value, problem) || !take(member, value)) return Status::kBad;
    }
    return Finish(problem) ? Status::kRow : Status::kBad;
  }

  // The typed values; false with `problem` filled in. `member` is for messages.
  bool Tokens(Value& value, std::size_t member, std::int32_t& out, RowProblem& problem);
  // A number of the unit 10^`digits` ps, or, when it is `quoted`, a string of such a number. `text` is the value as written.
  bool Time(Value& value, std::size_t member, int digits, bool quoted, TraceTime& out, std::string_view& text,
            RowProblem& problem);
  bool Integer(Value& value, std::size_t member, std::int64_t& out, RowProblem& problem);
  bool Text(Value& value, std::size_t member, std::string_view& out, RowProblem& problem);
  // Appends the integers of a list to `out`.
  bool Integers(Value& value, std::size_t member, std::vector<std::uint64_t>& out, RowProblem& problem);
  // The members of an object, in the order of the line, each to `take(value)`.
  template <class Take>
  bool Each(Value& value, std::size_t member, RowProblem& problem, Take&& take) {
    const char* where = Start(value);
    simdjson::ondemand::object object;
    if (value.get_object().get(object) != simdjson::SUCCESS) return Fail(problem, where, Name(member) + " is not an object");
    for (auto item : object) {
      simdjson::ondemand::field field;
      if (const auto error = std::move(item).get(field)) return Refuse(problem, error) == Status::kRow;
      Value inner = field.value();
      if (!take(inner)) return false;
    }
    return true;
  }

  // Column of a part of the line.
  std::int64_t ColumnOf(std::string_view part) const { return part.data() - line_.data() + 1; }
  // A problem at `where`, a place in the line or null; returns false.
  bool Fail(RowProblem& problem, const char* where, std::string what) const;

 private:
  bool Begin(simdjson::ondemand::object& object, RowProblem& problem);
  bool Once(std::size_t member, Value& value, RowProblem& problem);
  bool Finish(RowProblem& problem);
  Status Refuse(RowProblem& problem, simdjson::error_code error);  // the line is not JSON; always kBad
  // The scalar as written, after what follows it was checked to be JSON.
  static const char* Start(Value& value) { return value.raw_json_token().data(); }
  std::string Name(std::size_t member) const { return std::string(members_[member].name); }

  LineReader& lines_;
  std::vector<Member> members_;
  std::string_view line_;
  std::uint32_t seen_ = 0;  // a bit for each member
  simdjson::ondemand::parser parser_;
  simdjson::ondemand::document document_;
};

// Turns block ids, equal for equal contents, into hashes of everything up to and including the block, in place.
void ChainBlocks(std::vector<std::uint64_t>& blocks);

// Whether `line` looks like an object with all of these members. Only the text is looked at.
bool LooksLikeObject(std::string_view line, std::initializer_list<std::string_view> members);

}  // namespace poolsim
