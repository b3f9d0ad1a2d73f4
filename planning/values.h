// Values as an option writes them: "1..8", a range, or "1,2,4", a list.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/fields.h"

namespace poolsim {

// Both ends included. Its scale is linear, or logarithmic where the ends are more than a factor of 4 apart.
struct ValueRange {
  double low = 0;
  double high = 0;
  bool whole = false;  // whole numbers alone

  // At a share in [0, 1] of the way from low to high, on the range's scale; not made whole.
  double At(double share) const;
  // `points` values from low to high, equally spaced on the range's scale; whole ones each once, and all where there are no more.
  std::vector<Json> Spaced(int points) const;
};

// "LOW..HIGH". Throws InputError that begins with `where`, also when `whole` and an end is not.
ValueRange ParseRange(const std::string& text, bool whole, const std::string& where);
// "A,B,...": numbers, true, false and null as such, anything else as text; whole numbers as integers where `whole`. Throws
// InputError that begins with `where` when one is empty or comes twice.
std::vector<Json> ParseValues(const std::string& list, bool whole, const std::string& where);
// A finite number and nothing else.
std::optional<double> NumberOf(const std::string& text);
// For a table or a file: text without quotes, numbers to 12 digits.
std::string ValueText(const Json& value);

}  // namespace poolsim
