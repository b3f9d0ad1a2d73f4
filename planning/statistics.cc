#include "planning/statistics.h"

#include <cmath>

#include <boost/math/distributions/students_t.hpp>

namespace poolsim {

Estimate EstimateOf(std::span<const double> values, double confidence) {
  const auto n = static_cast<double>(values.size());
  Estimate e;
  for (const double v : values) e.mean += v;
  if (!values.empty()) e.mean /= n;
  e.low = e.high = e.mean;
  if (values.size() < 2) return e;
  double squares = 0;
  for (const double v : values) squares += (v - e.mean) * (v - e.mean);
  const double t = boost::math::quantile(boost::math::students_t(n - 1), 0.5 + confidence / 2);
  const double half = t * std::sqrt(squares / (n - 1) / n);
  e.low -= half;
  e.high += half;
  return e;
}

}  // namespace poolsim
