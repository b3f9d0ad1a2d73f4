// Which instances take requests.
#pragma once

#include <algorithm>
#include <vector>

#include "sim/policy.h"

namespace poolsim {

// Of `all` those that are up, or all of them when none is; in the same order. `scratch` holds them.
inline const std::vector<InstanceId>& UpOf(const std::vector<InstanceId>& all, const ClusterView& view,
                                           std::vector<InstanceId>& scratch) {
  if (view.down() == 0) return all;
  scratch.clear();
  std::copy_if(all.begin(), all.end(), std::back_inserter(scratch), [&view](InstanceId i) { return view.up(i); });
  return scratch.empty() ? all : scratch;
}

}  // namespace poolsim
