#include "traces/text.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fast_float/fast_float.h>
#include <fmt/format.h>

namespace poolsim {
namespace {

constexpr std::size_t kShown = 40;
constexpr TraceTime kLongest = static_cast<TraceTime>(kMaxTraceSeconds) * kPsPerSecond;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

template <class Signed, class Unsigned>
NumberFault ParseAny(std::string_view text, int digits, Signed limit, Signed& out) {
  const bool negative = !text.empty() && text.front() == '-';
  std::string_view rest = text;
  if (!rest.empty() && (rest.front() == '-' || rest.front() == '+')) rest.remove_prefix(1);
  if (rest.empty() || !(IsDigit(rest.front()) || rest.front() == '.')) return NumberFault::kNotANumber;  // also "nan", "+-1"

  const auto bound = static_cast<Unsigned>(limit);
  Unsigned value = 0;
  bool too_large = false;
  bool any_digit = false;
  const auto append = [&](unsigned digit) {
    if (value > (bound - digit) / 10) too_large = true;
    value = too_large ? value : value * 10 + digit;
  };
  std::size_t i = 0;
  for (; i < rest.size() && IsDigit(rest[i]); ++i) {
    any_digit = true;
    append(static_cast<unsigned>(rest[i] - '0'));
  }
  int fraction = 0;
  bool round_up = false;
  if (i < rest.size() && rest[i] == '.') {
    for (++i; i < rest.size() && IsDigit(rest[i]); ++i) {
      any_digit = true;
      if (fraction < digits) append(static_cast<unsigned>(rest[i] - '0'));
      if (fraction == digits) round_up = rest[i] >= '5';
      ++fraction;
    }
  }
  if (!any_digit) return NumberFault::kNotANumber;
  if (i == rest.size()) {
    for (; fraction < digits; ++fraction) append(0);
    if (round_up && !too_large) {
      too_large = value >= bound;
      ++value;
    }
    if (too_large) return NumberFault::kTooLarge;
    out = negative ? -static_cast<Signed>(value) : static_cast<Signed>(value);
    return NumberFault::kFine;
  }

  double number = 0;
  const auto [end, error] = fast_float::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (end != rest.data() + rest.size()) return NumberFault::kNotANumber;
  if (error != std::errc{} && number == 0) {  // below the smallest double
    out = 0;
    return NumberFault::kFine;
  }
  double scale = 1;
  for (int d = 0; d < digits; ++d) scale *= 10;  // exact up to 10^22
  number = number * scale + 0.5;
  if (!(number <= static_cast<double>(limit))) return NumberFault::kTooLarge;
  out = static_cast<Signed>(number);
  if (negative) out = -out;
  return NumberFault::kFine;
}

}  // namespace

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size() && i < kShown; ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c >= 0x7f) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + (text.size() > kShown ? "...\"" : "\"");
}

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool SameName(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

NumberFault ParseScaled(std::string_view text, int digits, std::int64_t limit, std::int64_t& out) {
  return ParseAny<std::int64_t, std::uint64_t>(text, digits, limit, out);
}

bool ParseTokens(std::string_view text, std::string_view name, std::int32_t& out, std::string& why, std::int32_t least) {
  text = Trim(text);
  // Plain digits, the one case in nearly all rows.
  if (!text.empty() && text.size() <= 8) {
    std::int32_t value = 0;
    std::size_t i = 0;
    for (; i < text.size() && IsDigit(text[i]); ++i) value = value * 10 + (text[i] - '0');
    if (i == text.size() && value >= least) {
      out = value;
      return true;
    }
  }
  // In units of 10^-9 tokens, so that a fraction shows.
  constexpr std::int64_t kUnit = 1'000'000'000;
  std::int64_t value = 0;
  const NumberFault fault = ParseScaled(text, 9, kMaxTokens * kUnit, value);
  if (text.empty()) {
    why = fmt::format("{} is missing", name);
  } else if (fault == NumberFault::kNotANumber) {
    why = fmt::format("{}: {} is not a number", name, Quoted(text));
  } else if (fault == NumberFault::kTooLarge) {
    why = fmt::format("{}: {} is out of range; allowed: {} to {}", name, Quoted(text), least, kMaxTokens);
  } else if (value % kUnit != 0) {
    why = fmt::format("{}: {} is not a whole number", name, Quoted(text));
  } else if (value < least * kUnit) {
    why = fmt::format("{}: {} is below {}", name, Quoted(text), least);
  } else {
    out = static_cast<std::int32_t>(value / kUnit);
    return true;
  }
  return false;
}

bool ParseTime(std::string_view text, std::string_view name, int digits, TraceTime& out, std::string& why) {
  text = Trim(text);
  // Plain digits with a point or without, few enough for 64 bits: nearly all rows.
  if (!text.empty() && text.size() <= 19) {
    std::uint64_t value = 0;
    std::size_t i = 0;
    for (; i < text.size() && IsDigit(text[i]); ++i) value = value * 10 + static_cast<unsigned>(text[i] - '0');
    const std::size_t whole = i;
    if (whole > 0 && whole <= 10 && i < text.size() && text[i] == '.') {
      for (++i; i < text.size() && IsDigit(text[i]); ++i) value = value * 10 + static_cast<unsigned>(text[i] - '0');
    }
    const std::size_t fraction = i > whole ? i - whole - 1 : 0;
    if (i == text.size() && whole <= 10 && fraction <= static_cast<std::size_t>(digits)) {
      static constexpr std::array<std::int64_t, 13> kPowers = {
          1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000, 1000000000000};
      out = static_cast<TraceTime>(value) * kPowers[static_cast<std::size_t>(digits) - fraction];
      return true;
    }
  }
  const NumberFault fault = ParseAny<TraceTime, unsigned __int128>(text, digits, kLongest, out);
  if (text.empty()) {
    why = fmt::format("{} is missing", name);
  } else if (fault == NumberFault::kNotANumber) {
    why = fmt::format("{}: {} is not a time", name, Quoted(text));
  } else if (fault == NumberFault::kTooLarge) {
    why = fmt::format("{}: {} is out of range; allowed: 0 to {} s", name, Quoted(text), kMaxTraceSeconds);
  } else if (out < 0) {
    why = fmt::format("{}: {} is before 0", name, Quoted(text));
  } else {
    return true;
  }
  return false;
}

bool ParseTime(std::string_view text, std::string_view name, int digits, TimePs& out, std::string& why) {
  TraceTime wide = 0;
  if (!ParseTime(text, name, digits, wide, why)) return false;
  if (wide > kMaxTime) {
    why = fmt::format("{}: {} is out of range; allowed: 0 to 106 days", name, Quoted(text));
    return false;
  }
  out = static_cast<TimePs>(wide);
  return true;
}

}  // namespace poolsim
