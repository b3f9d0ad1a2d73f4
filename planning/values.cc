#include "planning/values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/report.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

// Beyond it doubles are no longer all the whole numbers there are.
constexpr double kMostWhole = 1e15;

bool IsWhole(double x) { return x == std::floor(x) && std::abs(x) <= kMostWhole; }

bool ByFactors(const ValueRange& r) { return r.low > 0 && r.high / r.low > 4; }

}  // namespace

double ValueRange::At(double share) const { return ByFactors(*this) ? low * Pow(high / low, share) : low + share * (high - low); }

std::vector<Json> ValueRange::Spaced(int points) const {
  std::vector<Json> values;
  if (whole && high - low < points) {
    for (double x = low; x <= high; ++x) values.push_back(static_cast<std::int64_t>(x));
    return values;
  }
  for (int i = 0; i < points; ++i) {
    double x = low;
    if (i > 0) x = i == points - 1 ? high : At(static_cast<double>(i) / (points - 1));
    // Round numbers between the ends; by factors three digits are close enough.
    if (i > 0 && i < points - 1) x = Rounded(x, ByFactors(*this) ? 3 : 6);
    const Json value = whole ? Json(std::llround(x)) : Json(x);
    if (values.empty() || values.back() != value) values.push_back(value);
  }
  return values;
}

ValueRange ParseRange(const std::string& text, bool whole, const std::string& where) {
  const std::size_t dots = text.find("..");
  const bool range = dots != std::string::npos;
  const std::optional<double> low = range ? NumberOf(text.substr(0, dots)) : std::nullopt;
  const std::optional<double> high = range ? NumberOf(text.substr(dots + 2)) : std::nullopt;
  if (!low || !high || *low > *high) {
    throw InputError(fmt::format("{}: found \"{}\"; expected LOW..HIGH, two numbers in order", where, text));
  }
  if (!std::isfinite(*high - *low) || (*low > 0 && !std::isfinite(*high / *low)))
    throw InputError(fmt::format("{}: found {}; the ends are too far apart", where, text));
  if (whole && !(IsWhole(*low) && IsWhole(*high))) {
    throw InputError(fmt::format("{}: found {}; expected whole numbers", where, text));
  }
  return {*low, *high, whole};
}

std::vector<Json> ParseValues(const std::string& list, bool whole, const std::string& where) {
  std::vector<Json> values;
  for (std::size_t from = 0; from <= list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    const std::string item = list.substr(from, comma - from);
    from = comma + 1;
    if (item.empty()) throw InputError(fmt::format("{}: found \"{}\"; a value is empty", where, list));
    const Json parsed = Json::parse(item, nullptr, false);
    Json value = parsed.is_discarded() || parsed.is_structured() ? Json(item) : parsed;
    if (whole && value.is_number_float() && IsWhole(value.get<double>())) {
      value = value.get<std::int64_t>();
    }
    if (std::find(values.begin(), values.end(), value) != values.end()) {
      throw InputError(fmt::format("{}: {} is named twice", where, item));
    }
    values.push_back(std::move(value));
  }
  return values;
}

std::optional<double> NumberOf(const std::string& text) {
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || read.ec != std::errc() || read.ptr != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::string ValueText(const Json& value) {
  if (value.is_number_float()) return fmt::format("{:.12g}", value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace poolsim
