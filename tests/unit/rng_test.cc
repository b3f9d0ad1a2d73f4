#include "sim/rng.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "tests/catch.h"

namespace poolsim {
namespace {

struct Moments {
  double mean = 0;
  double variance = 0;
  double least = 0;
  double greatest = 0;
};

template <class Draw>
Moments MomentsOf(int n, Draw draw) {
  double sum = 0;
  double squares = 0;
  Moments moments{0, 0, 1e300, -1e300};
  for (int i = 0; i < n; ++i) {
    const double x = draw();
    sum += x;
    squares += x * x;
    moments.least = std::min(moments.least, x);
    moments.greatest = std::max(moments.greatest, x);
  }
  moments.mean = sum / n;
  moments.variance = squares / n - moments.mean * moments.mean;
  return moments;
}

TEST_CASE("Philox2x64-10 gives the published vectors", "[unit]") {
  const auto run = [](std::uint64_t c0, std::uint64_t c1, std::uint64_t k) {
    const philox2x64_ctr_t counter = {{c0, c1}};
    const philox2x64_key_t key = {{k}};
    const auto out = philox2x64(counter, key);
    return std::vector<std::uint64_t>{out.v[0], out.v[1]};
  };
  CHECK(run(0, 0, 0) == std::vector<std::uint64_t>{0xca00a0459843d731u, 0x66c24222c9a845b5u});
  CHECK(run(~0ull, ~0ull, ~0ull) == std::vector<std::uint64_t>{0x65b021d60cd8310fu, 0x4d02f3222f86df20u});
  CHECK(run(0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u) ==
        std::vector<std::uint64_t>{0x0a5e742c2997341cu, 0xb0f883d38000de5du});
}

TEST_CASE("Mix64 is SplitMix64", "[unit]") {
  // The first three outputs of the published generator for state 1234567.
  constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;
  CHECK(Mix64(1234567) == 6457827717110365317u);
  CHECK(Mix64(1234567 + kGolden) == 3203168211198807973u);
  CHECK(Mix64(1234567 + 2 * kGolden) == 9817491932198370423u);
}

TEST_CASE("Hash64 tells texts apart and keeps its values", "[unit]") {
  std::set<std::uint64_t> seen;
  std::string text;
  for (int length = 0; length < 40; ++length) {
    CHECK(seen.insert(Hash64(text)).second);
    CHECK(seen.insert(Hash64(text, 1)).second);
    text += '\0';  // zeros at the end count
  }
  for (int i = 0; i < 100000; ++i) seen.insert(Hash64("model_" + std::to_string(i)));
  CHECK(seen.size() == 100080);
  static_assert(Hash64("arrivals", 7) == Hash64("arrivals", 7));
}

TEST_CASE("A stream depends on seed and names only", "[unit]") {
  Rng first(1, "arrivals", "model_a");
  std::vector<std::uint64_t> values;
  for (int i = 0; i < 100; ++i) values.push_back(first.Bits());

  Rng other(1, "arrivals", "model_b");
  Rng again(1, "arrivals", std::string("model_a"));
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    differs = differs || other.Bits() != values[static_cast<std::size_t>(i)];
    CHECK(again.Bits() == values[static_cast<std::size_t>(i)]);
  }
  CHECK(differs);

