#include "sim/ownership.h"

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {

std::optional<double> GpuHourUsd(const FleetConfig& fleet, const GpuFacts& gpu) {
  if (fleet.gpu_purchase_usd) return *fleet.gpu_purchase_usd / (*fleet.gpu_life_years * kHoursPerYear);
  return fleet.gpu_price_per_hour ? fleet.gpu_price_per_hour : gpu.price_per_hour;
}

std::optional<double> EnergyKwh(const GpuFacts& gpu, double owned, double busy) {
  if (!gpu.board_power_w || !gpu.idle_power_w) return std::nullopt;
  return (owned * *gpu.idle_power_w + busy * (*gpu.board_power_w - *gpu.idle_power_w)) / 3.6e6;
}

std::optional<double> OwnershipUsd(const FleetConfig& fleet, const GpuFacts& gpu, double owned, double busy) {
  const std::optional<double> hour = GpuHourUsd(fleet, gpu);
  if (!hour) return std::nullopt;
  const double usd = owned / 3600 * *hour;
  if (!fleet.energy_usd_per_kwh) return usd;
  const std::optional<double> energy = EnergyKwh(gpu, owned, busy);
  if (!energy) return std::nullopt;
  return usd + *energy * fleet.pue * *fleet.energy_usd_per_kwh;
}

void RequireCost(const FleetConfig& fleet, const GpuFacts& gpu, const std::string& file, const std::string& fleet_path) {
  if (!GpuHourUsd(fleet, gpu)) {
    throw InputError(fmt::format(
        "{}: {}: the catalogue has no price of GPU \"{}\"; expected gpu_price_per_hour [USD], or gpu_purchase_usd and "
        "gpu_life_years",
        file, fleet_path, gpu.name));
  }
  if (!OwnershipUsd(fleet, gpu, 1, 1)) {
    throw InputError(fmt::format(
        "{}: {}/energy_usd_per_kwh: the catalogue entry of GPU \"{}\" has no power figures; expected board_power_w and "
        "idle_power_w in the entry, or no price of energy",
        file, fleet_path, gpu.name));
  }
}

}  // namespace poolsim
