#include "planning/search.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {

std::vector<double> SlacksOf(const Unit& unit, const Criteria& criteria, const Tally& tally) {
  const std::size_t models = unit.facts.names.models().size();
  const std::size_t count = criteria.targets.size() + criteria.model_targets.size() * models;
  if (!tally.placed) return std::vector<double>(count, -3);
  if (tally.reached < 1) return std::vector<double>(count, tally.reached - 2);
  std::vector<double> slacks;
  for (const Target& t : criteria.targets) slacks.push_back(tally.Share(t.kind) - t.share);
  for (const Target& t : criteria.model_targets) {
    for (std::size_t m = 0; m < models; ++m) slacks.push_back(ShareOf(tally.models[m], t.kind) - t.share);
  }
  return slacks;
}

Binding BindingOf(const Unit& unit, const Criteria& criteria, const Sized& sized, Team& team) {
  if (sized.below_size.instances == 0) {
    return {"minimum", fmt::format("{} is the least that there can be", sized.size.instances == 1 ? "one instance" : "this")};
  }
  if (!sized.below.front().placed) return {"memory", sized.below.front().reason};
  // Of the target that is missed most in the mean over replications.
  const auto slack = [&](const std::vector<Tally>& tallies) {
    std::vector<double> sums;
    for (const Tally& tally : tallies) {
      const std::vector<double> slacks = SlacksOf(unit, criteria, tally);
      sums.resize(slacks.size());
      for (std::size_t k = 0; k < slacks.size(); ++k) sums[k] += slacks[k];
    }
    return *std::min_element(sums.begin(), sums.end()) / static_cast<double>(tallies.size());
  };
  const double before = slack(sized.below);
  struct Relaxed {
    const char* constraint;
    const char* what;
    double gain;
  };
  std::vector<Relaxed> relaxed;
  const auto add = [&](const char* constraint, const char* what, const Scenario& s) {
    std::vector<Tally> tallies(sized.below.size());
    team.Run(tallies.size(), [&](std::size_t r, int) { tallies[r] = unit.Run(s, sized.below_size, static_cast<int>(r), 0); });
    relaxed.push_back({constraint, what, slack(tallies) - before});
  };
  Scenario s = unit.scenario;
  s.slo.ttft_slo_s *= 2;
  for (ModelRule& rule : s.models) {
    if (rule.ttft_slo_s) *rule.ttft_slo_s *= 2;
  }
  add("TTFT", "twice the time to the first token", s);
  s = unit.scenario;
  s.slo.tbt_slo_s *= 2;
  for (ModelRule& rule : s.models) {
    if (rule.tbt_slo_s) *rule.tbt_slo_s *= 2;
  }
  add("TBT", "twice the time between tokens", s);
  s = unit.scenario;
  FleetConfig& fleet = s.pools.front().fleet;
  const double memory = fleet.gpu_memory_gb.value_or(static_cast<double>(FindGpu(fleet.gpu).memory_bytes) / 1e9);
  fleet.gpu_memory_gb = 2 * memory;
  for (ModelRule& rule : s.models) {
    if (rule.kv_capacity_tokens) *rule.kv_capacity_tokens *= 2;
  }
  add("KV", "twice the GPU memory", s);
  const auto most =
      std::max_element(relaxed.begin(), relaxed.end(), [](const Relaxed& a, const Relaxed& b) { return a.gain < b.gain; });
  const auto shown = [](double gain) { return fmt::format("{:+.1f} points", 100 * gain); };
  if (most->gain <= 0) {
    return {"GPU time", "neither a target nor memory, doubled, helps the next size below"};
  }
  std::string others;
  for (const Relaxed& r : relaxed) {
    if (&r != &*most) others += fmt::format("{}{} {}", others.empty() ? "" : ", ", r.constraint, shown(r.gain));
  }
  return {most->constraint, fmt::format("{} gives the next size below {} ({})", most->what, shown(most->gain), others)};
}

Search::Search(const Unit& unit, const Criteria& criteria, int threads, Runner run)
    : unit_(unit),
      criteria_(criteria),
      run_(run ? std::move(run)
               : [&unit](const Size& size, int replication, double give_up) { return unit.Run(size, replication, give_up); }),
      team_(threads),
      least_(std::max<std::int64_t>(unit.least, unit.splits() ? 2 : 1)),
      most_(unit.MostInstances(criteria.max_gpus)) {
  for (const Target& t : criteria.targets) {
    if (t.kind == AttainmentKind::kService) give_up_ = std::max(give_up_, t.share - 0.1);
  }
}

const Tally& Search::Run(const Size& size, int replication) {
  Need(size, replication + 1, 0);
  return known_.at({size, replication});
}

