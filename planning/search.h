// The fewest GPUs of a unit that hold a target, by simulation.
//
// A size holds when the mean over replications of every target's attainment is at least the target. Every size sees the same
// replications (common random numbers), so that sizes differ by what they are, not by luck.
//
// The search brackets by doubling and bisects with the first replication, walks from there to the answer with all of them, and
// then looks around it: attainment need not grow with instances, and a size above the answer that does not hold is reported.
// Where prefill and decode are apart, the split is climbed to at every size from the last good one, by halving steps. A run that
// can no longer come within ten points of a service target is given up; whatever is reported was run to its end.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "planning/statistics.h"
#include "planning/unit.h"
#include "sim/team.h"

namespace poolsim {

struct Criteria {
  std::vector<Target> targets = {{}};  // of the unit's requests together
  std::vector<Target> model_targets;   // of those of each model
  double confidence = 0.95;            // of intervals
  std::int64_t max_gpus = 30'000;      // of a unit
};

// The target, or the memory, whose relaxing gains most just below an answer.
struct Binding {
  std::string constraint;  // memory | KV | TTFT | TBT | GPU time | minimum
  std::string words;
  void State(Archive& a) { a(constraint, words); }
};

struct Sized {
  bool found = false;
  std::string reason;  // when not found
  Size size;
  std::int64_t gpus = 0;
  // The sizes at which the interval of the mean attainment touches the target; as `gpus` with one replication.
  std::int64_t low_gpus = 0;
  std::int64_t high_gpus = 0;
  bool high_open = false;  // not even at the most that the unit may take, which `high_gpus` then is
  std::vector<Tally> at;   // by replication
  // The next size below, at its best split; instances 0: there is none.
  Size below_size;
  std::int64_t below_gpus = 0;
  std::vector<Tally> below;
  std::vector<std::int64_t> misses_above;  // GPUs: sizes above the answer that were tried and do not hold
  std::int64_t runs = 0;
  std::int64_t requests = 0;  // simulated in them
  double seconds = 0;         // that they took, each on one thread
  void State(Archive& a) {
    a(found, reason, size, gpus, low_gpus, high_gpus, high_open, at, below_size, below_gpus, below, misses_above, runs, requests);
    a(seconds);
  }
};

// What each target leaves, attainment - target: those of all requests, then those of each of the unit's models. Of a run that was
// given up, below -1, and more the longer it lasted; of one that could not be placed, -3.
std::vector<double> SlacksOf(const Unit& unit, const Criteria& criteria, const Tally& tally);

// What holds up an answer: its next size below is run again with a target, or the GPUs' memory, doubled.
Binding BindingOf(const Unit& unit, const Criteria& criteria, const Sized& sized, Team& team);

class Search {
 public:
  // One run of a size.
  using Runner = std::function<Tally(const Size& size, int replication, double give_up)>;
  // `unit` outlives this. `threads` for the runs of one size; `run` from any of them, instead of Unit::Run.
  Search(const Unit& unit, const Criteria& criteria, int threads, Runner run = nullptr);

  // Starts with a size of about `guess` GPUs.
  Sized Find(double guess);
  // The answer alone: nothing is looked for around it. Empty where there is none.
  std::optional<Size> Fewest(double guess);

  // The mean of what the targets leave: attainment - target, of the target that is missed most. With more than one replication
  // the bounds of its interval.
  Estimate Slack(const Size& size, int replications);
  // To its end.
  const Tally& Run(const Size& size, int replication);
  int replications() const { return static_cast<int>(unit_.requests.size()); }

 private:
  void Need(const Size& size, int replications, double give_up);
  // The size with so many instances whose split is best; stops climbing when it holds.
  Size Split(std::int64_t instances, int replications);
  bool Holds(std::int64_t instances, int replications) { return Slack(Split(instances, replications), replications).mean >= 0; }
  // The fewest in (miss, hold] that hold; `test` of an instance count.
  template <class Test>
  std::int64_t Bisect(std::int64_t miss, std::int64_t hold, const Test& test);
  std::int64_t Coarse(std::int64_t guess);
  std::int64_t Fine(std::int64_t near);
  void LookAround(Sized& sized);
  void Intervals(Sized& sized);
  Sized GiveUp();

  const Unit& unit_;
  const Criteria& criteria_;
  Runner run_;
  double give_up_ = 0;
  Team team_;
  std::int64_t least_;
  std::int64_t most_;
  std::map<std::pair<Size, int>, Tally> known_;
  std::map<std::pair<std::int64_t, int>, Size> splits_;  // by instances and replications
  double prefill_share_ = 0.375;                         // of the last split that was looked for
  std::int64_t runs_ = 0;
  double seconds_ = 0;
};

}  // namespace poolsim
