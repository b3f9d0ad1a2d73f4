#include "traces/lengths.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr const char* kKinds =
    "{fixed: n}, {exponential: mean}, {lognormal: {mean, sigma}}, {pareto: {min, alpha}}, {uniform: [a, b]}, {empirical: {path}} "
    "or {mixture: [{weight, ...}, ...]}";

}  // namespace

double NormalCdf(double x) {
  const double z = std::fabs(x);
  double tail = 0;  // above z
  const double density = 0.398942280401432678 * Exp(-0.5 * z * z);
  if (z < 5) {
    // 1/2 + density (z + z^3/3 + z^5/15 + ...): all terms are positive, so nothing cancels. Abramowitz and Stegun 26.2.11.
    double term = z;
    double sum = z;
    for (int i = 3; term > 1e-18 * sum; i += 2) {
      term *= z * z / i;
      sum += term;
    }
    tail = 0.5 - density * sum;
  } else if (z < 40) {
    // Laplace's continued fraction, 26.2.14, from its end.
    double fraction = z;
    for (int i = 40; i >= 1; --i) fraction = z + i / fraction;
    tail = density / fraction;
  }
  return x < 0 ? tail : 1 - tail;
}

void LengthSpec::LogNormal::Describe(Fields& f) {
  f.OptReal("mean", mean, "mean length", 1e-3, kMaxTokens);
  f.Real("sigma", sigma, "standard deviation of the logarithm of the length", 0, 10);
}

void LengthSpec::Pareto::Describe(Fields& f) {
  f.OptReal("min", min, "shortest length", 1e-3, kMaxTokens);
  f.Real("alpha", alpha, "the share of lengths above x is (min / x)^alpha", 0.05, 100);
}

void LengthSpec::Empirical::Describe(Fields& f) {
  f.Text("path", path, "trace whose lengths are drawn, each as often as it is there; relative to the scenario's folder");
  f.Text("format", format, "its format; auto: found from the header or the first line");
  f.Any("params", params, "parameters of a format that takes some (vidur: {rate: r})");
  f.Text("column", column, "prompt_tokens or output_tokens; default: as the key that this stands under");
}

void LengthSpec::Describe(Fields& f) {
  f.OptInt("fixed", fixed, "every request has this length", 1, kMaxTokens);
  f.OptReal("exponential", exponential, "mean of exponentially distributed lengths", 1e-3, kMaxTokens);
  f.Nested("lognormal", lognormal, "lognormal lengths: {mean, sigma}");
  f.Nested("pareto", pareto, "Pareto lengths, for tails: {min, alpha}");
  f.Any("uniform", uniform, "[a, b]: every length from a to b is equally likely");
  f.Nested("empirical", empirical, "the lengths of a trace: {path, format, column}");
  f.Any(
      "mixture", mixture,
      "[{weight, and one of the kinds above}, ...]: a lognormal body with a Pareto tail, or the short and the long answers of a "
      "reasoning model");
  f.Int("min", min, "shorter draws become this", 1, kMaxTokens);
  f.Int("max", max, "longer draws become this", 1, kMaxTokens);
}

Json LengthSchema() {
  return SchemaOfFields([](Fields& f) { LengthSpec().Describe(f); });
}

