#include "models/gpu_spec.h"

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxBytes = std::int64_t{1} << 50;
constexpr std::int64_t kMaxGroup = 1024;

[[noreturn]] void Refuse(const std::string& file, const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}: {}", file, path, what));
}

void RequirePositive(const std::string& file, const char* key, double value) {
  if (!(value > 0)) Refuse(file, fmt::format("/{}", key), "missing or zero; expected a positive number");
}

void RequireText(const std::string& file, const char* key, const std::string& value) {
  if (value.empty()) Refuse(file, fmt::format("/{}", key), "missing or empty; expected a text");
}

}  // namespace

void AllReduceFit::Describe(Fields& f) {
  f.Int("gpus", gpus, "GPUs in the group", 2, kMaxGroup);
  f.Real("latency_us", latency_us, "time of an empty all-reduce [us]", 0, 1e6);
  f.Real("gb_per_s", gb_per_s, "bytes of the tensor per second beyond that [1e9/s]", 0, 1e6);
}

void GpuSpec::Describe(Fields& f) {
  f.Text("name", name, "catalogue name");
  f.Texts("aliases", aliases, "other names");
  f.Text("title", title, "the product's name");
  f.Int("memory_bytes", memory_bytes, "memory [bytes]", 0, kMaxBytes);
  f.Int("hbm_bytes_per_s", hbm_bytes_per_s, "peak memory bandwidth [bytes/s]", 0, kMaxBytes);
  f.Int("multiprocessors", multiprocessors, "streaming multiprocessors (compute units); 0: not known", 0, 100'000);
  f.Real("bf16_flops", bf16_flops, "peak dense BF16 rate [FLOP/s]", 0, 1e18);
  f.OptReal("fp8_flops", fp8_flops, "peak dense FP8 rate [FLOP/s]", 0, 1e18);
  f.OptReal("int8_flops", int8_flops, "peak dense INT8 rate [OP/s]", 0, 1e18);
  f.Int("nvlink_bytes_per_s", nvlink_bytes_per_s, "NVLink per direction [bytes/s]; 0: none", 0, kMaxBytes);
  f.Int("pcie_bytes_per_s", pcie_bytes_per_s, "PCIe per direction [bytes/s]", 0, kMaxBytes);
  f.NestedList("all_reduce", all_reduce, "all-reduce by group size, ascending");
  f.Text("all_reduce_source", all_reduce_source, "where the all-reduce figures come from");
  f.Text("source", source, "where the other figures come from");
  f.OptReal("board_power_w", board_power_w, "most that the board draws [W]", 0, 1e5);
  f.OptReal("idle_power_w", idle_power_w, "drawn with a context and no work [W]", 0, 1e5);
  f.Text("power_source", power_source, "where the power figures come from");
  f.OptReal("price_per_hour", price_per_hour, "price of one GPU hour [USD]", 0, 1e6);
  f.Text("price_source", price_source, "where the price comes from");
}

const AllReduceFit* GpuSpec::AllReduce(int gpus) const {
  for (const AllReduceFit& fit : all_reduce) {
    if (fit.gpus >= gpus) return &fit;
  }
  return nullptr;
}

GpuSpec ParseGpu(std::string_view text, const std::string& file) {
  GpuSpec gpu;
  ReadStruct(ParseJson(text, file), file, "", gpu);
  RequireText(file, "name", gpu.name);
  RequireText(file, "source", gpu.source);
  RequirePositive(file, "memory_bytes", static_cast<double>(gpu.memory_bytes));
  RequirePositive(file, "hbm_bytes_per_s", static_cast<double>(gpu.hbm_bytes_per_s));
  RequirePositive(file, "bf16_flops", gpu.bf16_flops);
  RequirePositive(file, "pcie_bytes_per_s", static_cast<double>(gpu.pcie_bytes_per_s));
  if (gpu.board_power_w || gpu.idle_power_w) RequireText(file, "power_source", gpu.power_source);
  if (gpu.board_power_w && gpu.idle_power_w && *gpu.idle_power_w > *gpu.board_power_w) {
    Refuse(file, "/idle_power_w",
           fmt::format("found {}; expected at most board_power_w, {}", *gpu.idle_power_w, *gpu.board_power_w));
  }
  if (gpu.price_per_hour) RequireText(file, "price_source", gpu.price_source);
  if (!gpu.all_reduce.empty()) RequireText(file, "all_reduce_source", gpu.all_reduce_source);
  std::int64_t last = 1;
  for (std::size_t i = 0; i < gpu.all_reduce.size(); ++i) {
    const AllReduceFit& fit = gpu.all_reduce[i];
    const std::string path = fmt::format("/all_reduce/{}/", i);
    if (fit.gpus <= last) Refuse(file, path + "gpus", fmt::format("found {}; expected more than {}", fit.gpus, last));
    if (!(fit.gb_per_s > 0)) Refuse(file, path + "gb_per_s", "missing or zero; expected a positive number");
    last = fit.gpus;
  }
  return gpu;
}

}  // namespace poolsim
