// Distributions of prompt and output lengths.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/fields.h"
#include "sim/rng.h"
#include "traces/format.h"
#include "traces/text.h"

namespace poolsim {

// Probability that a standard normal variate is below x, in plain IEEE operations; absolute error at most 1e-15.
double NormalCdf(double x);

// For a parameter that is a LengthSpec.
inline constexpr const char* kLengthHelp =
    "{fixed: n}, {exponential: mean}, {lognormal: {mean, sigma}}, {pareto: {min, alpha}}, {uniform: [a, b]}, {empirical: {path}} "
    "or {mixture: [{weight, ...}]}, and {min, max}";

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
  struct Pareto {
    std::optional<double> min;  // shortest length
    double alpha = 2;           // P(length > x) = (min / x)^alpha
    void Describe(Fields& f);
  } pareto;
  Json uniform;  // [a, b], both included
  struct Empirical {
    std::string path;
    std::string format = "auto";
    Json params = Json::object();
    std::string column;  // prompt_tokens | output_tokens; empty: that of the place where the distribution stands
    void Describe(Fields& f);
  } empirical;
  Json mixture;  // a list of {weight, and one kind}
  std::int64_t min = 1;
  std::int64_t max = kMaxTokens;
  void Describe(Fields& f);
};

// JSON Schema of a LengthSpec.
Json LengthSchema();

// Ready to draw from. A draw takes one value of the stream (none when fixed), and is monotone in it.
class LengthSampler {
 public:
  LengthSampler() = default;
  // `path` names the place in messages of `context.scenario_file`. Reads the trace of an empirical distribution. Throws
  // InputError.
  LengthSampler(const LengthSpec& spec, const SourceContext& context, const std::string& path);
  std::int32_t Draw(Rng& rng) const;
  // The length, not yet rounded, that a share p of all lengths is below; between bounds so that its rounding is too. REQUIRES
  // 0 < p < 1.
  double Quantile(double p) const;

 private:
  enum class Kind { kFixed, kExponential, kLogNormal, kPareto, kUniform, kEmpirical, kMixture };
  struct Part;
  double Unbounded(double p) const;
  double Cdf(double x) const;  // share of the lengths, not rounded and without bounds, that are at most x
  Kind kind_ = Kind::kFixed;
  double a_ = 0;  // mean, mu or shortest length
  double b_ = 0;  // sigma or alpha
  std::int64_t low_ = 1;
  std::uint64_t width_ = 1;
  std::int64_t min_ = 1;
  std::int64_t max_ = kMaxTokens;
  std::shared_ptr<const std::vector<std::int32_t>> sorted_;  // lengths of the trace
  std::shared_ptr<const std::vector<Part>> parts_;           // of a mixture
};
struct LengthSampler::Part {
  double weight;  // they sum up to 1
  LengthSampler sampler;
};

// A distribution as a table of its quantile function, for a draw in a few nanoseconds from 32 random bits: straight lines between
// 4,096 equally likely knots, and likewise inside the last 1/4,096, and inside the last 1/4,096 of that, so that a long tail
// keeps its shape down to a probability of 2^-32. All of it is integer arithmetic. Lines and curve differ by under 1 % of the
// length for the distributions above, unless it has gaps: lengths inside a gap come out for at most one cell.
class LengthTable {
 public:
  LengthTable() = default;
  explicit LengthTable(const LengthSampler& sampler);
  // Monotone in `bits`.
  std::int32_t Draw(std::uint32_t bits) const {
    const std::uint32_t cell = bits >> 20;
    if (cell != kCells - 1) return At(cell, bits & 0xFFFFFu);
    const std::uint32_t tail = (bits >> 8) & 0xFFFu;
    if (tail != kCells - 1) return At(cell + tail, (bits & 0xFFu) << 12);
    return At(2 * (kCells - 1) + (bits & 0xFFu), 0x80000u);
  }
  // Of the lengths that Draw gives.
  double mean() const { return mean_; }
  double mean_square() const { return mean_square_; }

 private:
  static constexpr std::uint32_t kCells = 4096;
  std::int32_t At(std::uint32_t cell, std::uint32_t part) const {  // part of 2^20
    const std::int64_t from = knots_[cell];
    const std::int64_t to = knots_[cell + 1];
    return static_cast<std::int32_t>(((from << 20) + (to - from) * part + (std::int64_t{1} << (shift_ - 1))) >> shift_);
  }
  std::vector<std::uint32_t> knots_;  // in units of 2^-(shift_ - 20) tokens; never fall
  int shift_ = 20;
  double mean_ = 0;
  double mean_square_ = 0;
};

}  // namespace poolsim
