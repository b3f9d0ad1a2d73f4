#include "sim/request_source.h"

#include "sim/rng.h"

namespace poolsim {
namespace {

bool SameBase(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

}  // namespace

std::int32_t ModelNames::Intern(std::string_view name, std::string_view base, bool* base_agrees) {
  if (slots_.size() < 2 * (models_.size() + 1)) {  // at most half full, so probes stay short and end
    slots_.assign(slots_.empty() ? 16 : 2 * slots_.size(), kNone);
    for (std::size_t i = 0; i < models_.size(); ++i) {
      std::size_t at = Hash64(models_[i].name) & (slots_.size() - 1);
      while (slots_[at] != kNone) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = static_cast<std::int32_t>(i);
    }
  }
  std::size_t at = Hash64(name) & (slots_.size() - 1);
  while (slots_[at] != kNone) {
    const Model& known = models_[static_cast<std::size_t>(slots_[at])];
    if (known.name == name) {
      if (base_agrees != nullptr) *base_agrees = base.empty() || SameBase(base, known.base);
      return slots_[at];
    }
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = static_cast<std::int32_t>(models_.size());
  models_.push_back({std::string(name), std::string(base)});
  if (base_agrees != nullptr) *base_agrees = true;
  return slots_[at];
}

// A slice may lie anywhere in a trace that is longer than a scenario can be.
constexpr double kMaxSliceSeconds = 1e10;

void WorkloadConfig::Describe(Fields& f) {
  f.Text("format", format, "trace format (`poolsim list formats`); auto: found from the header or the first line");
  f.Text("path", path, "trace file, plain, .gz or .zst, relative to the scenario's folder; this or source");
  f.Text("source", source, "generator of requests, such as poisson (`poolsim list formats`); this or path");
  f.Any("params", params, "parameters of the generator, or of a trace format that takes some (vidur: {rate: r})");
  f.Any("market", market, "a market of models: the params of the generator market; this, path or source");
  f.Text("model", model, "model of every request of a trace that names none; default \"model\"");
  f.Any("assign", assign,
        "{zipf: s, models: n}: deals the requests of a trace that names no model over model_0000 (the hottest) to n - 1");
  f.Real("from_s", from_s, "drops requests before this time of the trace [s]; times are then counted from here", 0,
         kMaxSliceSeconds);
  f.OptReal("to_s", to_s, "drops requests at or after this time of the trace [s]; the trace is not read further", 0,
            kMaxSliceSeconds);
  f.Real("rate_scale", rate_scale,
         "request rate relative to the trace: below 1 keeps each row with that probability, above 1 repeats rows; generators "
         "scale their rates",
         1e-6, 1e4);
  f.Real("time_scale", time_scale, "multiplies arrival times, after slicing; 2 halves the request rate", 1e-6, 1e6);
  f.Real("reorder_s", reorder_s, "rows of a trace that are late by up to this [s] are sorted in passing", 0, kMaxSeconds);
  f.Choice("on_bad_row", on_bad_row, "what a bad row of a trace does: fail stops, skip counts and reports it", {"fail", "skip"});
  f.Text("cache", cache,
         "file (.ptrace), relative to the scenario's folder: made from path where it is not there or not up to date, and read "
         "instead of it");
}

}  // namespace poolsim