LengthSampler::LengthSampler(const LengthSpec& spec, const SourceContext& context, const std::string& path)
    : min_(spec.min), max_(spec.max) {
  const std::string& file = context.scenario_file;
  const auto refuse = [&](const std::string& key, const std::string& what) {
    throw InputError(fmt::format("{}: {}{}: {}", file, path, key, what));
  };
  const auto shown = [](const Json& json) { return Quoted(json.dump(-1, ' ', true, Json::error_handler_t::replace)); };
  const int kinds = (spec.fixed ? 1 : 0) + (spec.exponential ? 1 : 0) + (spec.lognormal.mean ? 1 : 0) +
                    (spec.pareto.min ? 1 : 0) + (spec.uniform.is_null() ? 0 : 1) + (spec.empirical.path.empty() ? 0 : 1) +
                    (spec.mixture.is_null() ? 0 : 1);
  if (kinds != 1) refuse("", fmt::format("found {} distributions; expected one of {}", kinds, kKinds));
  if (min_ > max_) refuse("", fmt::format("min {} is above max {}", min_, max_));
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
  } else if (spec.pareto.min) {
    kind_ = Kind::kPareto;
    a_ = *spec.pareto.min;
    b_ = spec.pareto.alpha;
  } else if (!spec.uniform.is_null()) {
    const Json& range = spec.uniform;
    const auto length = [](const Json& json) {
      return json.is_number_unsigned() && json.get<std::uint64_t>() >= 1 && json.get<std::uint64_t>() <= kMaxTokens;
    };
    if (!range.is_array() || range.size() != 2 || !length(range[0]) || !length(range[1]) ||
        range[0].get<std::int64_t>() > range[1].get<std::int64_t>()) {
      refuse("/uniform",
             fmt::format("found {}; expected [a, b], two integers from 1 to {} with a <= b", shown(range), kMaxTokens));
    }
    kind_ = Kind::kUniform;
    low_ = range[0].get<std::int64_t>();
    width_ = static_cast<std::uint64_t>(range[1].get<std::int64_t>() - low_) + 1;
  } else if (!spec.empirical.path.empty()) {
    kind_ = Kind::kEmpirical;
    const bool of_output = path.ends_with("output_tokens");
    const std::string& column = spec.empirical.column;
    if (!column.empty() && column != "prompt_tokens" && column != "output_tokens") {
      refuse("/empirical/column", UnknownName("column", column, {"prompt_tokens", "output_tokens"}));
    }
    const bool output = column.empty() ? of_output : column == "output_tokens";
    WorkloadConfig trace;
    trace.path = spec.empirical.path;
    trace.format = spec.empirical.format;
    trace.params = spec.empirical.params;
    SourceContext of_trace = context;
    of_trace.workload = &trace;
    std::vector<std::int32_t> lengths;
    try {
      const auto source = OpenWorkload(of_trace);
      RequestSpec row;
      while (source->Next(row)) lengths.push_back(output ? row.output_tokens : row.prompt_tokens);
    } catch (const InputError& e) {
      refuse("/empirical", e.what());
    }
    if (lengths.empty()) refuse("/empirical/path", fmt::format("{} has no rows", Quoted(trace.path)));
    std::sort(lengths.begin(), lengths.end());
    sorted_ = std::make_shared<const std::vector<std::int32_t>>(std::move(lengths));
  } else {
    kind_ = Kind::kMixture;
    if (!spec.mixture.is_array() || spec.mixture.empty()) {
      refuse("/mixture", fmt::format("found {}; expected a list of {{weight, and one kind}}", shown(spec.mixture)));
    }
    std::vector<Part> parts;
    double sum = 0;
    for (std::size_t i = 0; i < spec.mixture.size(); ++i) {
      const std::string at = fmt::format("/mixture/{}", i);
      double weight = 1;
      LengthSpec part;
      ReadFields(spec.mixture[i], file, path + at, [&](Fields& f) {
        f.Real("weight", weight, "share of the draws, relative to the other parts", 1e-9, 1e9);
        part.Describe(f);
      });
      if (!part.mixture.is_null()) refuse(at, "a mixture has no mixture in it");
      // The place tells prompts from outputs where a part is empirical.
      if (part.empirical.column.empty())
        part.empirical.column = path.ends_with("output_tokens") ? "output_tokens" : "prompt_tokens";
      parts.push_back({weight, LengthSampler(part, context, path + at)});
      sum += weight;
    }
    for (Part& part : parts) part.weight /= sum;
    parts_ = std::make_shared<const std::vector<Part>>(std::move(parts));
  }
}

double LengthSampler::Unbounded(double p) const {
  switch (kind_) {
    case Kind::kFixed:
      return static_cast<double>(low_);
    case Kind::kExponential:
      return -a_ * Log(1 - p);
    case Kind::kLogNormal:
      return Exp(a_ + b_ * NormalQuantile(p));
    case Kind::kPareto:
      return a_ * Pow(1 - p, -1 / b_);
    case Kind::kUniform:
      return static_cast<double>(low_) - 0.5 + p * static_cast<double>(width_);
    case Kind::kEmpirical:
      return (*sorted_)[static_cast<std::size_t>(p * static_cast<double>(sorted_->size()))];
    case Kind::kMixture:
      break;
  }
  // The mixture's quantile lies between its parts'.
  double low = parts_->front().sampler.Quantile(p);
  double high = low;
  for (const Part& part : *parts_) {
    low = std::min(low, part.sampler.Quantile(p));
    high = std::max(high, part.sampler.Quantile(p));
  }
  while (high - low > 0.01 && high - low > 1e-9 * high) {
    const double middle = 0.5 * (low + high);
    (Cdf(middle) < p ? low : high) = middle;
  }
  return high;
}

