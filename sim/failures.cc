#include "sim/failures.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

constexpr std::array<const char*, kFailureKinds> kNames = {"gpu", "node", "cache", "link", "drain"};
constexpr std::string_view kHeader = "at_s,what,which,for_s";

}  // namespace

const char* FailureKindName(FailureKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

void OutageLaw::Describe(Fields& f) {
  f.OptReal("mtbf_s", mtbf_s, "mean time from a return to the next failure, of one component, in seconds; null: it never fails",
            1e-3, 1e12);
  f.Real("shape", shape, "Weibull shape of that time; 1: exponential", 0.1, 50);
  f.Real("repair_s", repair_s, "mean time until it is back, in seconds", 1e-3, kMaxSeconds);
  f.Real("repair_shape", repair_shape, "Weibull shape of that time; 1: exponential", 0.1, 50);
}

void LinkOutageLaw::Describe(Fields& f) {
  OutageLaw::Describe(f);
  f.Real("factor", factor, "share of its rate that an uplink keeps meanwhile, that of the list's outages too", 0, 1);
}

void StragglerConfig::Describe(Fields& f) {
  f.Real("fraction", fraction, "share of GPUs, drawn one by one, whose steps take longer; an instance is as slow as its slowest",
         0, 1);
  f.Real("slowdown", slowdown, "times that a step of theirs takes longer", 1, 1000);
  f.Real("link_fraction", link_fraction, "share of PCIe uplinks that are slow", 0, 1);
  f.Real("link_slowdown", link_slowdown, "times that their rate is lower", 1, 1000);
}

void DrainConfig::Describe(Fields& f) {
  f.Real("at_s", at_s, "when its instances stop taking requests, in seconds", 0, kMaxSeconds);
  f.Real("grace_s", grace_s, "for so long what runs may end, in seconds; then it is treated as by a failure", 0, kMaxSeconds);
  f.Real("for_s", for_s, "for so long the nodes are away after that, in seconds", 1e-3, kMaxSeconds);
  f.Int("first_node", first_node, "number of the first node, from 0");
  f.Int("nodes", nodes, "how many nodes from there on", 1);
}

void FailuresConfig::Describe(Fields& f) {
  f.Nested("gpus", gpus, "GPUs, their processes included: takes down the instance that it is part of");
  f.Nested("nodes", nodes, "whole hosts: takes down every instance with a GPU there, weights and KV in host memory");
  f.Nested("caches", caches, "a host's weight cache: empty at once, and takes nothing in until it is back");
  f.Nested("links", links, "a PCIe uplink, slower meanwhile");
  f.Text("file", file, "CSV of outages, at_s,what,which,for_s; what: gpu, node, cache, link; which: its number in its pool");
  f.Choice(
      "in_flight", in_flight,
      "requests whose KV is gone: recompute: prompt and answer so far are prefilled again; retry: all is done again from the "
      "prompt, what was delivered not delivered again; lost: they fail",
      {"recompute", "retry", "lost"});
  f.Int("max_retries", max_retries, "recompute, retry: a request that is hit more often is lost", 0, 1'000'000);
  f.Nested("stragglers", stragglers, "GPUs and uplinks that are slow for good");
  f.NestedList("drains", drains, "nodes that are taken out of service");
}

std::vector<ListedOutage> ReadOutages(const std::string& path) {
  const std::string text = ReadWholeFile(path);
  std::vector<ListedOutage> out;
  std::size_t line = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view row(text.data() + at, end - at);
    at = end + 1;
    ++line;
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    if (line == 1) {
      if (row != kHeader)
        throw InputError(fmt::format("{}:1: found \"{}\"; expected the header {}", path, ForMessage(row), kHeader));
      continue;
    }
    if (row.empty()) continue;
    std::array<std::string_view, 4> cells;
    std::size_t n = 0;
    for (std::string_view rest = row;; ++n) {
      const std::size_t comma = rest.find(',');
      if (n < cells.size()) cells[n] = rest.substr(0, comma);
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
    if (n + 1 != cells.size()) throw InputError(fmt::format("{}:{}: expected four cells, {}", path, line, kHeader));
    const auto refuse = [&](std::size_t cell, const char* expected) {
      throw InputError(fmt::format("{}:{}: found \"{}\"; expected {}", path, line, ForMessage(cells[cell]), expected));
    };
    const auto seconds = [&](std::size_t cell) {
      double value = 0;
      const auto read = std::from_chars(cells[cell].data(), cells[cell].data() + cells[cell].size(), value);
      if (read.ec != std::errc() || read.ptr != cells[cell].data() + cells[cell].size() || !(value >= 0 && value <= kMaxSeconds))
        refuse(cell, "seconds, from 0 to 106 days");
      return PsFromSeconds(value);
    };
    ListedOutage outage;
    outage.at = seconds(0);
    outage.lasts = seconds(3);
    const auto kind = std::find(kNames.begin(), kNames.end() - 1, cells[1]);
    if (kind == kNames.end() - 1) refuse(1, "gpu, node, cache or link");
    outage.kind = static_cast<FailureKind>(kind - kNames.begin());
    const auto read = std::from_chars(cells[2].data(), cells[2].data() + cells[2].size(), outage.number);
    if (read.ec != std::errc() || read.ptr != cells[2].data() + cells[2].size() || outage.number < 0)
      refuse(2, "a number from 0 on");
    out.push_back(outage);
  }
  if (line == 0) throw InputError(fmt::format("{}: it is empty; expected the header {}", path, kHeader));
  return out;
}

bool IsStraggler(std::uint64_t seed, const std::string& pool, FailureKind kind, std::int64_t number, double fraction) {
  return fraction > 0 && Rng(seed, "stragglers", pool, FailureKindName(kind), number).Uniform01() < fraction;
}

Outages::Outages(const FailuresConfig& config, std::uint64_t seed, std::string pool)
    : config_(config), seed_(seed), pool_(std::move(pool)) {}

const OutageLaw& Outages::LawOf(FailureKind kind) const {
  switch (kind) {
    case FailureKind::kGpu:
      return config_.gpus;
    case FailureKind::kCache:
      return config_.caches;
    case FailureKind::kLink:
      return config_.links;
    default:
      return config_.nodes;
  }
}

void Outages::Add(FailureKind kind, std::int64_t number, std::int32_t index) {
  const auto add = [&](FailureKind as, bool drawn, Change first, TimePs at, TimePs grace, TimePs lasts) {
    components_.push_back({as, index, number, drawn, first, 0, grace, lasts});
    Push(0, at, static_cast<std::int32_t>(components_.size()) - 1);
  };
  if (const OutageLaw& law = LawOf(kind); law.mtbf_s) {
    Component first{kind, index, number, true, Change::kDown, 0, 0, 0};
    const TimePs at = Draw(first, *law.mtbf_s, law.shape, true);
    add(kind, true, Change::kDown, at, 0, 0);
    components_.back().draws = first.draws;
  }
  for (const ListedOutage& outage : config_.listed) {
    if (outage.kind == kind && outage.number == number) add(kind, false, Change::kDown, outage.at, 0, outage.lasts);
  }
  if (kind != FailureKind::kNode) return;
  for (const DrainConfig& d : config_.drains) {
    if (number < d.first_node || number - d.first_node >= d.nodes) continue;
    add(FailureKind::kDrain, false, Change::kDrain, PsFromSeconds(d.at_s), PsFromSeconds(d.grace_s), PsFromSeconds(d.for_s));
  }
}

void Outages::Push(TimePs at, TimePs wait, std::int32_t component) {
  if (wait > kNever - at || at + wait == kNever) return;  // beyond any scenario
  heap_.push_back({at + wait, component});
  std::push_heap(heap_.begin(), heap_.end(), After);
}

TimePs Outages::Draw(Component& c, double mean_s, double shape, bool first) const {
  Rng rng(seed_, "failures", pool_, FailureKindName(c.kind), c.number, c.draws++);
  const double scale = mean_s * 1e12 / Exp(LogGamma(1 + 1 / shape));
  // The first time is what is left of one that is under way: the fleet is not new. A uniform part of a time that is met with a
  // probability in proportion to its length, which to the power of the shape is Gamma.
  double time = 0;
  if (first) {
    const double part = rng.Uniform01();
    time = part * scale * Pow(rng.Gamma(1 + 1 / shape), 1 / shape);
  } else {
    time = scale * Pow(rng.Exponential(), 1 / shape);
  }
  return time < kMaxSeconds * 1e12 ? std::max<TimePs>(1, static_cast<TimePs>(time + 0.5)) : kNever;
}

Outages::Event Outages::Take() {
  std::pop_heap(heap_.begin(), heap_.end(), After);
  const Entry entry = heap_.back();
  heap_.pop_back();
  Component& c = components_[static_cast<std::size_t>(entry.component)];
  const Event event{c.kind, c.index, c.next};
  if (c.drawn) {
    const OutageLaw& law = LawOf(c.kind);
    const bool down = c.next == Change::kDown;
    c.next = down ? Change::kUp : Change::kDown;
    Push(entry.at, down ? Draw(c, law.repair_s, law.repair_shape, false) : Draw(c, *law.mtbf_s, law.shape, false),
         entry.component);
  } else if (c.next == Change::kDrain) {
    c.next = Change::kDown;
    Push(entry.at, c.grace, entry.component);
  } else if (c.next == Change::kDown) {
    c.next = Change::kUp;
    Push(entry.at, c.lasts, entry.component);
  }
  return event;
}

}  // namespace poolsim
