#include "sim/rng.h"

#include <bit>
#include <cmath>
#include <limits>

namespace poolsim {
namespace {

// ln 2 in two parts; the first has 21 trailing zero bits, so that k * kLn2High is exact for every exponent k.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

double PowerOfTwo(int exponent) { return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52); }

}  // namespace

double Log(double x) {
  auto bits = std::bit_cast<std::uint64_t>(x);
  int exponent = 0;
  if (bits < (std::uint64_t{1} << 52)) {  // subnormal
    bits = std::bit_cast<std::uint64_t>(x * 0x1p54);
    exponent = -54;
  }
  // x = 2^exponent * m with m in about [sqrt(1/2), sqrt(2)), which keeps log(m) small on both sides of 1.
  constexpr std::uint64_t kSqrtHalf = 0x3FE6A09E00000000u;
  const std::uint64_t shifted = bits - kSqrtHalf;
  exponent += static_cast<int>(static_cast<std::int64_t>(shifted) >> 52);
  const double m = std::bit_cast<double>((shifted & 0x000FFFFFFFFFFFFFu) + kSqrtHalf);

  // log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716. Written as f - s (f - r) so that the leading term f is exact.
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double r = 2.0 / 23;
  r = r * z + 2.0 / 21;
  r = r * z + 2.0 / 19;
  r = r * z + 2.0 / 17;
  r = r * z + 2.0 / 15;
  r = r * z + 2.0 / 13;
  r = r * z + 2.0 / 11;
  r = r * z + 2.0 / 9;
  r = r * z + 2.0 / 7;
  r = r * z + 2.0 / 5;
  r = r * z + 2.0 / 3;
  r = r * z;
  const double tail = s * (f - r);  // log(m) = f - tail
  if (exponent == 0) return f - tail;
  const double k = exponent;
  return k * kLn2High + (f - (tail - k * kLn2Low));
}

double Exp(double x) {
  if (x > 709.79) return std::numeric_limits<double>::infinity();
  if (x < -745.2) return 0;
  const int k = static_cast<int>(x * 1.44269504088896340736 + (x < 0 ? -0.5 : 0.5));
  const double r = (x - k * kLn2High) - k * kLn2Low;  // |r| < 0.35
  double sum = 1.0 / 87178291200.0;                   // Taylor up to r^14 / 14!
  sum = sum * r + 1.0 / 6227020800.0;
  sum = sum * r + 1.0 / 479001600.0;
  sum = sum * r + 1.0 / 39916800.0;
  sum = sum * r + 1.0 / 3628800.0;
  sum = sum * r + 1.0 / 362880.0;
  sum = sum * r + 1.0 / 40320.0;
  sum = sum * r + 1.0 / 5040.0;
  sum = sum * r + 1.0 / 720.0;
  sum = sum * r + 1.0 / 120.0;
  sum = sum * r + 1.0 / 24.0;
  sum = sum * r + 1.0 / 6.0;
  sum = sum * r + 0.5;
  const double result = 1.0 + (r + r * r * sum);
  const int half = k / 2;  // in two steps: 2^k alone may be out of range where the product is not
  return result * PowerOfTwo(half) * PowerOfTwo(k - half);
}

double Pow(double x, double y) { return Exp(y * Log(x)); }

