// What fails in a pool, and when: GPUs, nodes, hosts' weight caches and uplinks, by chance or from a list; drains; stragglers.
//
// A component runs for a time and is then away for a time, again and again, whatever the simulation does: draw n of a component
// is a pure function of (seed, pool, kind, number, n). So every policy sees the same failures, on any number of threads, and
// another component's law changes nothing. Components are numbered in their pool: GPU g is the GPU number g modulo gpus_per_node
// of node g / gpus_per_node, and an uplink has the number of its first GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/archive.h"
#include "sim/fields.h"
#include "sim/time.h"

namespace poolsim {

// Weibull times; of shape 1 they are exponential, below it failures come in clusters, far above it they are all but constant.
struct OutageLaw {
  std::optional<double> mtbf_s;  // mean time from a return to the next failure, of one component; not set: it never fails
  double shape = 1;
  double repair_s = 600;  // mean time from a failure to the return
  double repair_shape = 1;
  void Describe(Fields& f);
};

struct LinkOutageLaw : OutageLaw {
  double factor = 0.1;  // of its rate that an uplink keeps meanwhile
  void Describe(Fields& f);
};

// Drawn once for each GPU and uplink. An instance steps as its slowest GPU does.
struct StragglerConfig {
  double fraction = 0;  // of GPUs
  double slowdown = 1.5;
  double link_fraction = 0;
  double link_slowdown = 2;
  void Describe(Fields& f);
};

// From at_s on the instances of these nodes get no new requests, and what waits there goes elsewhere. What still runs grace_s
// later is treated as by a failure; then the nodes are away for for_s.
struct DrainConfig {
  double at_s = 0;
  double grace_s = 60;
  double for_s = 600;
  std::int64_t first_node = 0;
  std::int64_t nodes = 1;
  void Describe(Fields& f);
};

enum class FailureKind : std::uint8_t { kGpu, kNode, kCache, kLink, kDrain };
inline constexpr int kFailureKinds = 5;
const char* FailureKindName(FailureKind kind);

struct ListedOutage {
  FailureKind kind = FailureKind::kGpu;
  std::int64_t number = 0;
  TimePs at = 0;
  TimePs lasts = 0;
};

struct FailuresConfig {
  OutageLaw gpus;
  OutageLaw nodes;
  OutageLaw caches;
  LinkOutageLaw links;
  std::string file;  // a list of outages
  std::string in_flight = "recompute";
  std::int64_t max_retries = 10;
  StragglerConfig stragglers;
  std::vector<DrainConfig> drains;

  std::vector<ListedOutage> listed;  // what `file` says
  std::int64_t first_gpu = 0;        // no setting: where in its pool a part begins that planning runs on its own
  void Describe(Fields& f);

  bool Any() const {
    return gpus.mtbf_s || nodes.mtbf_s || caches.mtbf_s || links.mtbf_s || !file.empty() || !drains.empty() ||
           stragglers.fraction > 0 || stragglers.link_fraction > 0;
  }
};

// Rows "at_s,what,which,for_s" below a header that says so; what: gpu, node, cache or link; which: its number. A row for
// something that a pool does not have is one for nothing. Throws InputError that names file and line.
std::vector<ListedOutage> ReadOutages(const std::string& path);

// Whether GPU or uplink `number` of the pool is a straggler.
bool IsStraggler(std::uint64_t seed, const std::string& pool, FailureKind kind, std::int64_t number, double fraction);

// What happens to the components of one engine, in order of time; of simultaneous ones in the order in which they were added.
class Outages {
 public:
  enum class Change : std::uint8_t { kDrain, kDown, kUp };
  struct Event {
    FailureKind kind;
    std::int32_t index;  // the engine's, as it was added
    Change change;
  };

  Outages() = default;
  Outages(const FailuresConfig& config, std::uint64_t seed, std::string pool);

  // `number` is the component's in the pool, `index` what the engine knows it by. Nodes bring their drains with them.
  void Add(FailureKind kind, std::int64_t number, std::int32_t index);
  TimePs next() const { return heap_.empty() ? kNever : heap_.front().at; }
  // REQUIRES next() != kNever.
  Event Take();
  void State(Archive& a) { a(components_, heap_); }

 private:
  struct Component {
    FailureKind kind;
    std::int32_t index;
    std::int64_t number;
    bool drawn;           // else listed: it happens once
    Change next;          // what comes next
    std::uint64_t draws;  // so far
    TimePs grace;         // of what is listed
    TimePs lasts;
  };
  struct Entry {
    TimePs at;
    std::int32_t component;
  };
  static bool After(const Entry& x, const Entry& y) { return x.at > y.at || (x.at == y.at && x.component > y.component); }
  void Push(TimePs at, TimePs wait, std::int32_t component);
  const OutageLaw& LawOf(FailureKind kind) const;
  TimePs Draw(Component& c, double mean_s, double shape, bool first) const;

  FailuresConfig config_;
  std::uint64_t seed_ = 0;
  std::string pool_;
  std::vector<Component> components_;
  std::vector<Entry> heap_;
};

}  // namespace poolsim
