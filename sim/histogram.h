// Counts of durations in logarithmic bins: 128 bins an octave, so a quantile is within 0.4 % of the exact one; mean and maximum
// are exact. Values below 2^20 ps (about 1 us) share linear bins of 8 ns. Merging is adding, so shards may be merged in any
// grouping.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "sim/archive.h"
#include "sim/time.h"

namespace poolsim {

class Histogram {
 public:
  // The bins' width in the linear part.
  static constexpr TimePs kResolution = TimePs{1} << 13;

  void Add(TimePs value, std::int64_t count = 1) {
    if (count <= 0) return;
    At(Bin(value)) += count;
    count_ += count;
    sum_ += static_cast<__int128>(value) * count;
    max_ = std::max(max_, value);
  }

  // The values first, first + slope, ..., first + slope (k - 1), `weight` times each. Costs one step per bin that the range
  // crosses.
  void AddSeries(TimePs first, TimePs slope, std::int64_t k, std::int64_t weight) {
    if (k <= 0 || weight <= 0) return;
    if (slope == 0) return Add(first, k * weight);
    std::int64_t j = 0;
    while (j < k) {
      const TimePs value = first + slope * j;
      const std::int64_t bin = Bin(value);
      const std::int64_t last = slope > 0 ? (LowerEdge(bin + 1) - 1 - first) / slope : (first - LowerEdge(bin)) / -slope;
      const std::int64_t end = std::min(k, last + 1);
      At(bin) += (end - j) * weight;
      j = end;
    }
    count_ += k * weight;
    const __int128 wide = k;
    sum_ += (wide * first + static_cast<__int128>(slope) * k * (k - 1) / 2) * weight;
    max_ = std::max({max_, first, first + slope * (k - 1)});
  }

  void Merge(const Histogram& other) {
    for (std::size_t i = 0; i < other.bins_.size(); ++i) {
      if (other.bins_[i] != 0) At(other.first_bin_ + static_cast<std::int64_t>(i)) += other.bins_[i];
    }
    count_ += other.count_;
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
  }

  void State(Archive& a) { a(first_bin_, bins_, count_, sum_, max_); }

  std::int64_t count() const { return count_; }
  TimePs max() const { return max_; }
  double MeanSeconds() const { return count_ == 0 ? 0 : static_cast<double>(sum_ / count_) * 1e-12; }

  // f(upper edge, count) for every bin that holds something, ascending. A bin's upper edge is no longer in it.
  template <class F>
  void ForEachBin(F&& f) const {
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      if (bins_[i] != 0) f(LowerEdge(first_bin_ + static_cast<std::int64_t>(i) + 1), bins_[i]);
    }
  }

  // Share of the counts that are at most `value`, to the resolution of the bins: that of `value` counts whole; 1 when empty.
  double ShareAtMost(TimePs value) const {
    if (count_ == 0 || value >= max_) return 1;
    std::int64_t seen = 0;
    for (std::int64_t bin = first_bin_; bin <= Bin(value) && bin - first_bin_ < static_cast<std::int64_t>(bins_.size()); ++bin)
      seen += bins_[static_cast<std::size_t>(bin - first_bin_)];
    return static_cast<double>(seen) / static_cast<double>(count_);
  }

  // Smallest bin that holds the q-quantile (nearest rank), as the middle of the bin and never above the maximum; 0 when empty.
  TimePs Quantile(double q) const {
    if (count_ == 0) return 0;
    const double rank = q * static_cast<double>(count_);
    auto target = static_cast<std::int64_t>(rank);
    if (static_cast<double>(target) < rank) ++target;
    target = std::clamp<std::int64_t>(target, 1, count_);
    std::int64_t seen = 0;
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      seen += bins_[i];
      if (seen >= target) {
        const std::int64_t bin = first_bin_ + static_cast<std::int64_t>(i);
        return std::min(max_, LowerEdge(bin) + (LowerEdge(bin + 1) - LowerEdge(bin)) / 2);
      }
    }
    return max_;
  }

 private:
  static constexpr int kSubBits = 7;
  static constexpr int kShift = 13;
  static_assert(kResolution == TimePs{1} << kShift);

  static std::int64_t Bin(TimePs value) {
    const std::uint64_t v = value <= 0 ? 0 : static_cast<std::uint64_t>(value) >> kShift;
    if (v < (1u << kSubBits)) return static_cast<std::int64_t>(v);
    const int exponent = static_cast<int>(std::bit_width(v)) - 1 - kSubBits;
    return (static_cast<std::int64_t>(exponent + 1) << kSubBits) + static_cast<std::int64_t>((v >> exponent) - (1u << kSubBits));
  }
  static TimePs LowerEdge(std::int64_t bin) {
    if (bin < (1 << kSubBits)) return bin << kShift;
    const std::int64_t exponent = (bin >> kSubBits) - 1;
    const std::int64_t mantissa = (bin & ((1 << kSubBits) - 1)) + (1 << kSubBits);
    return mantissa << (exponent + kShift);
  }

  std::int64_t& At(std::int64_t bin) {
    if (bins_.empty()) first_bin_ = bin;
    if (bin < first_bin_) {
      bins_.insert(bins_.begin(), static_cast<std::size_t>(first_bin_ - bin), 0);
      first_bin_ = bin;
    }
    const auto index = static_cast<std::size_t>(bin - first_bin_);
    if (index >= bins_.size()) bins_.resize(index + 1, 0);
    return bins_[index];
  }

  std::int64_t first_bin_ = 0;
  std::vector<std::int64_t> bins_;
  std::int64_t count_ = 0;
  __int128 sum_ = 0;
  TimePs max_ = 0;
};

}  // namespace poolsim
