#include "sim/embedded.h"

#include <algorithm>

namespace poolsim {

std::vector<EmbeddedFile> EmbeddedIn(std::string_view folder) {
  std::vector<EmbeddedFile> files;
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.path.substr(0, folder.size()) == folder && file.path.find('/', folder.size()) == std::string_view::npos) {
      files.push_back(file);
    }
  }
  std::sort(files.begin(), files.end(), [](const EmbeddedFile& a, const EmbeddedFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace poolsim