// Runs what is not known yet, or was given up although `give_up` is 0.
void Search::Need(const Size& size, int replications, double give_up) {
  std::vector<int> missing;
  for (int r = 0; r < replications; ++r) {
    const auto known = known_.find({size, r});
    if (known == known_.end() || (give_up == 0 && known->second.reached < 1)) missing.push_back(r);
  }
  std::vector<Tally> tallies(missing.size());
  team_.Run(missing.size(), [&](std::size_t i, int) { tallies[i] = run_(size, missing[i], give_up); });
  for (std::size_t i = 0; i < missing.size(); ++i) {
    seconds_ += tallies[i].wall_s;
    known_.insert_or_assign(std::pair(size, missing[i]), std::move(tallies[i]));
  }
  runs_ += static_cast<std::int64_t>(missing.size());
}

Estimate Search::Slack(const Size& size, int replications) {
  Need(size, replications, give_up_);
  // When all are hopeless so is their mean; else it takes every one of them.
  int given_up = 0;
  for (int r = 0; r < replications; ++r) given_up += known_.at({size, r}).reached < 1 ? 1 : 0;
  if (given_up > 0 && given_up < replications) Need(size, replications, 0);
  const bool hopeless = given_up == replications;
  std::vector<std::vector<double>> by_target;
  for (int r = 0; r < replications; ++r) {
    const std::vector<double> slacks = SlacksOf(unit_, criteria_, known_.at({size, r}));
    by_target.resize(slacks.size());
    for (std::size_t k = 0; k < slacks.size(); ++k) by_target[k].push_back(slacks[k]);
  }
  Estimate least{1, 1, 1};
  for (const std::vector<double>& slacks : by_target) {
    Estimate e = EstimateOf(slacks, criteria_.confidence);
    if (hopeless) e.low = e.high = e.mean;
    least = {std::min(least.mean, e.mean), std::min(least.low, e.low), std::min(least.high, e.high)};
  }
  return least;
}

Size Search::Split(std::int64_t instances, int replications) {
  if (!unit_.splits()) return {instances, 0};
  const auto known = splits_.find({instances, replications});
  if (known != splits_.end()) return known->second;
  const bool first = splits_.empty();
  Size best{instances, std::clamp<std::int64_t>(std::llround(prefill_share_ * static_cast<double>(instances)), 1, instances - 1)};
  if (replications > 1) best = Split(instances, 1);
  double slack = Slack(best, replications).mean;
  // With all replications only the neighbours of what the first one liked best.
  std::int64_t step = replications > 1 ? 1 : std::max<std::int64_t>(1, instances / (first ? 8 : 32));
  while (step > 0 && slack < 0) {
    bool moved = false;
    for (const std::int64_t direction : {-step, step}) {
      const Size next{instances, best.prefill + direction};
      if (next.prefill < 1 || next.prefill >= instances) continue;
      const double here = Slack(next, replications).mean;
      if (here <= slack) continue;
      best = next;
      slack = here;
      moved = true;
      break;
    }
    if (!moved) step /= 2;
  }
  prefill_share_ = static_cast<double>(best.prefill) / static_cast<double>(instances);
  splits_.emplace(std::pair(instances, replications), best);
  return best;
}

template <class Test>
std::int64_t Search::Bisect(std::int64_t miss, std::int64_t hold, const Test& test) {
  while (hold - miss > 1) {
    const std::int64_t middle = miss + (hold - miss) / 2;
    (test(middle) ? hold : miss) = middle;
  }
  return hold;
}

// By the first replication alone, to about 3 %; 0 when the most do not hold.
std::int64_t Search::Coarse(std::int64_t guess) {
  std::int64_t miss = least_ - 1;
  std::int64_t hold = std::clamp(guess, least_, most_);
  if (Holds(hold, 1)) {
    // Down by a quarter at a time: far below the answer, runs are overloaded and take longest.
    while (hold > least_) {
      const std::int64_t next = std::max(least_, hold - std::max<std::int64_t>(1, hold / 4));
      if (!Holds(next, 1)) {
        miss = next;
        break;
      }
      hold = next;
    }
  } else {
    do {
      if (hold == most_) return 0;
      miss = hold;
      hold = std::min(most_, hold * 2);
    } while (!Holds(hold, 1));
  }
  while (hold - miss > std::max<std::int64_t>(1, hold / 32)) {
    const std::int64_t middle = miss + (hold - miss) / 2;
    (Holds(middle, 1) ? hold : miss) = middle;
  }
  return hold;
}

// From `near`, with all replications, by growing steps and bisection; 0 when the most do not hold.
std::int64_t Search::Fine(std::int64_t near) {
  const auto holds = [this](std::int64_t n) { return Holds(n, replications()); };
  std::int64_t step = std::max<std::int64_t>(1, near / 64);
  if (holds(near)) {
    std::int64_t hold = near;
    while (hold > least_) {
      const std::int64_t next = std::max(least_, hold - step);
      if (!holds(next)) return Bisect(next, hold, holds);
      hold = next;
      step *= 2;
    }
    return hold;
  }
  std::int64_t miss = near;
  while (miss < most_) {
    const std::int64_t next = std::min(most_, miss + step);
    if (holds(next)) return Bisect(miss, next, holds);
    miss = next;
    step *= 2;
  }
  return 0;
}

