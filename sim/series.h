// Arithmetic on runs of steps, in integers.
//
// For a fixed batch, step j (from 0) of a run takes a + d j picoseconds: a is the first step, d = per_token x B what every step
// adds to the context. k steps then take k a + d k (k - 1) / 2, exactly. Everything that a run needs (the step that reaches a
// quota, the step boundary after an arrival, where two lines cross) is one quadratic in k: solved in double, corrected in
// integers.
#pragma once

#include <cmath>
#include <cstdint>

#include "sim/time.h"

namespace poolsim {

using Wide = __int128;

struct Series {
  TimePs a = 0;  // > 0
  TimePs d = 0;  // may be negative (fits with a negative slope), as long as every step of the run stays > 0

  TimePs Step(std::int64_t j) const { return a + d * j; }

  TimePs Elapsed(std::int64_t k) const {
    return static_cast<TimePs>(static_cast<Wide>(k) * a + static_cast<Wide>(d) * k * (k - 1) / 2);
  }

  // The most steps, at most `limit`, whose Elapsed is <= t. REQUIRES t >= 0 and Step(j) > 0 for j < limit.
  std::int64_t StepsWithin(TimePs t, std::int64_t limit) const {
    if (limit <= 0) return 0;
    if (Elapsed(limit) <= t) return limit;
    // d/2 k^2 + (a - d/2) k = t. The form below has no cancellation for either sign of d.
    const double half = 0.5 * static_cast<double>(d);
    const double linear = static_cast<double>(a) - half;
    const double target = static_cast<double>(t);
    const double root = linear * linear + 4.0 * half * target;
    double guess = root > 0 ? 2.0 * target / (linear + std::sqrt(root)) : static_cast<double>(limit);
    if (!(guess >= 0)) guess = 0;
    std::int64_t k = guess >= static_cast<double>(limit) ? limit : static_cast<std::int64_t>(guess);
    while (k > 0 && Elapsed(k) > t) --k;
    while (k < limit && Elapsed(k + 1) <= t) ++k;
    return k;
  }
};

}  // namespace poolsim
