// What GPUs cost while they are owned: rented by the hour, or bought and fed.
//
//   rented   owned GPU-hours x fleet.gpu_price_per_hour, or the catalogue's price; energy is part of it
//   bought   owned GPU-hours x gpu_purchase_usd / (gpu_life_years x 8766 h) + energy x pue x energy_usd_per_kwh
//
// Energy is the most that the GPUs can have drawn: idle power while they are owned, and what is missing to board power while they
// do anything. Hosts, network and people are in neither way, unless the purchase price has its share of them.
#pragma once

#include <optional>

#include "sim/cost_model.h"
#include "sim/scenario.h"

namespace poolsim {

inline constexpr double kHoursPerYear = 8766;  // 365.25 days

// What one GPU costs while it is owned, without its energy [USD/h]. Empty where the scenario gives neither price and the
// catalogue none.
std::optional<double> GpuHourUsd(const FleetConfig& fleet, const GpuFacts& gpu);
// At most, of `owned` GPU-seconds with `busy` among them [kWh]. Empty where the catalogue has no power of the GPU.
std::optional<double> EnergyKwh(const GpuFacts& gpu, double owned, double busy);
// All of it [USD]. Empty where a figure that it takes is missing.
std::optional<double> OwnershipUsd(const FleetConfig& fleet, const GpuFacts& gpu, double owned, double busy);

// Throws InputError that names the GPU and the keys to set where OwnershipUsd would be empty. `fleet_path` is the fleet's place
// in `file`, "/fleet" or "/pools/0".
void RequireCost(const FleetConfig& fleet, const GpuFacts& gpu, const std::string& file, const std::string& fleet_path);

}  // namespace poolsim
