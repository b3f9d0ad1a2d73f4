#include "report/folder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/foreign.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

// "1.2.3" as numbers.
std::optional<std::array<int, 3>> VersionOf(std::string_view text) {
  std::array<int, 3> parts{};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && (at == end || *at++ != '.')) return std::nullopt;
    const auto [next, error] = std::from_chars(at, end, parts[i]);
    if (error != std::errc()) return std::nullopt;
    at = next;
  }
  return at == end ? std::optional(parts) : std::nullopt;
}

bool StaysInside(const std::string& file) {
  const fs::path path(file);
  return !file.empty() && path.is_relative() && file.find('\0') == std::string::npos && file.find('\\') == std::string::npos &&
         std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".." || part == "." || part.empty(); });
}

}  // namespace

ReportFolder::ReportFolder(const std::string& folder, const std::string& version) : folder_(folder) {
  while (folder_.size() > 1 && folder_.back() == '/') folder_.pop_back();
  path_ = folder_;
  std::error_code error;
  if (!fs::is_directory(folder_, error)) {
    throw InputError(fmt::format("{}: {}; expected a results folder, as --out writes it", folder_,
                                 fs::exists(folder_, error) ? "it is no folder" : "there is no such folder"));
  }
  const std::string path = PathOf("manifest.json");
  if (!fs::is_regular_file(path, error)) {
    throw InputError(fmt::format("{}: there is no such file; {} is no results folder, or an incomplete one", path, folder_));
  }
  manifest_ = ParseJson(ReadWholeFile(path), path);
  CheckManifest(version);
  TakeFiles();
}

ReportFolder::ReportFolder(const std::string& folder, const std::string& path, Json manifest)
    : folder_(folder), path_(path), manifest_(std::move(manifest)) {
  TakeFiles();
}

void ReportFolder::CheckManifest(const std::string& version) const {
  const std::string path = PathOf("manifest.json");
  Need(manifest_, path, "/poolsim_version", &Json::is_string, "a version: the file is not one of poolsim's");
  const std::string found = manifest_["poolsim_version"];
  const auto theirs = VersionOf(found);
  if (!theirs) {
    throw InputError(
        fmt::format("{}: /poolsim_version: found \"{}\"; expected a version such as {}", path, ForMessage(found), version));
  }
  if (*theirs > VersionOf(version)) {
    throw InputError(
        fmt::format("{}: /poolsim_version: the folder was written by poolsim {}; this is {}, which may not know "
                    "all that is in it",
                    path, found, version));
  }
}

void ReportFolder::TakeFiles() {
  const std::string path = PathOf("manifest.json");
  const Json& files = Need(manifest_, path, "/files", &Json::is_array, "the list of the folder's files");
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!files[i].is_string() || !StaysInside(files[i].get<std::string>())) {
      throw InputError(fmt::format("{}: /files/{}: found {}; expected a file inside the folder", path, i,
                                   ForMessage(files[i].dump(-1, ' ', false, Json::error_handler_t::replace))));
    }
    files_.push_back(files[i]);
  }
}

bool ReportFolder::Lists(std::string_view file) const { return std::find(files_.begin(), files_.end(), file) != files_.end(); }

std::vector<std::string> ReportFolder::FoldersWith(std::string_view file) const {
  std::vector<std::string> folders;
  for (const std::string& listed : files_) {
    const std::size_t slash = listed.rfind('/');
    if (slash != std::string::npos && std::string_view(listed).substr(slash + 1) == file) {
      folders.push_back(listed.substr(0, slash));
    }
  }
  return folders;
}

std::string ReportFolder::Read(const std::string& file) const {
  const std::string path = PathOf(file);
  if (!Lists(file)) throw InputError(fmt::format("{}: the folder's manifest.json does not list it", path));
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw InputError(fmt::format("{}: the folder's manifest.json lists it, but there is no such file", path));
  }
  const fs::path inside = fs::canonical(path_, error);
  const fs::path real = fs::canonical(path, error);
  if (std::mismatch(inside.begin(), inside.end(), real.begin(), real.end()).first != inside.end()) {
    throw InputError(fmt::format("{}: it is a link to {}, outside of the folder", path, real.string()));
  }
  return ReadWholeFile(path);
}

Json ReportFolder::ReadJson(const std::string& file) const { return ParseJson(Read(file), PathOf(file)); }

std::optional<Json> ReportFolder::JsonIfListed(const std::string& file) const {
  return Lists(file) ? std::optional(ReadJson(file)) : std::nullopt;
}

std::optional<std::string> ReportFolder::TextIfListed(const std::string& file) const {
  return Lists(file) ? std::optional(Read(file)) : std::nullopt;
}

const Json& Need(const Json& root, const std::string& file, const std::string& pointer, bool (Json::*is)() const noexcept,
                 std::string_view expected) {
  const Json::json_pointer at(pointer);
  if (!root.contains(at)) throw InputError(fmt::format("{}: {}: it is missing; expected {}", file, pointer, expected));
  const Json& value = root.at(at);
  if (!(value.*is)()) {
    throw InputError(fmt::format("{}: {}: found {}; expected {}", file, pointer,
                                 ForMessage(value.dump(-1, ' ', false, Json::error_handler_t::replace)), expected));
  }
  return value;
}

}  // namespace poolsim
