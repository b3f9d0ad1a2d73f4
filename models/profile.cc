#include "models/profile.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <mutex>

#include <fmt/format.h>

#include "models/catalogue.h"
#include "sim/cost_model.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

const Json& Section(const Profile& profile, const std::string& form) {
  return form == "physics" ? profile.physics : profile.linear;
}

bool IsFile(const std::string& name) { return name.ends_with(".json"); }

// Pretty-printed, but what has only scalars in it is one line.
void Append(std::string& text, const Json& json, std::size_t indent) {
  constexpr std::size_t kWidth = 130;
  const auto scalar = [](const Json& j) { return !j.is_structured(); };
  if (scalar(json) || json.empty()) {
    text += json.dump();
    return;
  }
  if (std::all_of(json.begin(), json.end(), scalar)) {
    std::string line;
    for (const auto& [key, value] : json.items()) {
      line += (line.empty() ? "" : ", ") + (json.is_object() ? Json(key).dump() + ": " : std::string()) + value.dump();
    }
    if (line.size() + indent < kWidth) {
      text += (json.is_object() ? "{" : "[") + line + (json.is_object() ? "}" : "]");
      return;
    }
  }
  text += json.is_object() ? "{" : "[";
  bool first = true;
  for (const auto& [key, value] : json.items()) {
    text += (first ? "\n" : ",\n") + std::string(indent + 2, ' ');
    if (json.is_object()) text += Json(key).dump() + ": ";
    Append(text, value, indent + 2);
    first = false;
  }
  text += "\n" + std::string(indent, ' ') + (json.is_object() ? "}" : "]");
}

// Profiles from files, read once. A deque: references stay good.
const Profile& FromFile(const std::string& path) {
  static std::mutex mutex;
  static std::deque<Profile> read;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Profile& profile : read) {
    if (profile.file == path) return profile;
  }
  return read.emplace_back(ParseProfile(ReadWholeFile(path), path));
}

}  // namespace

void Profile::Describe(Fields& f) {
  f.Text("name", name, "the profile's name");
  f.Text("help", help, "one line");
  f.Text("source", source, "where the figures come from");
  f.Text("date", date, "when it was made");
  f.Any("physics", physics, "numbers of the physics form");
  f.Any("linear", linear, "numbers of the linear form");
  f.Any("errors", errors, "relative errors by form, split and phase");
  f.Any("provenance", provenance, "what it was made from");
}

Profile ParseProfile(std::string_view text, const std::string& file) {
  Profile profile;
  profile.file = file;
  ReadStruct(ParseJson(text, file), file, "", profile);
  if (profile.name.empty()) throw InputError(fmt::format("{}: /name: missing or empty; expected a text", file));
  if (profile.source.empty()) throw InputError(fmt::format("{}: /source: missing or empty; expected a text", file));
  if (profile.physics.is_null() && profile.linear.is_null()) {
    throw InputError(fmt::format("{}: /physics: missing, and /linear too; expected one of them", file));
  }
  return profile;
}

std::string ProfilePath(const std::string& name, const std::string& scenario_file) {
  if (!IsFile(name)) return name;
  return (std::filesystem::path(scenario_file).parent_path() / name).string();
}

const std::vector<Profile>& Profiles() {
  static const std::vector<Profile> profiles = [] {
    std::vector<Profile> all;
    for (const EmbeddedFile& file : EmbeddedIn("models/profiles/"))
      all.push_back(ParseProfile(file.text, std::string(file.path)));
    std::sort(all.begin(), all.end(), [](const Profile& a, const Profile& b) { return a.name < b.name; });
    return all;
  }();
  return profiles;
}

std::vector<std::string> ProfileNames(const std::string& form) {
  std::vector<std::string> names;
  for (const Profile& profile : Profiles()) {
    if (!Section(profile, form).is_null()) names.push_back(profile.name);
  }
  return names;
}

std::string ProfileText(const Profile& profile) {
  Json json = WriteStruct(profile);
  for (const char* key : {"physics", "linear", "errors", "provenance"}) {
    if (json[key].is_null()) json.erase(key);
  }
  std::string text;
  Append(text, json, 0);
  return text + "\n";
}

const Profile& FindProfile(const std::string& name, const std::string& form) {
  if (IsFile(name)) {
    const Profile& profile = FromFile(name);
    if (Section(profile, form).is_null()) {
      throw InputError(fmt::format("{}: /{}: missing: the profile has no numbers for this form", name, form));
    }
    return profile;
  }
  for (const Profile& profile : Profiles()) {
    if (profile.name == name && !Section(profile, form).is_null()) return profile;
  }
  throw InputError(UnknownName("profile", name, ProfileNames(form)) + ", or a file that ends in .json");
}

Json ProfileListing() {
  Json rows = Json::array();
  for (const Profile& profile : Profiles()) {
    Json row{{"name", profile.name}, {"forms", Json::array()}, {"gpus", Json::array()}};
    const auto add = [&](const char* form, const Json& section, const char* list) {
      if (section.is_null()) return;
      row["forms"].push_back(form);
      for (const Json& entry : section[list]) {
        const Json& gpu = entry["gpu"];
        if (std::find(row["gpus"].begin(), row["gpus"].end(), gpu) == row["gpus"].end()) row["gpus"].push_back(gpu);
      }
    };
    add("physics", profile.physics, "gpus");
    add("linear", profile.linear, "models");
    row["help"] = profile.help;
    row["source"] = profile.source;
    row["date"] = profile.date;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace poolsim
