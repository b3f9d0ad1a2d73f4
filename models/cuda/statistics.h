// Repeating a timing until it can be believed.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace poolsim::bench {

struct Summary {
  double median = 0;
  double spread = 0;  // interquartile range
  std::int64_t repeats = 0;
};

// Quantile `q` in [0, 1] of at least one value, linear between order statistics (Hyndman and Fan's type 7).
double Quantile(std::vector<double> values, double q);
Summary Summarize(const std::vector<double>& values);

struct RepeatLimits {
  int warm_up = 3;       // runs that do not count
  int least = 7;         // repeats
  int most = 100;        // repeats
  double spread = 0.02;  // enough when the interquartile range is below this share of the median
  double seconds = 1.0;  // after `least` repeats, no more are started once this has gone by
};

// Calls `once`, which gives a time in seconds, until the spread is small or a limit is reached.
Summary Repeat(const RepeatLimits& limits, const std::function<double()>& once);

}  // namespace poolsim::bench
