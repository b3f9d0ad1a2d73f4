// Where instances lie: node by node, each in the first node with room for it, or in whole nodes of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sim/ids.h"

namespace poolsim {

class NodePacking {
 public:
  explicit NodePacking(std::int64_t gpus_per_node)
      : per_node_(gpus_per_node), first_with_(static_cast<std::size_t>(gpus_per_node) + 1) {}

  struct Place {
    NodeId node;             // the first of them
    std::int64_t first_gpu;  // in it
  };
  // REQUIRES gpus <= GPUs of a node, or a multiple of them.
  Place Take(std::int64_t gpus) {
    const std::size_t end = room_.size();
    if (gpus > per_node_) {
      room_.resize(end + static_cast<std::size_t>(gpus / per_node_), 0);
      return {static_cast<NodeId>(end), 0};
    }
    std::size_t& at = first_with_[static_cast<std::size_t>(gpus)];
    while (at < end && room_[at] < gpus) ++at;
    if (at == end) room_.push_back(per_node_);
    const Place place{static_cast<NodeId>(at), per_node_ - room_[at]};
    room_[at] -= gpus;
    return place;
  }

  std::size_t nodes() const { return room_.size(); }
  // GPUs that are left over in all nodes but the last.
  std::int64_t Stranded() const {
    std::int64_t gpus = 0;
    for (std::size_t n = 0; n + 1 < room_.size(); ++n) gpus += room_[n];
    return gpus;
  }

 private:
  std::int64_t per_node_;
  std::vector<std::int64_t> room_;       // free GPUs by node
  std::vector<std::size_t> first_with_;  // by size: no earlier node has room for it
};

}  // namespace poolsim
