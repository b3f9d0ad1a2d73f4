#include "models/cuda/statistics.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace poolsim::bench {

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double position = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}

Summary Summarize(const std::vector<double>& values) {
  return {.median = Quantile(values, 0.5),
          .spread = Quantile(values, 0.75) - Quantile(values, 0.25),
          .repeats = static_cast<std::int64_t>(values.size())};
}

Summary Repeat(const RepeatLimits& limits, const std::function<double()>& once) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < limits.warm_up; ++i) once();
  std::vector<double> times;
  for (;;) {
    times.push_back(once());
    const int count = static_cast<int>(times.size());
    if (count < limits.least) continue;
    if (count >= limits.most) break;
    const Summary so_far = Summarize(times);
    if (so_far.spread <= limits.spread * so_far.median) break;
    if (std::chrono::duration<double>(Clock::now() - start).count() >= limits.seconds) break;
  }
  return Summarize(times);
}

}  // namespace poolsim::bench
