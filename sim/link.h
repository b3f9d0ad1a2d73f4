// A PCIe uplink and its copy engines: one transfer at a time per instance and direction, first in first out, but for background
// transfers (prefetched weights): those stand back, also in the middle, while anything else of their direction is there.
//
// Transfers that are active in one direction share the link's rate equally; each has a cap of its own (the tier it reads from).
// While both directions of an instance are busy, each keeps only a share of its rate: measured on A100 with PCIe 4, 25-26 GB/s
// one way become 11-13 in and 24-25 out. Progress is kept in bytes x 10^12, so that it is exact in integers.
//
// Weights come from a tier that all links of a node share (ShareTiers): its rate is divided equally among the GPUs that are being
// loaded from it at that moment, and what a GPU cannot take is not given to others. A load that waits, or stands back, takes
// nothing.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <vector>

#include "sim/archive.h"
#include "sim/ids.h"
#include "sim/time.h"

namespace poolsim {

enum class Direction : std::uint8_t { kIn = 0, kOut = 1 };  // host to GPU, GPU to host

// Where the weights of a load are read.
enum class Tier : std::uint8_t { kHostCache, kNvme, kRemote, kNotWeights };
inline constexpr int kTiers = 3;
using TierRates = std::array<std::int64_t, kTiers>;  // bytes/s

class Link {
 public:
  struct Config {
    std::int64_t rate[2] = {1, 1};       // bytes/s per direction
    double both_ways_share[2] = {1, 1};  // share that is left while the instance's other direction is busy
  };

  // `lanes`: instances on this link.
  Link(const Config& config, int lanes) : config_(config), lanes_(static_cast<std::size_t>(lanes) * 2) {}

  // Queues a transfer of `bytes` > 0, capped at `cap` bytes/s; `ticket` comes back from PopFinished. Loads of weights name their
  // tier and the GPUs that are loaded at once, `bytes` and `cap` being those of one of them.
  void Add(TimePs now, int lane, Direction direction, std::int64_t bytes, std::int64_t cap, std::int64_t ticket,
           bool background = false, Tier tier = Tier::kNotWeights, int gpus = 1);
  // When the next transfer ends; kNever when none is active.
  TimePs next_end() const { return next_end_; }
  // The ticket of a transfer that has ended by `now`, or -1.
  std::int64_t PopFinished(TimePs now);

  // Forgets a transfer that is queued or under way.
  void Cancel(TimePs now, std::int64_t ticket);

  // GPUs that are being loaded from each tier through this link, less those that the last call gave.
  TierRates LoadingChange() {
    TierRates change{};
    for (int t = 0; t < kTiers; ++t) change[t] = loading_[t] - told_[t];
    told_ = loading_;
    return change;
  }
  // A share of the rate is left for good, or while an outage lasts; outages may overlap.
  void Slow(TimePs now, double share);
  void Outage(TimePs now, bool begins, double share);

  // What a load can come in by at most.
  std::int64_t rate_in() const { return config_.rate[0]; }
  // From `now` on a GPU gets at most shares[t] bytes/s from tier t. Returns whether that changes any transfer's rate.
  bool SetShares(TimePs now, const TierRates& shares);

  void State(Archive& a) { a(lanes_, shares_, loading_, told_, now_, next_end_, slow_, outage_share_, outages_); }

  std::int64_t pending(int lane, Direction direction) const {
    return static_cast<std::int64_t>(lanes_[Index(lane, direction)].queue.size());
  }

 private:
  struct Transfer {
    __int128 left;  // bytes x 10^12
    std::int64_t cap;
    std::int64_t rate;
    std::int64_t ticket;
    bool background;
    Tier tier;
    int gpus;
  };
  struct Lane {
    std::deque<Transfer> queue;
    void State(Archive& a) { a(queue); }
  };
  static constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
  static std::size_t Index(int lane, Direction direction) {
    return static_cast<std::size_t>(lane) * 2 + static_cast<std::size_t>(direction);
  }
  void Advance(TimePs now);
  void Reprice();

  Config config_;
  double slow_ = 1;  // shares of the rate that are left
  double outage_share_ = 1;
  int outages_ = 0;
  std::vector<Lane> lanes_;
  TierRates shares_{kUnlimited, kUnlimited, kUnlimited};
  TierRates loading_{};
  TierRates told_{};  // of it, by LoadingChange
  TimePs now_ = 0;
  TimePs next_end_ = kNever;
};

// Divides what a node's tiers give, `rates` in all, among its links, after something on `link`, one of them, has begun or ended.
// `loading` is the caller's memory of how many GPUs were loading. Returns whether any link's transfers changed their rates.
bool ShareTiers(TimePs now, std::vector<Link>& links, std::span<const std::int32_t> of_node, std::int32_t link,
                const TierRates& rates, TierRates& loading);

}  // namespace poolsim
