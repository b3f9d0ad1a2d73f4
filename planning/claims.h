// What others report, and what comes out here.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planning/statistics.h"
#include "sim/fields.h"

namespace poolsim {

// The load at which a curve of attainment over load first falls below a level, between two points by a straight line.
struct LoadAtLevel {
  enum class Kind { kCrossing, kAtLeast, kAtMost };  // it stays above to the last point; it is below at the first one already
  double load = 0;                                   // for the latter two that point's
  Kind kind = Kind::kCrossing;
};
// REQUIRES rising loads, an attainment for each, and one at least.
LoadAtLevel FindLoad(const std::vector<double>& loads, const std::vector<double>& attainments, double level);

// A figure that is reported: a number, or a range where low < high.
struct Claim {
  std::string figure;
  std::string claim;
  double reported_low = 0;
  double reported_high = 0;
  Estimate ours;
  std::string note;

  // Of our mean from the number, or from the nearer end of the range, in % of it; 0 inside the range.
  double DeviationPct() const;
};

// A list of {figure, claim, reported (a number or [low, high]), ours, ci_low, ci_high, deviation_pct, note}.
Json ClaimsJson(const std::vector<Claim>& claims);

}  // namespace poolsim
