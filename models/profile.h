// A profile: what measurements of an engine on some GPUs came to, in the numbers of the forms that they were fitted to. One JSON
// file; those of models/profiles/ are compiled in, and `poolsim calibrate` writes more.
//
//     {"name": ..., "help": one line, "source": where the figures come from, "date": "2026-01-31",
//      "physics": {...}, "linear": {...}, "errors": {...}, "provenance": {...}}
//
// A form's section is there when the profile has numbers for it. `errors` is errors.<form>.<split>.<phase>.{median_pct, p90_pct,
// max_pct, points}, with split one of in_sample, held_out, leave_one_model_out, leave_one_gpu_out, batch_extrapolation,
// token_extrapolation, and phase one of prefill, decode, mixed. Mixtures of experts stand apart in errors.physics.moe, and the
// same table per GPU and per LLM in errors.<form>.by_gpu and by_llm.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/fields.h"

namespace poolsim {

struct Profile {
  std::string name;
  std::string help;
  std::string source;
  std::string date;
  Json physics;  // null: none
  Json linear;
  Json errors;
  Json provenance;
  std::string file;  // where it was read from, for messages

  void Describe(Fields& f);
};

// Those of models/profiles/, ordered by name.
const std::vector<Profile>& Profiles();
// Names of the profiles that have numbers for `form` ("physics" or "linear").
std::vector<std::string> ProfileNames(const std::string& form);
// By name, or from a file when the name ends in .json (read once; the reference lives as long as the program). Throws InputError:
// an unknown name, a file that cannot be read, no numbers for `form`.
const Profile& FindProfile(const std::string& name, const std::string& form);

// A profile's name as FindProfile takes it: one that ends in .json is a path that starts from the folder of `scenario_file`.
std::string ProfilePath(const std::string& name, const std::string& scenario_file);

// As a file: members without parts of their own stay on one line.
std::string ProfileText(const Profile& profile);

Profile ParseProfile(std::string_view text, const std::string& file);

}  // namespace poolsim
