// A results folder as the report reads it: what its manifest lists, and nothing else.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "report/csv.h"
#include "sim/fields.h"

namespace poolsim {

class ReportFolder {
 public:
  // `folder` is also how messages call it. Throws InputError when it is no results folder, one of a later version than `version`,
  // or one whose manifest names files outside of it.
  ReportFolder(const std::string& folder, const std::string& version);
  // One that is still being written, without its manifest.json: its files are in `path` now.
  ReportFolder(const std::string& folder, const std::string& path, Json manifest);

  const std::string& name() const { return folder_; }
  const Json& manifest() const { return manifest_; }
  bool Lists(std::string_view file) const;
  // The folders below it that hold such a file, in the order of the manifest.
  std::vector<std::string> FoldersWith(std::string_view file) const;

  // These throw InputError: the manifest does not list the file, or it is not there, or is a link to outside.
  std::string Read(const std::string& file) const;
  Json ReadJson(const std::string& file) const;
  // Nothing where the manifest does not list it: older folders hold less.
  std::optional<Json> JsonIfListed(const std::string& file) const;
  std::optional<std::string> TextIfListed(const std::string& file) const;
  std::string PathOf(const std::string& file) const { return path_ + "/" + file; }

 private:
  void CheckManifest(const std::string& version) const;
  void TakeFiles();

  std::string folder_;
  std::string path_;
  Json manifest_;
  std::vector<std::string> files_;
};

// A value of a JSON file that the page needs, at a JSON pointer. Throws InputError where it is absent or not what `is` accepts.
const Json& Need(const Json& root, const std::string& file, const std::string& pointer, bool (Json::*is)() const noexcept,
                 std::string_view expected);

}  // namespace poolsim
