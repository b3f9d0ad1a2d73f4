#include "planning/claims.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sim/report.h"

namespace poolsim {
namespace {

// The 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; beyond the table it is near the normal one.
constexpr std::array<double, 30> kStudent = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
                                             2.2010,  2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
                                             2.0796,  2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423};

}  // namespace

Estimate MeanOf(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  if (values.size() < 2) return {mean, mean, mean};
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const std::size_t freedom = values.size() - 1;
  const double t = freedom <= kStudent.size() ? kStudent[freedom - 1] : 1.96 + 2.4 / static_cast<double>(freedom);
  const double half = t * std::sqrt(squares / (n - 1) / n);
  return {mean, mean - half, mean + half};
}

LoadAtLevel FindLoad(const std::vector<double>& loads, const std::vector<double>& attainments, double level) {
  if (attainments.front() < level) return {loads.front(), LoadAtLevel::Kind::kAtMost};
  for (std::size_t i = 1; i < loads.size(); ++i) {
    if (attainments[i] >= level) continue;
    const double share = (attainments[i - 1] - level) / (attainments[i - 1] - attainments[i]);
    return {loads[i - 1] + share * (loads[i] - loads[i - 1]), LoadAtLevel::Kind::kCrossing};
  }
  return {loads.back(), LoadAtLevel::Kind::kAtLeast};
}

double Claim::DeviationPct() const {
  const double nearest = std::clamp(ours.mean, reported_low, reported_high);
  return nearest == 0 ? 100 * ours.mean : 100 * (ours.mean - nearest) / nearest;
}

Json ClaimsJson(const std::vector<Claim>& claims) {
  Json list = Json::array();
  for (const Claim& c : claims) {
    const bool range = c.reported_low < c.reported_high;
    list.push_back(Json{{"figure", c.figure},
                        {"claim", c.claim},
                        {"reported", range ? Json{c.reported_low, c.reported_high} : Json(c.reported_low)},
                        {"ours", Rounded(c.ours.mean)},
                        {"ci_low", Rounded(c.ours.low)},
                        {"ci_high", Rounded(c.ours.high)},
                        {"deviation_pct", Rounded(c.DeviationPct(), 4)},
                        {"note", c.note}});
  }
  return list;
}

}  // namespace poolsim
