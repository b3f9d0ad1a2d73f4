// Files of the project that are compiled into the executable: the catalogue, the market templates, the quickstart scenario, and
// what else CMakeLists.txt names.
#pragma once

#include <string_view>
#include <vector>

namespace poolsim {

struct EmbeddedFile {
  std::string_view path;  // below the project's root, such as "models/gpus/h100.json"
  std::string_view text;
};

const std::vector<EmbeddedFile>& EmbeddedFiles();
// Those directly below `folder` ("models/profiles/"), ordered by path.
std::vector<EmbeddedFile> EmbeddedIn(std::string_view folder);

}  // namespace poolsim
