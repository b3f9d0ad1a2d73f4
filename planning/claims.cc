#include "planning/claims.h"

#include <algorithm>
#include <cmath>

#include "sim/report.h"

namespace poolsim {
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
