// Random streams that are keyed by name and give the same numbers on every machine.
//
//     Rng gaps(seed, "arrivals", model_name);
//     TimePs gap = gaps.ExponentialPs(mean_ps);
//
// A stream is Random123's Philox2x64-10, a counter-based generator: value i of a stream is a pure function of (seed, names, i).
// Streams therefore do not depend on the order of their creation, on threads or on each other: a model keeps its arrivals when
// another model is added. The 192 bits of key and counter hold 64 + 64 bits of name hash and a 64-bit position.
//
// Distributions are our own. They use + - * / and sqrt on doubles, which IEEE 754 defines to the last bit, and integers; never
// the standard library's distributions or libm, which differ by vendor. The project compiles with -ffp-contract=off for the same
// reason. Each variate except Gamma and Below takes exactly one 64-bit draw, by inversion, so it is monotone in that draw.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

#include <Random123/philox.h>

#include "sim/time.h"

namespace poolsim {

// A bijection of 64-bit words in which every input bit changes every output bit with probability about one half (the finaliser of
// SplitMix64: xor-shift 30, multiply, xor-shift 27, multiply, xor-shift 31, after adding the golden ratio so that 0 is no fixed
// point).
inline constexpr std::uint64_t Mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Hash of a byte string: h = Mix64(seed ^ length * odd constant), then h = Mix64(h ^ word) for every 8 bytes read little-endian,
// the last word filled up with zeros. The same on every machine and in every version (stored results depend on it). Not for
// hostile input.
inline constexpr std::uint64_t Hash64(std::string_view bytes, std::uint64_t seed = 0) {
  std::uint64_t h = Mix64(seed ^ (static_cast<std::uint64_t>(bytes.size()) * 0xD6E8FEB86659FD93u));
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    std::uint64_t word = 0;
    for (std::size_t j = 0; j < 8 && i + j < bytes.size(); ++j) {
      word |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i + j])) << (8 * j);
    }
    h = Mix64(h ^ word);
  }
  return h;
}

// The position-th word of the stream `key`, for decisions about numbered things (row 17 of a trace). Weaker than Rng, and
// stateless.
inline constexpr std::uint64_t HashAt(std::uint64_t key, std::uint64_t position) { return Mix64(key ^ Mix64(position)); }

// The 53 upper bits as a number in (0, 1): (n + 1/2) / 2^53, rounded to even; neither 0 nor 1 ever comes out.
inline double ToUniform01(std::uint64_t bits) {
  const std::uint64_t n = bits >> 11;
  // n + 1/2 needs 54 bits, so it rounds for n >= 2^52; the very last step would round to 1.
  const double u = (static_cast<double>(n) + 0.5) * 0x1p-53;
  return u < 1.0 ? u : 1.0 - 0x1p-53;
}

// Natural logarithm and exponential in plain IEEE operations; relative error at most 1e-15. REQUIRES x > 0 and finite for Log;
// Exp gives 0 below -745.2 and infinity above 709.8. Pow(x, y) = Exp(y Log(x)), relative error about |y Log(x)| x 3e-16.
double Log(double x);
double Exp(double x);
double Pow(double x, double y);
// The x for which a standard normal variate is below x with probability p. REQUIRES 0 < p < 1. Relative error about 1e-15
// (Wichura's AS 241).
double NormalQuantile(double p);
// Natural logarithm of the Gamma function, in plain IEEE operations; relative error of the function at most 1e-12. REQUIRES x >
// 0.
double LogGamma(double x);

class Rng {
 public:
  // Names are texts or integers; their order matters, and ("ab", "c") is not ("a", "bc").
  template <class... Names>
  explicit Rng(std::uint64_t seed, const Names&... names) {
    std::uint64_t low = Mix64(seed);
    std::uint64_t high = Mix64(~seed);
    (Fold(names, low, high), ...);
    key_.v[0] = low;
    counter_.v[0] = 0;
    counter_.v[1] = high;
  }

  // The next 64 random bits. All other draws are made from these.
  std::uint64_t Bits() {
    if (have_second_) {
      have_second_ = false;
      return block_.v[1];
    }
    block_ = philox2x64(counter_, key_);
    ++counter_.v[0];
    have_second_ = true;
    return block_.v[0];
  }

  double Uniform01() { return ToUniform01(Bits()); }

  // Uniform on 0 .. n-1 without bias (Lemire's multiplication with rejection). REQUIRES n >= 1.
  std::uint64_t Below(std::uint64_t n) {
    auto wide = static_cast<unsigned __int128>(Bits()) * n;
    if (static_cast<std::uint64_t>(wide) < n) {
      const std::uint64_t threshold = (0 - n) % n;
      while (static_cast<std::uint64_t>(wide) < threshold) wide = static_cast<unsigned __int128>(Bits()) * n;
    }
    return static_cast<std::uint64_t>(wide >> 64);
  }

  double Exponential() { return -Log(Uniform01()); }  // mean 1
  // An exponential gap of the given mean [ps], rounded to a whole picosecond: gaps are rounded before they are summed, so a sum
  // of gaps does not depend on how it is grouped. kNever when the gap is longer than the longest scenario. REQUIRES mean_ps > 0.
  TimePs ExponentialPs(double mean_ps) {
    const double gap = Exponential() * mean_ps + 0.5;
    return gap < kMaxSeconds * 1e12 ? static_cast<TimePs>(gap) : kNever;
  }
  double Normal() { return NormalQuantile(Uniform01()); }                           // mean 0, variance 1
  double LogNormal(double mu, double sigma) { return Exp(mu + sigma * Normal()); }  // mu, sigma of the logarithm
  double Gamma(double shape);  // scale 1, mean = shape (Marsaglia and Tsang). REQUIRES shape > 0

 private:
  template <class Name>
  static void Fold(const Name& name, std::uint64_t& low, std::uint64_t& high) {
    if constexpr (std::is_integral_v<Name>) {
      low = Mix64(low ^ Mix64(static_cast<std::uint64_t>(name)));
      high = Mix64(high ^ Mix64(~static_cast<std::uint64_t>(name)));
    } else {
      low = Hash64(name, low);
      high = Hash64(name, high);
    }
  }

  philox2x64_key_t key_{};
  philox2x64_ctr_t counter_{};
  philox2x64_ctr_t block_{};
  bool have_second_ = false;
};

// Draws an index from fixed weights in constant time (Walker's alias method, in Vose's order). The table is built in doubles
// once; a draw is integer arithmetic on 64 random bits.
class DiscreteTable {
 public:
  DiscreteTable() = default;
  // REQUIRES weights not empty, at most 2^31 of them, none negative, their sum positive and finite.
  explicit DiscreteTable(const std::vector<double>& weights);
  // Index with probability weight / sum, for uniformly distributed `bits` (Rng::Bits or a hash).
  std::size_t Pick(std::uint64_t bits) const {
    const auto wide = static_cast<unsigned __int128>(bits) * cells_.size();
    const Cell& cell = cells_[static_cast<std::size_t>(wide >> 64)];
    return static_cast<std::uint64_t>(wide) < cell.threshold ? static_cast<std::size_t>(wide >> 64) : cell.alias;
  }
  std::size_t size() const { return cells_.size(); }

 private:
  struct Cell {
    std::uint64_t threshold = 0;
    std::size_t alias = 0;
  };
  std::vector<Cell> cells_;
};

// Weights 1, 2^-s, 3^-s, ... n^-s of a Zipf law.
std::vector<double> ZipfWeights(std::size_t n, double s);

}  // namespace poolsim
