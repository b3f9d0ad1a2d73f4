// Fits the forms of the cost model to measured latencies, and says how far predictions are off on points that a fit has not seen.
//
// Physics: per GPU, the efficiencies, the loss of a last wave, the KV floor and the host's times (where steps were launched as
// graphs, none per layer), by Levenberg-Marquardt in their logarithms (so none is negative, and efficiencies stay at or below 1)
// on the logarithm of predicted / measured time (relative error), with a soft-L1 loss at 3 % (so that outliers pull with their
// number, not their size). A weak prior on each, worth nine measurements at one standard deviation, settles what the data do not
// tell; the priors stand in calibrate.cc. Every number comes with a 95 % confidence interval about the fit, of the width that the
// data alone give it, and is called not identified where that is wider than a factor of 1.6 either way, or where the data do not
// object to a number that much larger or smaller. Attention is tied to GEMM efficiency (0.5 of compute, 0.8 of memory) unless
// rows of attention kernels were measured. Mixtures of experts have a host time per layer and an efficiency of their own, fitted
// with everything else held.
//
// Linear: per (LLM, GPU, TP degree), non-negative least squares of relative errors, reweighted against outliers.
//
// Splits, whose errors go into the profile (models/profile.h): in_sample; held_out: one third of the points left out at random,
// mean over five seeded splits; leave_one_model_out: every LLM predicted on each GPU by a fit to the others there, its kernels
// left out too; leave_one_gpu_out: every GPU predicted with the geometric mean of the other GPUs' numbers, priors where nothing
// else is known; batch_extrapolation: batches above 64 from those of at most 64; token_extrapolation: steps of more than 1,024
// tokens (prefill: prompt tokens; decode: context) from the others. A split that leaves a fit without data has no points there.
// Mixtures of experts are reported apart, under errors.physics.moe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/measurements.h"
#include "models/profile.h"

namespace poolsim {

struct CalibrationOptions {
  std::uint64_t seed = 1;
  int splits = 5;  // held out
  std::string name = "calibrated";
  std::string date;  // YYYY-MM-DD
};

struct ErrorStats {
  double median_pct = 0;
  double p90_pct = 0;
  double max_pct = 0;
  std::int64_t points = 0;
};

// A row of the error table.
struct ErrorRow {
  std::string form;   // physics | linear
  std::string group;  // "all", "moe", a GPU's name, or an LLM's
  std::string split;
  std::string phase;  // prefill | decode | mixed
  ErrorStats stats;
};

// A fitted number with its 95 % confidence interval from the data alone.
struct FittedNumber {
  std::string gpu;
  std::string name;
  double value = 0;
  double low = 0;
  double high = 0;  // infinite: no upper bound
  bool identified = false;
};

// Measured against predicted, in sample, physics form.
struct PlotPoint {
  std::string gpu, llm, phase;
  std::int64_t batch = 0;
  double measured_s = 0;
  double predicted_s = 0;
};

struct Calibration {
  Profile profile;
  std::vector<ErrorRow> errors;  // by form, group, split, phase
  std::vector<FittedNumber> numbers;
  std::vector<PlotPoint> plot;
  std::vector<GpuSpec> gpu_specs;    // of GPUs that the catalogue lacks
  std::vector<LlmSpec> llm_specs;    // and of LLMs
  std::vector<std::string> remarks;  // what was not used, what fits badly, what copies say of switches
};

// Throws InputError when there is nothing to fit.
Calibration Calibrate(const std::vector<MeasurementFile>& files, const CalibrationOptions& options);

}  // namespace poolsim
