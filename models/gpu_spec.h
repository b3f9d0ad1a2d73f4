// A GPU as its data sheet describes it, with measured all-reduces.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/fields.h"

namespace poolsim {

// An all-reduce of `bytes` among `gpus` GPUs of one node takes latency_us + bytes / gb_per_s, with `bytes` the size of the tensor
// on each GPU.
struct AllReduceFit {
  std::int64_t gpus = 0;
  double latency_us = 0;
  double gb_per_s = 0;  // decimal: 1e9 bytes/s

  void Describe(Fields& f);
};

struct GpuSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::string title;
  std::int64_t memory_bytes = 0;     // all of it; what the CUDA context and activations take is the scenario's reserve
  std::int64_t hbm_bytes_per_s = 0;  // peak
  std::int64_t multiprocessors =
      0;                  // streaming multiprocessors, compute units or cores that work on tiles; 0: not known, or no tiles
  double bf16_flops = 0;  // peak, dense (without sparsity), FLOP/s; fp16 runs at the same rate
  std::optional<double> fp8_flops;       // as bf16_flops; not set where the GPU has no FP8
  std::optional<double> int8_flops;      // as bf16_flops, integer operations; not set where the GPU has no INT8 matrix units
  std::int64_t nvlink_bytes_per_s = 0;   // GPU to GPU, per direction: half of the figure vendors print; 0: over PCIe only
  std::int64_t pcie_bytes_per_s = 0;     // GPU to host, per direction
  std::vector<AllReduceFit> all_reduce;  // ascending in gpus
  std::string all_reduce_source;
  std::optional<double> board_power_w;  // the most that the board draws (TDP)
  std::optional<double> idle_power_w;   // powered on, with a context, without work
  std::string power_source;
  std::optional<double> price_per_hour;  // [USD], a default that a scenario may override
  std::string price_source;
  std::string source;

  void Describe(Fields& f);
  // The fit for the smallest group that holds `gpus` GPUs (3 GPUs pay as 4 do); null where none is large enough.
  const AllReduceFit* AllReduce(int gpus) const;
};

// Parses and checks one entry; `file` names it in messages. Throws InputError: unknown keys, missing or impossible values.
GpuSpec ParseGpu(std::string_view text, const std::string& file);

}  // namespace poolsim