double NormalQuantile(double p) {
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    const double above = (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) * r +
                              4.5921953931549871457e4) *
                                 r +
                             1.3731693765509461125e4) *
                                r +
                            1.9715909503065514427e3) *
                               r +
                           1.3314166789178437745e2) *
                              r +
                          3.3871328727963666080e0);
    const double below = (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) * r +
                              2.1213794301586595867e4) *
                                 r +
                             5.3941960214247511077e3) *
                                r +
                            6.8718700749205790830e2) *
                               r +
                           4.2313330701600911252e1) *
                              r +
                          1.0);
    return q * above / below;
  }
  const double tail = q < 0 ? p : 1.0 - p;
  double r = std::sqrt(-Log(tail));
  double x = 0;
  if (r <= 5.0) {
    r -= 1.6;
    const double above = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r +
                              1.27045825245236838258e0) *
                                 r +
                             3.64784832476320460504e0) *
                                r +
                            5.76949722146069140550e0) *
                               r +
                           4.63033784615654529590e0) *
                              r +
                          1.42343711074968357734e0);
    const double below = (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r +
                              1.48103976427480074590e-1) *
                                 r +
                             6.89767334985100004550e-1) *
                                r +
                            1.67638483018380384940e0) *
                               r +
                           2.05319162663775882187e0) *
                              r +
                          1.0);
    x = above / below;
  } else {
    r -= 5.0;
    const double above = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r +
                              2.65321895265761230930e-2) *
                                 r +
                             2.96560571828504891230e-1) *
                                r +
                            1.78482653991729133580e0) *
                               r +
                           5.46378491116411436990e0) *
                              r +
                          6.65790464350110377720e0);
    const double below = (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r +
                              7.86869131145613259100e-4) *
                                 r +
                             1.48753612908506148525e-2) *
                                r +
                            1.36929880922735805310e-1) *
                               r +
                           5.99832206555887937690e-1) *
                              r +
                          1.0);
    x = above / below;
  }
  return q < 0 ? -x : x;
}

double LogGamma(double x) {
  constexpr double kTwoPi = 6.283185307179586477;
  double shift = 0;
  for (; x < 16; x += 1) shift += Log(x);
  // Stirling's series; its first term left out is below 1e-17 from 16 on.
  const double inverse = 1 / x;
  const double square = inverse * inverse;
  double series = 1.0 / 156;
  series = series * square - 691.0 / 360360;
  series = series * square + 1.0 / 1188;
  series = series * square - 1.0 / 1680;
  series = series * square + 1.0 / 1260;
  series = series * square - 1.0 / 360;
  series = series * square + 1.0 / 12;
  return (x - 0.5) * Log(x) - x + 0.5 * Log(kTwoPi) + series * inverse - shift;
}

double Rng::Gamma(double shape) {
  if (shape < 1) {  // Gamma(a) = Gamma(a + 1) U^(1/a)
    const double boost = Exp(Log(Uniform01()) / shape);
    return Gamma(shape + 1) * boost;
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = Normal();
    const double root = 1.0 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    const double u = Uniform01();
    if (Log(u) < 0.5 * x * x + d - d * v + d * Log(v)) return d * v;
  }
}

DiscreteTable::DiscreteTable(const std::vector<double>& weights) : cells_(weights.size()) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  // Share of each cell that its own index fills, in units of a cell.
  std::vector<double> share(weights.size());
  std::vector<std::size_t> small;
  std::vector<std::size_t> large;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    share[i] = weights[i] / sum * static_cast<double>(weights.size());
    (share[i] < 1 ? small : large).push_back(i);
  }
  const auto fill = [&](std::size_t i, double part, std::size_t alias) {
    const bool whole = !(part < 1);
    cells_[i].threshold = whole ? std::numeric_limits<std::uint64_t>::max() : static_cast<std::uint64_t>(part * 0x1p64);
    cells_[i].alias = whole ? i : alias;
  };
  while (!small.empty() && !large.empty()) {
    const std::size_t poor = small.back();
    small.pop_back();
    const std::size_t rich = large.back();
    fill(poor, share[poor], rich);
    share[rich] -= 1 - share[poor];
    if (share[rich] < 1) {
      large.pop_back();
      small.push_back(rich);
    }
  }
  // What is left over is whole but for rounding.
  for (const std::size_t i : large) fill(i, 1, i);
  for (const std::size_t i : small) fill(i, 1, i);
}

std::vector<double> ZipfWeights(std::size_t n, double s) {
  std::vector<double> weights(n);
  for (std::size_t i = 0; i < n; ++i) weights[i] = Pow(static_cast<double>(i + 1), -s);
  return weights;
}

}  // namespace poolsim
