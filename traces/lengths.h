// Distributions of prompt and output lengths.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sim/fields.h"
#include "sim/rng.h"
#include "traces/text.h"

namespace poolsim {

// As a scenario states it: exactly one kind, and bounds. A draw is rounded to the nearest whole token and then moved to the
// nearest bound when it is outside, as a serving system cuts at its limit; so a distribution with mass outside the bounds changes
// its mean.
struct LengthSpec {
  std::optional<std::int64_t> fixed;
  std::optional<double> exponential;  // mean
  struct LogNormal {
    std::optional<double> mean;  // of the lengths, not of their logarithm
    double sigma = 1;            // standard deviation of the logarithm
    void Describe(Fields& f);
  } lognormal;
  Json uniform;  // [a, b], both included
  std::int64_t min = 1;
  std::int64_t max = kMaxTokens;
  void Describe(Fields& f);
};

// Ready to draw from. A draw takes one value of the stream (none when fixed), and is monotone in it.
class LengthSampler {
 public:
  LengthSampler() = default;
  // `file` and `path` name the place in messages. Throws InputError.
  LengthSampler(const LengthSpec& spec, const std::string& file, const std::string& path);
  std::int32_t Draw(Rng& rng) const;

 private:
  enum class Kind { kFixed, kExponential, kLogNormal, kUniform };
  Kind kind_ = Kind::kFixed;
  double a_ = 0;  // mean, or mu
  double b_ = 0;  // sigma
  std::int64_t low_ = 1;
  std::uint64_t width_ = 1;
  std::int64_t min_ = 1;
  std::int64_t max_ = kMaxTokens;
};

}  // namespace poolsim
