// A PCIe uplink and its copy engines: one transfer at a time per instance and direction, first in first out, but for background
// transfers (prefetched weights): those stand back, also in the middle, while anything else of their direction is there.
//
// Transfers that are active in one direction share the link's rate equally; each has a cap of its own (the tier it reads from).
// While both directions of an instance are busy, each keeps only a share of its rate: measured on A100 with PCIe 4, 25-26 GB/s
// one way become 11-13 in and 24-25 out. Progress is kept in bytes x 10^12, so that it is exact in integers.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "sim/ids.h"
#include "sim/time.h"

namespace poolsim {

enum class Direction : std::uint8_t { kIn = 0, kOut = 1 };  // host to GPU, GPU to host

class Link {
 public:
  struct Config {
    std::int64_t rate[2] = {1, 1};       // bytes/s per direction
    double both_ways_share[2] = {1, 1};  // share that is left while the instance's other direction is busy
  };

  // `lanes`: instances on this link.
  Link(const Config& config, int lanes) : config_(config), lanes_(static_cast<std::size_t>(lanes) * 2) {}

  // Queues a transfer of `bytes` > 0, capped at `cap` bytes/s; `ticket` comes back from PopFinished.
  void Add(TimePs now, int lane, Direction direction, std::int64_t bytes, std::int64_t cap, std::int64_t ticket,
           bool background = false);
  // When the next transfer ends; kNever when none is active.
  TimePs next_end() const { return next_end_; }
  // The ticket of a transfer that has ended by `now`, or -1.
  std::int64_t PopFinished(TimePs now);

  // Forgets a transfer that is queued or under way.
  void Cancel(TimePs now, std::int64_t ticket);

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
  };
  struct Lane {
    std::deque<Transfer> queue;
  };
  static std::size_t Index(int lane, Direction direction) {
    return static_cast<std::size_t>(lane) * 2 + static_cast<std::size_t>(direction);
  }
  void Advance(TimePs now);
  void Reprice();

  Config config_;
  std::vector<Lane> lanes_;
  TimePs now_ = 0;
  TimePs next_end_ = kNever;
};

}  // namespace poolsim
