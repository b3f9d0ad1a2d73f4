#include "sim/metrics.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/limits.h"

namespace poolsim {

const char* OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPending:
      return "unfinished";
    case Outcome::kFinished:
      return "finished";
    case Outcome::kTimeout:
      return "timeout";
    case Outcome::kKvPrompt:
      return "kv_prompt";
    case Outcome::kKvGrowth:
      return "kv_growth";
    case Outcome::kLost:
      return "lost";
  }
  return "?";
}

void ModelMetrics::Merge(const ModelMetrics& o) {
  requests += o.requests;
  for (int i = 0; i < kOutcomes; ++i) outcomes[i] += o.outcomes[i];
  prompt_tokens += o.prompt_tokens;
  wanted_tokens += o.wanted_tokens;
  output_tokens += o.output_tokens;
  on_time_tokens += o.on_time_tokens;
  on_time_requests += o.on_time_requests;
  smooth_requests += o.smooth_requests;
  service += o.service;
  switches += o.switches;
  busy += o.busy;
  ttft.Merge(o.ttft);
  tbt.Merge(o.tbt);
  tpot.Merge(o.tpot);
  e2e.Merge(o.e2e);
  for (int i = 0; i < kSpells; ++i) spent[i] += o.spent[i];
}

void KvHeld::Merge(const KvHeld& o) {
  tokens += o.tokens;
  blocks += o.blocks;
  slabs += o.slabs;
}

void FailureMetrics::Merge(const FailureMetrics& o) {
  for (int i = 0; i < kFailureKinds; ++i) failures[i] += o.failures[i];
  hit += o.hit;
  retried += o.retried;
  lost += o.lost;
  recomputed += o.recomputed;
  moved += o.moved;
}

void MergeWindows(const std::vector<Window>& from, std::vector<Window>& into) {
  if (into.size() < from.size()) into.resize(from.size());
  for (std::size_t w = 0; w < from.size(); ++w) {
    into[w].arrived += from[w].arrived;
    into[w].service += from[w].service;
    into[w].finished += from[w].finished;
    into[w].failed += from[w].failed;
    into[w].output_tokens += from[w].output_tokens;
    into[w].on_time_tokens += from[w].on_time_tokens;
    into[w].switches += from[w].switches;
    for (int a = 0; a < kActivities; ++a) into[w].activity[a] += from[w].activity[a];
    into[w].active_model_time += from[w].active_model_time;
  }
}

double ServiceShare(const Request& r, const Targets& targets) {
  if (r.outcome != Outcome::kFinished) return 0;
  const Service& s = r.service;
  if (!s.dirty) return 1;  // never late: its targets held throughout
  const TimePs length = r.last_token - r.arrival;
  if (length <= 0) return 1;
  const TimePs target = targets.ttft + r.generated * targets.tbt;  // that of the token after the last
  const TimePs ok = s.ok + std::min(target, r.last_token - s.start);
  return static_cast<double>(ok) / static_cast<double>(length);
}

Metrics::Metrics(std::vector<Targets> targets, TimePs warmup, TimePs window)
    : targets_(std::move(targets)), models_(targets_.size()), in_system_(targets_.size(), 0), warmup_(warmup), window_(window) {}

Window& Metrics::WindowAt(TimePs t) {
  if (t >= recent_begin_ && t < recent_end_) return windows_[recent_];
  const auto index = static_cast<std::size_t>(t / window_);
  if (index >= static_cast<std::size_t>(kMaxWindows)) {
    throw InputError(fmt::format("/metrics/window_s: found {}; until {:.0f} s there are more than {} windows", ToSeconds(window_),
                                 ToSeconds(t), kMaxWindows));
  }
  if (index >= windows_.size()) windows_.resize(index + 1);
  recent_ = index;
  recent_begin_ = static_cast<TimePs>(index) * window_;
  recent_end_ = recent_begin_ + window_;
  return windows_[index];
}

void Metrics::ActiveChanged(TimePs now) {
  active_model_time += static_cast<__int128>(active_models_) * (now - active_since_);
  while (active_since_ < now) {
    const TimePs end = std::min(now, WindowEnd(active_since_));
    if (active_models_ > 0)
      WindowAt(active_since_).active_model_time += static_cast<__int128>(active_models_) * (end - active_since_);
    active_since_ = end;
  }
}

void Metrics::Arrive(Request& r, TimePs now) {
  r.measured = r.arrival >= warmup_;
  r.service.start = r.arrival;
  ++WindowAt(now).arrived;
  if (in_system_[r.model]++ == 0) {
    ActiveChanged(now);
    ++active_models_;
  }
  if (!r.measured) return;
  ModelMetrics& m = models_[r.model];
  ++m.requests;
  m.prompt_tokens += r.prompt;
  m.wanted_tokens += r.output;
  if (record_ != nullptr) record_->Arrive(r.model, static_cast<std::int64_t>(recent_), r.prompt, r.output);
}

