#include "traces/lengths.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {

void LengthSpec::LogNormal::Describe(Fields& f) {
  f.OptReal("mean", mean, "mean length", 1e-3, kMaxTokens);
  f.Real("sigma", sigma, "standard deviation of the logarithm of the length", 0, 10);
}

void LengthSpec::Describe(Fields& f) {
  f.OptInt("fixed", fixed, "every request has this length", 1, kMaxTokens);
  f.OptReal("exponential", exponential, "mean of exponentially distributed lengths", 1e-3, kMaxTokens);
  f.Nested("lognormal", lognormal, "lognormal lengths: {mean, sigma}");
  f.Any("uniform", uniform, "[a, b]: every length from a to b is equally likely");
  f.Int("min", min, "shorter draws become this", 1, kMaxTokens);
  f.Int("max", max, "longer draws become this", 1, kMaxTokens);
}

LengthSampler::LengthSampler(const LengthSpec& spec, const std::string& file, const std::string& path)
    : min_(spec.min), max_(spec.max) {
  const auto refuse = [&](const std::string& what) { throw InputError(fmt::format("{}: {}: {}", file, path, what)); };
  const int kinds =
      (spec.fixed ? 1 : 0) + (spec.exponential ? 1 : 0) + (spec.lognormal.mean ? 1 : 0) + (spec.uniform.is_null() ? 0 : 1);
  if (kinds != 1) {
    refuse(fmt::format(
        "found {} distributions; expected one of {{fixed: n}}, {{exponential: mean}}, {{lognormal: {{mean, sigma}}}}, "
        "{{uniform: [a, b]}}",
        kinds));
  }
  if (min_ > max_) refuse(fmt::format("min {} is above max {}", min_, max_));
  if (spec.fixed) {
    kind_ = Kind::kFixed;
    low_ = *spec.fixed;
  } else if (spec.exponential) {
    kind_ = Kind::kExponential;
    a_ = *spec.exponential;
  } else if (spec.lognormal.mean) {
    kind_ = Kind::kLogNormal;
    b_ = spec.lognormal.sigma;
    a_ = Log(*spec.lognormal.mean) - b_ * b_ / 2;
  } else {
    const Json& range = spec.uniform;
    const auto length = [](const Json& json) {
      return json.is_number_unsigned() && json.get<std::uint64_t>() >= 1 && json.get<std::uint64_t>() <= kMaxTokens;
    };
    if (!range.is_array() || range.size() != 2 || !length(range[0]) || !length(range[1]) ||
        range[0].get<std::int64_t>() > range[1].get<std::int64_t>()) {
      throw InputError(fmt::format("{}: {}/uniform: found {}; expected [a, b], two integers from 1 to {} with a <= b", file, path,
                                   Quoted(range.dump(-1, ' ', true, Json::error_handler_t::replace)), kMaxTokens));
    }
    kind_ = Kind::kUniform;
    low_ = range[0].get<std::int64_t>();
    width_ = static_cast<std::uint64_t>(range[1].get<std::int64_t>() - low_) + 1;
  }
}

std::int32_t LengthSampler::Draw(Rng& rng) const {
  double x = 0;
  switch (kind_) {
    case Kind::kFixed:
      return static_cast<std::int32_t>(std::clamp(low_, min_, max_));
    case Kind::kUniform:
      return static_cast<std::int32_t>(std::clamp(low_ + static_cast<std::int64_t>(rng.Below(width_)), min_, max_));
    case Kind::kExponential:
      x = a_ * rng.Exponential();
      break;
    case Kind::kLogNormal:
      x = rng.LogNormal(a_, b_);
      break;
  }
  x += 0.5;
  if (x < static_cast<double>(min_)) return static_cast<std::int32_t>(min_);
  if (!(x < static_cast<double>(max_))) return static_cast<std::int32_t>(max_);
  return static_cast<std::int32_t>(x);
}

}  // namespace poolsim
