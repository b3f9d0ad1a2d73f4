// What the kernels should give, in double precision, and how far off they may be.
//
// Tolerances follow from the formats: bfloat16 keeps 8 bits, so a rounded result is off by at most 2^-9 of itself; sums of fp32
// products are off by a small share of the sum of their magnitudes. They are several times the error that is expected and far
// below what a wrong index gives with random data.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace poolsim::bench {

// A kernel's output is not what it should be.
class CheckFailed : public std::runtime_error {
 public:
  explicit CheckFailed(const std::string& message) : std::runtime_error(message) {}
};

struct Expected {
  double value = 0;
  double tolerance = 0;  // absolute
};

// Throws CheckFailed, naming `what`, unless |got - expected.value| <= expected.tolerance (NaN fails).
void Check(const Expected& expected, double got, const std::string& what);

// The sum of a[i] b[i] over i < k, rounded to bf16: tolerance 2^-8 of it and 2^-6 of the root of the sum of squares of the
// products, which is the size of partial sums (libraries may split k, and round what they add up to bf16).
Expected ExpectedProduct(std::int64_t k, const std::function<double(std::int64_t)>& a,
                         const std::function<double(std::int64_t)>& b);

// One head's output for one query over `keys` keys. Tolerance per element: 2^-8 of it, and 2^-6 of the root of the sum of squares
// of probability times value (probabilities are rounded to bf16 before they meet the values).
using Element = std::function<double(int key, int dimension)>;
std::vector<Expected> ExpectedAttention(const std::vector<double>& query, int keys, const Element& key, const Element& value,
                                        double scale);

// `x` (already a sum with the residual) normed and weighted.
std::vector<Expected> ExpectedNorm(const std::vector<double>& x, const std::vector<double>& weight, double epsilon);

// Rotary embedding of one head at a position.
std::vector<Expected> ExpectedRope(const std::vector<double>& x, std::int64_t position, double theta);

Expected ExpectedSilu(double gate, double up);

}  // namespace poolsim::bench