void Metrics::Token(Request& r, TimePs now) {
  const Targets& target = targets_[r.model];
  Service& s = r.service;
  const std::int64_t index = r.generated;
  const TimePs due = target.ttft + index * target.tbt;
  const bool late = now - r.arrival > due;
  if (late) {
    ++s.late_tokens;
    s.dirty = true;
  }
  if (now - s.start > due) MissService(s, target, index, now);
  if (index == 0) {
    r.first_token = now;
    if (r.measured) models_[r.model].ttft.Add(now - r.arrival);
    s.slow_gap = now - r.arrival > target.ttft;
  } else {
    const TimePs gap = now - r.last_token;
    if (r.measured) models_[r.model].tbt.Add(gap);
    s.slow_gap = s.slow_gap || gap > target.tbt;
  }
  r.last_token = now;
  ++r.generated;
  Window& w = WindowAt(now);
  ++w.output_tokens;
  if (!late) ++w.on_time_tokens;
  if (r.measured) RecordTokens(r.model, 1, late ? 0 : 1);
}

void Metrics::Leave(const Request& r, TimePs now) {
  const bool finished = r.outcome == Outcome::kFinished;
  if (r.outcome != Outcome::kPending) {
    Window& w = WindowAt(now);
    ++(finished ? w.finished : w.failed);
    if (record_ != nullptr && finished && r.measured) record_->Finish(r.model, static_cast<std::int64_t>(recent_));
  }
  if (--in_system_[r.model] == 0) {
    ActiveChanged(now);
    --active_models_;
  }
  const ShareSum service = ServiceShare(r, targets_[r.model]);
  windows_[static_cast<std::size_t>(r.arrival / window_)].service += service;
  if (!r.measured) return;
  ModelMetrics& m = models_[r.model];
  ++m.outcomes[static_cast<std::size_t>(r.outcome)];
  m.output_tokens += r.delivered();
  m.on_time_tokens += r.delivered() - r.service.late_tokens;
  if (!finished) return;
  m.service += service;
  if (r.service.late_tokens == 0) ++m.on_time_requests;
  if (!r.service.slow_gap) ++m.smooth_requests;
  const Spent& s = r.spent;
  const TimePs total = r.last_token - r.arrival;
  const std::array<TimePs, kSpells> spent = {
      s.prefill_wait, s.prefill, total - s.prefill_wait - s.prefill - s.decode - s.switching - s.kv, s.decode, s.switching, s.kv};
  for (int i = 0; i < kSpells; ++i) {
    if (spent[i] != 0) m.spent[i] += spent[i];
  }
  if (s.kv != 0) switching.kv_sync.Add(s.kv);  // the others come in End, all at once
  m.e2e.Add(total);
  if (r.generated > 1) m.tpot.Add((r.last_token - r.first_token) / (r.generated - 1));
}

void Metrics::Busy(Activity kind, TimePs from, TimePs to, std::int64_t gpus) {
  const auto k = static_cast<std::size_t>(kind);
  activity[k] += static_cast<GpuTime>(to - from) * gpus;
  while (from < to) {
    const TimePs end = std::min(to, WindowEnd(from));
    WindowAt(from).activity[k] += static_cast<GpuTime>(end - from) * gpus;
    from = end;
  }
}

void Metrics::AddToRecord(InstanceId i, Activity kind, TimePs from, TimePs to, std::int64_t gpus, ModelId m) {
  const TimePs part = std::max<TimePs>(1, window_ / kFleetParts);
  while (from < to) {
    const int shift = record_->fleet().shift();
    const std::int64_t w = from / part >> shift;
    const TimePs end = std::min(to, ((w + 1) << shift) * part);
    record_->Busy(i, w << shift, kind, end - from, gpus, m);
    from = end;
  }
}

void SwitchMetrics::Merge(const SwitchMetrics& o) {
  for (int i = 0; i < kWeightSources; ++i) from[i] += o.from[i];
  prefetches += o.prefetches;
  cache_hits += o.cache_hits;
  cache_misses += o.cache_misses;
  cache_evictions += o.cache_evictions;
  for (int i = 0; i < kTiers; ++i) bytes[i] += o.bytes[i];
  engine_init += o.engine_init;
  weights += o.weights;
  copy += o.copy;
  kv += o.kv;
  latency.Merge(o.latency);
  kv_sync.Merge(o.kv_sync);
}

void Metrics::SwitchEnded(TimePs latency, TimePs engine_init, TimePs copy) {
  switching.engine_init += engine_init;
  switching.copy += copy;
  switching.weights += latency - engine_init - copy;
  switching.latency.Add(latency);
}

void Metrics::Switch(ModelId m, WeightSource from, TimePs now) {
  ++switching.from[static_cast<std::size_t>(from)];
  if (from == WeightSource::kResident) switching.latency.Add(0);
  ++models_[m].switches;
  ++WindowAt(now).switches;
}

void Metrics::End(TimePs now) {
  ActiveChanged(now);
  std::int64_t finished = 0;
  for (const ModelMetrics& m : models_) finished += m.e2e.count();
  switching.kv_sync.Add(0, finished - switching.kv_sync.count());
}

}  // namespace poolsim
