// Self-registration by name. A policy, a trace format or a cost-model form is one file with one
//
//     const Register<PolicyEntry> kRegistered{{.name = "aegaeon", .help = "one line", ...}};
//
// and exists from then on: the command line lists it, tests iterate it, scenarios may name it. Names are unique; a
// second registration of one name ends the program before main.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace poolsim {

template <class Entry>
class Registry {
 public:
  static Registry& Get() {
    static Registry registry;
    return registry;
  }

  void Add(Entry entry) {
    if (Find(entry.name) != nullptr) {
      std::fprintf(stderr, "poolsim: \"%s\" is registered twice\n", std::string(entry.name).c_str());
      std::abort();
    }
    const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name > entry.name; });
    entries_.insert(at, std::move(entry));  // kept sorted: the order must not depend on the linker
  }

  // Null when there is none of that name.
  const Entry* Find(std::string_view name) const {
    for (const Entry& entry : entries_) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }

  const std::vector<Entry>& entries() const { return entries_; }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries_) names.emplace_back(entry.name);
    return names;
  }

 private:
  std::vector<Entry> entries_;
};

template <class Entry>
struct Register {
  explicit Register(Entry entry) { Registry<Entry>::Get().Add(std::move(entry)); }
};

}  // namespace poolsim
