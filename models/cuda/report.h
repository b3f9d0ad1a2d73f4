// The measurement file (models/measurements.h) as poolsim-bench writes it.
#pragma once

#include <string>
#include <vector>

#include "models/cuda/device.h"
#include "models/cuda/measure.h"
#include "models/gpu_spec.h"
#include "models/llm_spec.h"

namespace poolsim::bench {

struct Measured {
  Case what;
  Timed timed;
};

// What a run was, beside its rows.
struct RunFacts {
  std::string engine;     // "poolsim-bench 0.1.0"
  std::string date;       // 2026-01-31
  std::string gpu;        // catalogue name
  bool gpu_known = true;  // false: the file carries an entry made of what was measured
  const LlmSpec* llm = nullptr;
  bool llm_known = true;  // false: the file carries the entry
  int tp = 1;
  bool quick = false;
  int distinct_layers = 0;  // see model.h; 0: no whole steps
  std::vector<std::string> left_out;
};

Json MeasurementJson(const RunFacts& run, const DeviceFacts& device, const std::vector<Measured>& rows);

// A catalogue entry for a device that has none. Peaks are the best rates seen: FLOP/s of any gemm, bytes/s of any gemm (weights),
// decode attention (KV cache) or copy within the device (read and written), and of copies from the host. They are lower than a
// data sheet's; efficiencies fitted against them are at most 1. Where a rate was not measured it is that of 1 byte/s (or FLOP/s).
GpuSpec SpecFromRows(const std::string& name, const DeviceFacts& device, const std::vector<Measured>& rows);

// The name that the catalogue has for a device as its driver calls it ("NVIDIA H100 80GB HBM3"); empty where there is none.
std::string CatalogueName(const std::string& device_name, std::int64_t memory_bytes);

// Writes the file by way of one beside it, so that it is there whole or not at all. Throws InputError where that is refused.
void WriteWhole(const std::string& path, const std::string& text);

}  // namespace poolsim::bench
