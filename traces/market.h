// Market templates, for listings. The generator itself is reached through OpenWorkload: {"market": {...}}.
#pragma once

#include "sim/fields.h"

namespace poolsim {

// Rows for `poolsim list templates`, in the order of their names: {name, description, sources, assumptions, market}. The last is
// the template as written, the default of every key of workload.market.
Json TemplateListing();

}  // namespace poolsim