  std::set<std::uint64_t> starts;
  starts.insert(Rng(1, "ab", "c").Bits());
  starts.insert(Rng(1, "a", "bc").Bits());
  starts.insert(Rng(1, "abc").Bits());
  starts.insert(Rng(1, "c", "ab").Bits());
  starts.insert(Rng(2, "abc").Bits());
  starts.insert(Rng(1, "abc", 0).Bits());
  starts.insert(Rng(1, "abc", 1).Bits());
  starts.insert(Rng(1).Bits());
  CHECK(starts.size() == 8);
}

TEST_CASE("Uniform01 stays inside (0, 1)", "[unit]") {
  CHECK(ToUniform01(0) > 0);
  CHECK(ToUniform01(~0ull) < 1);
  Rng rng(3, "uniform");
  const Moments moments = MomentsOf(1'000'000, [&] { return rng.Uniform01(); });
  CHECK(moments.mean == Approx(0.5).margin(0.002));
  CHECK(moments.variance == Approx(1.0 / 12).margin(0.001));
}

TEST_CASE("Below is unbiased", "[unit]") {
  Rng rng(4, "below");
  for (const std::uint64_t n : {1u, 2u, 7u, 10u}) {
    std::vector<int> counts(n);
    for (int i = 0; i < 100000; ++i) ++counts.at(rng.Below(n));
    for (const int count : counts) CHECK(count == Approx(100000.0 / static_cast<double>(n)).epsilon(0.05));
  }
  // Two thirds of 2^64: without rejection the lower half would come up twice as often.
  const std::uint64_t n = 0xAAAAAAAAAAAAAAAAu;
  int low = 0;
  for (int i = 0; i < 100000; ++i) low += rng.Below(n) < n / 2 ? 1 : 0;
  CHECK(low == Approx(50000).epsilon(0.02));
}

TEST_CASE("Log, Exp and Pow agree with the library to 1e-15", "[unit]") {
  Rng rng(5, "arguments");
  double worst_log = 0;
  double worst_exp = 0;
  for (int i = 0; i < 300000; ++i) {
    const double wide = std::ldexp(0.5 + rng.Uniform01(), static_cast<int>(rng.Below(2040)) - 1070);
    const double near_one = 1 + (rng.Uniform01() - 0.5) * std::ldexp(1.0, -static_cast<int>(rng.Below(40)));
    const double unit = rng.Uniform01();
    for (const double x : {wide, near_one, unit}) {
      const long double exact = std::log(static_cast<long double>(x));
      if (exact != 0) worst_log = std::max(worst_log, static_cast<double>(std::fabs((Log(x) - exact) / exact)));
    }
    for (const double x : {(unit - 0.5) * 1400, unit * 4 - 2, (unit - 0.5) * 1e-6}) {
      const long double exact = std::exp(static_cast<long double>(x));
      worst_exp = std::max(worst_exp, static_cast<double>(std::fabs((Exp(x) - exact) / exact)));
    }
  }
  CHECK(worst_log <= 1e-15);
  CHECK(worst_exp <= 1e-15);
  CHECK(Log(1) == 0);
  CHECK(Exp(0) == 1);
  CHECK(Exp(-1000) == 0);
  CHECK(std::isinf(Exp(1000)));
  CHECK(Log(5e-324) == Approx(-744.4400719213812).epsilon(1e-15));
  CHECK(Exp(-744.4400719213812) == 5e-324);
  CHECK(Pow(2, 10) == Approx(1024).epsilon(1e-14));
  CHECK(Pow(779, -1.98) == Approx(std::pow(779.0, -1.98)).epsilon(1e-14));
}

TEST_CASE("Normal quantiles", "[unit]") {
  CHECK(NormalQuantile(0.5) == 0);
  CHECK(NormalQuantile(0.975) == Approx(1.959963984540054).epsilon(1e-14));
  CHECK(NormalQuantile(0.3) == Approx(-0.5244005127080407).epsilon(1e-14));
  CHECK(NormalQuantile(0.001) == Approx(-3.090232306167813).epsilon(1e-14));
  CHECK(NormalQuantile(1e-15) == Approx(-7.941345326170995).epsilon(1e-14));
  // The distribution function takes them back, over the seams between the approximations.
  for (double p = 1e-12; p < 1; p = p < 0.01 ? p * 1.5 : p + 0.003) {
    CHECK(std::erfc(-NormalQuantile(p) / std::sqrt(2.0)) / 2 == Approx(p).epsilon(1e-12));
  }
}

TEST_CASE("Moments of the distributions", "[unit]") {
  constexpr int kDraws = 400'000;
  Rng rng(6, "moments");
  const Moments exponential = MomentsOf(kDraws, [&] { return rng.Exponential(); });
  CHECK(exponential.mean == Approx(1).epsilon(0.01));
  CHECK(exponential.variance == Approx(1).epsilon(0.02));
  CHECK(exponential.least > 0);

  const Moments normal = MomentsOf(kDraws, [&] { return rng.Normal(); });
  CHECK(normal.mean == Approx(0).margin(0.01));
  CHECK(normal.variance == Approx(1).epsilon(0.01));

  const Moments lognormal = MomentsOf(kDraws, [&] { return rng.LogNormal(1, 0.5); });
  CHECK(lognormal.mean == Approx(std::exp(1.125)).epsilon(0.01));
  CHECK(lognormal.variance == Approx((std::exp(0.25) - 1) * std::exp(2.25)).epsilon(0.03));

  for (const double shape : {0.2, 0.5, 1.0, 2.5, 40.0}) {
    const Moments gamma = MomentsOf(kDraws, [&] { return rng.Gamma(shape); });
    CAPTURE(shape);
    CHECK(gamma.mean == Approx(shape).epsilon(0.015));
    CHECK(gamma.variance == Approx(shape).epsilon(0.04));
    CHECK(gamma.least >= 0);
  }
}

TEST_CASE("Exponential gaps are whole picoseconds, and endless beyond the longest scenario", "[unit]") {
  Rng rng(7, "gaps");
  double sum = 0;
  for (int i = 0; i < 100000; ++i) sum += static_cast<double>(rng.ExponentialPs(1e12));
  CHECK(sum / 100000 == Approx(1e12).epsilon(0.02));
  CHECK(rng.ExponentialPs(1e30) == kNever);
}

TEST_CASE("A discrete table draws by weight", "[unit]") {
  const std::vector<double> weights = {5, 0, 1, 2, 2};
  const DiscreteTable table(weights);
  Rng rng(8, "table");
  std::vector<int> counts(weights.size());
  for (int i = 0; i < 200000; ++i) ++counts.at(table.Pick(rng.Bits()));
  CHECK(counts[1] == 0);
  for (std::size_t i = 0; i < weights.size(); ++i) CHECK(counts[i] == Approx(weights[i] * 20000).epsilon(0.03).margin(1));

  // The market of 779 models: the hottest has 1 / zeta of the requests.
  const std::vector<double> zipf = ZipfWeights(779, 1.98);
  double total = 0;
  for (const double weight : zipf) total += weight;
  const DiscreteTable market(zipf);
  int top = 0;
  for (int i = 0; i < 200000; ++i) top += market.Pick(rng.Bits()) == 0 ? 1 : 0;
  CHECK(top / 200000.0 == Approx(1 / total).epsilon(0.01));

  CHECK(DiscreteTable({3.0}).Pick(0) == 0);
  CHECK(DiscreteTable({3.0}).Pick(~0ull) == 0);
}

TEST_CASE("Streams are the same on every machine", "[unit]") {
  Rng rng(42, "golden");
  std::uint64_t hash = 0;
  const auto add = [&](double x) {
    std::uint64_t bits = 0;
    static_assert(sizeof(bits) == sizeof(x));
    std::memcpy(&bits, &x, sizeof(x));
    hash = Mix64(hash ^ bits);
  };
  for (int i = 0; i < 10000; ++i) {
    add(rng.Uniform01());
    add(rng.Exponential());
    add(rng.Normal());
    add(rng.LogNormal(5, 1));
    add(rng.Gamma(0.7));
    add(static_cast<double>(rng.Below(1000)));
  }
  CHECK(hash == 0x763e9e79bd670ac2u);
}

}  // namespace
}  // namespace poolsim
