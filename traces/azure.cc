// The Azure LLM inference traces of 2023 and 2024: TIMESTAMP,ContextTokens,GeneratedTokens. They differ in how they write the
// time
// ("2023-11-16 18:17:03.9799600", "2024-05-10 00:00:00.009930+00:00"); both readers understand both.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {
namespace {

struct Instant {
  std::int64_t seconds = 0;  // since 1970, UTC
  TimePs fraction = 0;       // 0 to one second
};

// Days since 1970-01-01 of a date of the Gregorian calendar; a year is counted from March, so that the leap day is its last.
std::int64_t DayNumber(std::int64_t year, std::int64_t month, std::int64_t day) {
  const std::int64_t y = month <= 2 ? year - 1 : year;
  const std::int64_t m = month <= 2 ? month + 9 : month - 3;
  return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
}

std::int64_t DaysIn(std::int64_t year, std::int64_t month) {
  if (month == 2) return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  // Exactly `count` digits.
  std::int64_t Number(std::size_t count) {
    std::int64_t value = 0;
    for (std::size_t i = 0; i < count; ++i, ++at_) {
      if (at_ >= text_.size() || text_[at_] < '0' || text_[at_] > '9') {
        ok_ = false;
        return 0;
      }
      value = value * 10 + (text_[at_] - '0');
    }
    return value;
  }
  char OneOf(std::string_view allowed) {
    if (at_ < text_.size() && allowed.find(text_[at_]) != std::string_view::npos) return text_[at_++];
    ok_ = false;
    return 0;
  }
  bool At(std::string_view any) const { return at_ < text_.size() && any.find(text_[at_]) != std::string_view::npos; }
  // Digits behind a point, in ps; more than 12 are cut.
  TimePs Fraction() {
    TimePs value = 0;
    int digits = 0;
    for (; At("0123456789"); ++at_, ++digits) {
      if (digits < 12) value = value * 10 + (text_[at_] - '0');
    }
    if (digits == 0) ok_ = false;
    for (; digits < 12; ++digits) value *= 10;
    return value;
  }
  bool Finished() const { return ok_ && at_ == text_.size(); }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

// YYYY-MM-DD HH:MM:SS[.fraction][Z|+HH:MM|-HH:MM]; T for the blank is fine, no zone is UTC.
std::optional<Instant> ParseTimestamp(std::string_view text, bool* zoned = nullptr) {
  Cursor cursor(text);
  Instant instant;
  const std::int64_t year = cursor.Number(4);
  cursor.OneOf("-");
  const std::int64_t month = cursor.Number(2);
  cursor.OneOf("-");
  const std::int64_t day = cursor.Number(2);
  cursor.OneOf(" T");
  const std::int64_t hour = cursor.Number(2);
  cursor.OneOf(":");
  const std::int64_t minute = cursor.Number(2);
  cursor.OneOf(":");
  const std::int64_t second = cursor.Number(2);
  if (cursor.At(".")) {
    cursor.OneOf(".");
    instant.fraction = cursor.Fraction();
  }
  std::int64_t offset = 0;
  const bool has_zone = cursor.At("Z+-");
  if (has_zone) {
    const char sign = cursor.OneOf("Z+-");
    if (sign != 'Z') {
      const std::int64_t hours = cursor.Number(2);
      cursor.OneOf(":");
      const std::int64_t minutes = cursor.Number(2);
      if (hours > 23 || minutes > 59) return std::nullopt;
      offset = (hours * 3600 + minutes * 60) * (sign == '-' ? -1 : 1);
    }
  }
  if (zoned != nullptr) *zoned = has_zone;
  if (!cursor.Finished() || month < 1 || month > 12 || day < 1 || day > DaysIn(year, month) || hour > 23 || minute > 59 ||
      second > 59) {
    return std::nullopt;
  }
  instant.seconds = DayNumber(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
  return instant;
}

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
    const std::optional<Instant> instant = ParseTimestamp(row.time_text);
    if (!instant) {
      problem = {row.time_column,
                 row.time_text.empty()
                     ? std::string("TIMESTAMP is missing")
                     : fmt::format("TIMESTAMP: {} is not a date and time (YYYY-MM-DD HH:MM:SS.fraction)", Quoted(row.time_text))};
      return RowStatus::kBad;
    }
    if (!table_.Tokens(context_, row.prompt_tokens, problem) || !table_.Tokens(generated_, row.output_tokens, problem)) {
      return RowStatus::kBad;
    }
    const Instant first = first_.value_or(*instant);
    const std::int64_t seconds = instant->seconds - first.seconds;
    constexpr std::int64_t kLimit = kMaxTime / kPsPerSecond - 1;  // a second less, for the fractions
    if (std::max(seconds, -seconds) > kLimit) {
      problem = {row.time_column, fmt::format("TIMESTAMP: {} is more than 106 days from the first row", Quoted(row.time_text))};
      return RowStatus::kBad;
    }
    first_ = first;
    row.time = seconds * kPsPerSecond + (instant->fraction - first.fraction);
    row.model = {};
    row.base = {};
    return RowStatus::kRow;
  }

 private:
  CsvTable table_;
  int time_;
  int context_;
  int generated_;
  std::optional<Instant> first_;
};

bool IsAzure(std::string_view first) {
  return HasColumns(first, {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}) && !HasColumns(first, {"NumImages"});
}

bool HasZone(std::string_view row) {
  const std::size_t comma = row.find(',');
  bool zoned = false;
  return comma != std::string_view::npos && ParseTimestamp(Trim(row.substr(0, comma)), &zoned).has_value() && zoned;
}

std::unique_ptr<TraceReader> Create(const TraceContext& context) { return std::make_unique<AzureReader>(*context.lines); }

const Register<TraceFormatEntry> kRegistered2023{{
    .name = "azure-2023",
    .help = "CSV of the Azure LLM inference traces of 2023; the first request arrives at 0",
    .example = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10",
    .sniff = [](std::string_view first, std::string_view second) { return IsAzure(first) && !HasZone(second); },
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
    .sniff = [](std::string_view first, std::string_view second) { return IsAzure(first) && HasZone(second); },
    .create = Create,
    .has_models = false,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
