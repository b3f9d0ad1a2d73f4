#include "models/cuda/reference.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace poolsim::bench {
namespace {

constexpr double kRounding = 1.0 / 256;  // twice the largest relative error of bfloat16

}  // namespace

void Check(const Expected& expected, double got, const std::string& what) {
  if (std::abs(got - expected.value) <= expected.tolerance) return;
  throw CheckFailed(fmt::format("{}: found {:.6g}; expected {:.6g} +- {:.2g}", what, got, expected.value, expected.tolerance));
}

Expected ExpectedProduct(std::int64_t k, const std::function<double(std::int64_t)>& a,
                         const std::function<double(std::int64_t)>& b) {
  double sum = 0;
  double squares = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const double product = a(i) * b(i);
    sum += product;
    squares += product * product;
  }
  return {sum, kRounding * std::abs(sum) + 4 * kRounding * std::sqrt(squares)};
}

std::vector<Expected> ExpectedAttention(const std::vector<double>& query, int keys, const Element& key, const Element& value,
                                        double scale) {
  std::vector<double> weights(static_cast<std::size_t>(keys));
  double largest = -1e300;
  for (int j = 0; j < keys; ++j) {
    double score = 0;
    for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * key(j, static_cast<int>(d));
    weights[static_cast<std::size_t>(j)] = score * scale;
    largest = std::max(largest, score * scale);
  }
  double sum = 0;
  for (double& w : weights) {
    w = std::exp(w - largest);
    sum += w;
  }
  std::vector<Expected> out(query.size());
  for (std::size_t d = 0; d < query.size(); ++d) {
    double total = 0;
    double squares = 0;
    for (int j = 0; j < keys; ++j) {
      const double part = weights[static_cast<std::size_t>(j)] / sum * value(j, static_cast<int>(d));
      total += part;
      squares += part * part;
    }
    out[d] = {total, kRounding * std::abs(total) + 4 * kRounding * std::sqrt(squares) + 1e-6};
  }
  return out;
}

std::vector<Expected> ExpectedNorm(const std::vector<double>& x, const std::vector<double>& weight, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  std::vector<Expected> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = x[i] * factor * weight[i];
    out.push_back({value, kRounding * std::abs(value) + 1e-6});
  }
  return out;
}

std::vector<Expected> ExpectedRope(const std::vector<double>& x, std::int64_t position, double theta) {
  const std::size_t half = x.size() / 2;
  std::vector<Expected> out(x.size());
  for (std::size_t d = 0; d < half; ++d) {
    const double angle =
        static_cast<double>(position) * std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(x.size()));
    const double c = std::cos(angle);
    const double s = std::sin(angle);
    // An angle in fp32 is off by a few 2^-23 of itself.
    const double off = 4e-6 * (1 + angle) * (std::abs(x[d]) + std::abs(x[d + half]));
    const double low = x[d] * c - x[d + half] * s;
    const double high = x[d + half] * c + x[d] * s;
    out[d] = {low, kRounding * std::abs(low) + off};
    out[d + half] = {high, kRounding * std::abs(high) + off};
  }
  return out;
}

Expected ExpectedSilu(double gate, double up) {
  const double value = gate / (1 + std::exp(-gate)) * up;
  return {value, kRounding * std::abs(value) + 1e-6};
}

}  // namespace poolsim::bench