double LengthSampler::Cdf(double x) const {
  if (kind_ != Kind::kMixture) {  // a part's bounds are steps
    if (x < static_cast<double>(min_) - 0.5) return 0;
    if (x >= static_cast<double>(max_)) return 1;
  }
  switch (kind_) {
    case Kind::kFixed:
      return x < static_cast<double>(std::clamp(low_, min_, max_)) ? 0 : 1;
    case Kind::kExponential:
      return x <= 0 ? 0 : 1 - Exp(-x / a_);
    case Kind::kLogNormal:
      if (b_ == 0) return x < Exp(a_) ? 0 : 1;
      return x <= 0 ? 0 : NormalCdf((Log(x) - a_) / b_);
    case Kind::kPareto:
      return x <= a_ ? 0 : 1 - Pow(x / a_, -b_);
    case Kind::kUniform:
      return std::clamp((x - static_cast<double>(low_) + 0.5) / static_cast<double>(width_), 0.0, 1.0);
    case Kind::kEmpirical:
      return static_cast<double>(std::upper_bound(sorted_->begin(), sorted_->end(), x) - sorted_->begin()) /
             static_cast<double>(sorted_->size());
    case Kind::kMixture:
      break;
  }
  double sum = 0;
  for (const Part& part : *parts_) sum += part.weight * part.sampler.Cdf(x);
  return sum;
}

double LengthSampler::Quantile(double p) const {
  return std::clamp(Unbounded(p), static_cast<double>(min_) - 0.5, static_cast<double>(max_) + 0.4375);
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
    case Kind::kPareto:
    case Kind::kEmpirical:
    case Kind::kMixture:
      x = Unbounded(rng.Uniform01());
      break;
  }
  x += 0.5;
  if (x < static_cast<double>(min_)) return static_cast<std::int32_t>(min_);
  if (!(x < static_cast<double>(max_))) return static_cast<std::int32_t>(max_);
  return static_cast<std::int32_t>(x);
}

namespace {

// Integrals from 0 to x of round(t) and of its square.
struct Rounded {
  double first;
  double second;
};
Rounded RoundedUpTo(double x) {
  const double n = std::floor(x + 0.5);
  const double over = x - (n - 0.5);  // of the last step, which may be less than half for x near 0
  return {n * (n - 1) / 2 + n * over, (n - 1) * n * (2 * n - 1) / 6 + n * n * over};
}

}  // namespace

LengthTable::LengthTable(const LengthSampler& sampler) {
  // As many bits behind the point as 32 bits leave to the longest length.
  const double last = 1 - 0x1p-34;
  int fraction = 16;
  while (sampler.Quantile(last) * (1 << fraction) >= 0x1p32 - 1) --fraction;
  shift_ = 20 + fraction;
  knots_.reserve(2 * kCells + 256);
  const auto add = [&](double p) {
    const auto knot = static_cast<std::uint32_t>(sampler.Quantile(p) * (1 << fraction) + 0.5);
    knots_.push_back(knots_.empty() ? knot : std::max(knot, knots_.back()));
  };
  add(0x1p-14);  // a lognormal's 0 would draw the first cell down
  for (std::uint32_t i = 1; i < kCells; ++i) add(i * 0x1p-12);
  for (std::uint32_t i = 1; i < kCells; ++i) add(1 - 0x1p-12 + i * 0x1p-24);
  for (std::uint32_t i = 1; i < 256; ++i) add(1 - 0x1p-24 + i * 0x1p-32);
  add(last);

  const double unit = 1.0 / (1 << fraction);
  for (std::size_t i = 0; i + 1 < knots_.size(); ++i) {
    const double weight = i < kCells - 1 ? 0x1p-12 : i < 2 * (kCells - 1) ? 0x1p-24 : 0x1p-32;
    const double from = knots_[i] * unit;
    const double to = knots_[i + 1] * unit;
    Rounded value;
    if (to - from < 1e-9) {
      const double x = std::floor(from + 0.5);
      value = {x, x * x};
    } else {
      const Rounded upper = RoundedUpTo(to);
      const Rounded lower = RoundedUpTo(from);
      value = {(upper.first - lower.first) / (to - from), (upper.second - lower.second) / (to - from)};
    }
    mean_ += weight * value.first;
    mean_square_ += weight * value.second;
  }
}

}  // namespace poolsim
