#include "traces/timestamp.h"

#include <algorithm>

#include <fmt/format.h>

namespace poolsim {
namespace {

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

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The number that `count` digits from `at` make. False when they are not there.
bool Digits(std::string_view text, std::size_t at, std::size_t count, std::int64_t& out) {
  if (at + count > text.size()) return false;
  out = 0;
  for (std::size_t i = at; i < at + count; ++i) {
    if (!IsDigit(text[i])) return false;
    out = out * 10 + (text[i] - '0');
  }
  return true;
}

// Seconds east of Greenwich of "Z", "+HH", "+HHMM" or "+HH:MM".
bool ParseZone(std::string_view text, std::int64_t& out) {
  out = 0;
  if (text == "Z") return true;
  std::int64_t hours = 0;
  std::int64_t minutes = 0;
  if (text.empty() || (text[0] != '+' && text[0] != '-') || !Digits(text, 1, 2, hours)) return false;
  const std::size_t at = text.size() > 3 && text[3] == ':' ? 4 : 3;
  if (text.size() > 3 && (text.size() != at + 2 || !Digits(text, at, 2, minutes))) return false;
  if (hours > 23 || minutes > 59) return false;
  out = (hours * 3600 + minutes * 60) * (text[0] == '-' ? -1 : 1);
  return true;
}

}  // namespace

bool TimestampParser::ParseMinute(std::string_view text) {
  std::int64_t year = 0;
  std::int64_t month = 0;
  std::int64_t day = 0;
  std::int64_t hour = 0;
  std::int64_t minute = 0;
  const bool fits = text.size() >= kMinute && Digits(text, 0, 4, year) && text[4] == '-' && Digits(text, 5, 2, month) &&
                    text[7] == '-' && Digits(text, 8, 2, day) && (text[10] == ' ' || text[10] == 'T') &&
                    Digits(text, 11, 2, hour) && text[13] == ':' && Digits(text, 14, 2, minute) && text[16] == ':' &&
                    month >= 1 && month <= 12 && day >= 1 && day <= DaysIn(year, month) && hour <= 23 && minute <= 59;
  if (!fits) return false;
  std::copy_n(text.begin(), kMinute, minute_.begin());
  have_minute_ = true;
  minute_seconds_ = DayNumber(year, month, day) * 86400 + hour * 3600 + minute * 60;
  return true;
}

bool TimestampParser::ParseRest(std::string_view text, TraceTime& out) const {
  std::int64_t second = 0;
  if (!Digits(text, kMinute, 2, second) || second > 59) return false;
  std::size_t at = kMinute + 2;
  TimePs fraction = 0;
  if (at < text.size() && text[at] == '.') {
    const std::size_t first = ++at;
    TimePs unit = kPsPerSecond / 10;
    for (; at < text.size() && IsDigit(text[at]); ++at, unit /= 10) fraction += unit * (text[at] - '0');
    if (at == first) return false;
  }
  std::int64_t offset = 0;
  if (at < text.size() && !ParseZone(text.substr(at), offset)) return false;
  out = static_cast<TraceTime>(minute_seconds_ + second - offset) * kPsPerSecond + fraction;
  return true;
}

bool TimestampParser::Parse(std::string_view text, std::string_view name, TraceTime& out, std::string& why) {
  const bool known = have_minute_ && text.size() >= kMinute && std::equal(minute_.begin(), minute_.end(), text.begin());
  if ((known || ParseMinute(text)) && ParseRest(text, out)) return true;
  why = text.empty() ? fmt::format("{} is missing", name)
                     : fmt::format("{}: {} is not a date and time (YYYY-MM-DD HH:MM:SS.fraction)", name, Quoted(text));
  return false;
}

bool HasZone(std::string_view text) {
  TraceTime time = 0;
  std::string why;
  const std::size_t behind = text.find_first_of("Z+-", 19);  // of YYYY-MM-DD HH:MM:SS
  return behind != std::string_view::npos && TimestampParser().Parse(text, "", time, why);
}

}  // namespace poolsim
