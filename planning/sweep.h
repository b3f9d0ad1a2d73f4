// A scenario under many settings: which points a design consists of, what one run of a point gives, and the table of all.
//
// A point is a value for every varied setting, and a policy where several are asked for; its replication r has the scenario's
// seed
// + r. A run is one replication of a point. Runs are numbered point by point and may be made in any order, by anybody: what one
// gives is a text, and the table is made of the texts alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "planning/values.h"
#include "sim/fields.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace poolsim {

// A setting and its values: a list, or all of a range, from which a Latin hypercube draws.
struct VariedSetting {
  std::string path;  // as --set takes it
  std::vector<Json> values;
  std::optional<ValueRange> range;
};
// "path=A,B,C", "path=LOW..HIGH:N" (N values, both ends included, by equal factors where the ends are more than a factor of 4
// apart) or "path=LOW..HIGH". Whole numbers where both ends are whole and the setting of `resolved` (a resolved scenario) is, or
// is not set. Throws InputError that begins with --vary.
VariedSetting ParseVaried(const std::string& text, const Json& resolved);

struct SweepDesign {
  enum class Kind : std::uint8_t {
    kCartesian,       // every combination; the last setting changes fastest
    kZip,             // the first values together, then the second ones
    kLatinHypercube,  // `points` points; see below
  };
  Kind kind = Kind::kCartesian;
  std::size_t points = 0;
};
// "cartesian", "zip" or "lhs:N". Throws InputError.
SweepDesign ParseDesign(const std::string& text);

// The values of every point, by setting. Throws InputError when the settings do not fit the design, are given twice, or make more
// than 10,000 points.
//
// A Latin hypercube of N points cuts each range, on its own scale, into N equal bins and has one point in each, at a random place
// in it, in an order that is random for each setting; a list counts as a range of equal parts, one a value. The draws are the
// stream (seed, "sweep", path): a setting keeps its values when another one is added.
std::vector<std::vector<Json>> DesignPoints(const SweepDesign& design, const std::vector<VariedSetting>& varied,
                                            std::uint64_t seed);

struct SweepOptions {
  std::vector<std::string> vary;  // as typed
  SweepDesign design;
  std::vector<std::string> policies;  // each point under each of these; empty: the scenario's own
  int replications = 1;
};

class Sweep {
 public:
  // The scenario with these assignments ("path=value") on top of those that it has anyway.
  using Loader = std::function<Scenario(const std::vector<std::string>& assignments)>;

  // Loads every point. Throws InputError that names --vary and the point when a path does not exist, a value is refused or a
  // workload cannot be opened.
  Sweep(const Loader& load, const SweepOptions& options);

  const Scenario& base() const { return base_; }  // nothing varied
  std::size_t points() const { return points_.size(); }
  std::size_t runs() const { return points_.size() * static_cast<std::size_t>(replications_); }
  // "fleet.gpus=8 aegaeon", and "#2" for the second replication.
  std::string Label(std::size_t run) const;
  // What a journal of this sweep belongs to, besides the program's version: hashes of the scenario, of the files it names (by
  // their size and time of change), and of the points.
  Json Identity() const;
  // The design for a manifest.
  Json DesignJson() const;

  // The summary of a run as one line of JSON; what depends on the machine (wall_s, peak_rss_mb) is left out. `status` is
  // infeasible when the policy cannot place the models, and failed when anything else is wrong with the point; policy, status and
  // reason are then all. `surveyed` gets the number of requests before the run, and may be null.
  std::string Run(std::size_t run, const RunOptions& options, const std::function<void(std::int64_t requests)>& surveyed) const;
  // Throws InputError when a text, which a file may have kept, is none that Run gives.
  void CheckText(std::size_t run, const std::string& text) const;

 private:
  friend struct SweepTable;
  struct Point {
    std::vector<Json> values;
    Scenario scenario;
  };

  Scenario base_;
  SweepOptions options_;
  std::vector<VariedSetting> varied_;
  std::vector<Point> points_;
  int replications_ = 1;
  bool failing_ = false;  // of some point something may fail
};

// A row per point. Columns: the varied settings, then the keys of summary.json joined with dots, as in compare.csv. With several
// replications every number is their mean and is followed by KEY.ci_low and KEY.ci_high, its 95 % confidence interval, a
// fingerprint is over those of all, and a point of which one replication could not be run counts as one that could not. Cells
// that a point has no value for are null.
struct SweepTable {
  // `texts`: what the runs gave, in order. Throws InputError as CheckText.
  SweepTable(const Sweep& sweep, const std::vector<std::string>& texts);
  std::vector<std::string> columns;
  std::vector<std::vector<Json>> rows;
  std::size_t varied = 0;  // so many columns are settings
  std::size_t failed = 0;  // rows whose status is not ok

  std::size_t Column(const std::string& name) const;  // REQUIRES that there is one
  std::string Csv() const;
  Json RowsJson() const;  // a list of objects, one a row, without the nulls
};

}  // namespace poolsim
