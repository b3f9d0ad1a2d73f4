// Index types. All are dense: an id is a position in an array.
#pragma once

#include <cstdint>

namespace poolsim {

using ModelId = std::int32_t;     // position in the scenario's model table; models of one pool share one numbering
using InstanceId = std::int32_t;  // position among the pool's instances
using NodeId = std::int32_t;      // position among the pool's hosts
using ShapeId = std::int32_t;     // position among the shapes that the pool's prices know
using RequestId = std::int32_t;   // slot in the request table; reused after the request is gone

inline constexpr std::int32_t kNone = -1;

}  // namespace poolsim