void Search::LookAround(Sized& sized) {
  // A smaller size that holds although the one below the answer does not.
  for (std::int64_t n = sized.size.instances - 2; n >= std::max(least_, sized.size.instances - 4); --n) {
    if (Holds(n, 1) && Holds(n, replications())) sized.size = Split(n, replications());
  }
  const std::int64_t answer = sized.size.instances;
  std::vector<std::int64_t> above = {answer + 1, answer + 2, answer + 3};
  for (const double factor : {1.1, 1.25, 1.5, 2.0})
    above.push_back(static_cast<std::int64_t>(static_cast<double>(answer) * factor));
  for (const std::int64_t n : above) {
    if (n > answer && n <= most_ && !Holds(n, 1)) Holds(n, replications());
  }
  // Whatever was tried with all replications, now or on the way.
  std::map<std::int64_t, double> best;  // slack by instances
  for (const auto& [key, tally] : known_) {
    const Size& size = key.first;
    if (key.second != replications() - 1 || size.instances <= answer) continue;
    const double slack = Slack(size, replications()).mean;
    const auto [at, fresh] = best.emplace(size.instances, slack);
    if (!fresh) at->second = std::max(at->second, slack);
  }
  for (const auto& [n, slack] : best) {
    if (slack < 0) sized.misses_above.push_back(unit_.Gpus(n));
  }
}

// By how much the answer would move if the mean were at either end of its interval.
void Search::Intervals(Sized& sized) {
  const std::int64_t answer = sized.size.instances;
  sized.low_gpus = sized.high_gpus = unit_.Gpus(answer);
  if (replications() < 2) return;
  const auto surely = [this](std::int64_t n) { return Slack(Split(n, replications()), replications()).low >= 0; };
  const auto perhaps = [this](std::int64_t n) { return Slack(Split(n, replications()), replications()).high >= 0; };
  std::int64_t n = answer, step = 1;
  while (!surely(n) && n < most_) n = std::min(most_, n + step), step *= 2;
  sized.high_open = !surely(n);
  if (n > answer && !sized.high_open) n = Bisect(std::max(answer, n - step / 2), n, surely);
  sized.high_gpus = unit_.Gpus(n);
  n = answer, step = 1;
  while (n > least_) {
    const std::int64_t next = std::max(least_, n - step);
    if (!perhaps(next)) {
      n = Bisect(next, n, perhaps);
      break;
    }
    n = next;
    step *= 2;
  }
  sized.low_gpus = unit_.Gpus(n);
}

Sized Search::GiveUp() {
  Sized sized;
  sized.gpus = unit_.Gpus(most_);
  const Size size = Split(most_, replications());
  for (int r = 0; r < replications(); ++r) Run(size, r);
  const Tally& tally = Run(size, 0);
  sized.reason = tally.placed ? fmt::format("{} GPUs, the most that it may take, leave it {:.2f} points short of the target",
                                            sized.gpus, -100 * Slack(size, replications()).mean)
                              : tally.reason;
  sized.runs = runs_;
  return sized;
}

std::optional<Size> Search::Fewest(double guess) {
  if (most_ < least_) return std::nullopt;
  const std::int64_t near = Coarse(unit_.MostInstances(static_cast<std::int64_t>(std::ceil(guess))));
  const std::int64_t answer = near > 0 ? Fine(near) : 0;
  return answer > 0 ? std::optional(Split(answer, replications())) : std::nullopt;
}

Sized Search::Find(double guess) {
  Sized sized;
  if (most_ < least_) {
    sized.reason = fmt::format("it needs at least {} GPUs and may take {}", unit_.Gpus(least_), criteria_.max_gpus);
    return sized;
  }
  const std::optional<Size> answer = Fewest(guess);
  if (!answer) return GiveUp();
  sized.found = true;
  sized.size = *answer;
  LookAround(sized);
  Intervals(sized);
  sized.gpus = unit_.Gpus(sized.size.instances);
  for (int r = 0; r < replications(); ++r) sized.at.push_back(Run(sized.size, r));
  if (sized.size.instances > least_) {
    sized.below_size = Split(sized.size.instances - 1, replications());
    sized.below_gpus = unit_.Gpus(sized.below_size.instances);
    for (int r = 0; r < replications(); ++r) sized.below.push_back(Run(sized.below_size, r));
  }
  sized.runs = runs_;
  sized.requests = runs_ * static_cast<std::int64_t>(unit_.requests.front()->rows.size());
  sized.seconds = seconds_;
  return sized;
}

}  // namespace poolsim
