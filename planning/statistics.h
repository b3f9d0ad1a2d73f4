// Means over replications, and how sure they are.
#pragma once

#include <span>

namespace poolsim {

// A mean with its two-sided Student-t interval; of fewer than two values the interval is the mean itself.
struct Estimate {
  double mean = 0;
  double low = 0;
  double high = 0;
};
// `confidence` in (0, 1), such as 0.95. Mean 0 of no values.
Estimate EstimateOf(std::span<const double> values, double confidence = 0.95);

}  // namespace poolsim
