// What is known of a model's load before a run.
#pragma once

#include <cstdint>

namespace poolsim {

// Declared, from the generator, or from one pass over the trace.
struct Forecast {
  std::int64_t requests = 0;  // a generator's: the expected number, rounded
  double mean_rate = 0;       // requests/s over the whole workload
  double peak_rate = 0;       // requests/s in the busiest forecast window
  double mean_prompt = 0;     // tokens
  double mean_output = 0;     // tokens
  double mean_prompt2 = 0;    // mean square of the prompt lengths
};

}  // namespace poolsim
