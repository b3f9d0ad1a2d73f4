#include "sim/link.h"

#include <algorithm>

namespace poolsim {

void Link::Advance(TimePs now) {
  const TimePs passed = now - now_;
  if (passed > 0) {
    for (Lane& lane : lanes_) {
      if (lane.queue.empty()) continue;
      Transfer& t = lane.queue.front();
      t.left = std::max<__int128>(0, t.left - static_cast<__int128>(t.rate) * passed);
    }
  }
  now_ = now;
}

namespace {

// ceil(a / b) for a >= 0, b > 0, without the library's division of 128 bits: doubles are off by little. kNever where that is
// beyond any scenario.
std::int64_t DivideUp(__int128 a, std::int64_t b) {
  const double estimate = static_cast<double>(a) / static_cast<double>(b);
  if (estimate > kMaxSeconds * 1e12) return kNever;
  auto q = static_cast<std::int64_t>(estimate);
  while (static_cast<__int128>(q) * b < a) ++q;
  while (q > 0 && static_cast<__int128>(q - 1) * b >= a) --q;
  return q;
}

}  // namespace

void Link::Reprice() {
  std::int64_t active[2] = {0, 0};
  for (std::size_t i = 0; i < lanes_.size(); ++i) active[i & 1] += lanes_[i].queue.empty() ? 0 : 1;
  const double left = slow_ * (outages_ > 0 ? outage_share_ : 1);
  next_end_ = kNever;
  loading_ = {};
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].queue.empty()) continue;
    Transfer& t = lanes_[i].queue.front();
    std::int64_t rate = config_.rate[i & 1] / active[i & 1];
    if (left != 1) rate = static_cast<std::int64_t>(static_cast<double>(rate) * left);
    rate = std::min(t.cap, rate);
    if (t.tier != Tier::kNotWeights) {
      loading_[static_cast<std::size_t>(t.tier)] += t.gpus;
      rate = std::min(rate, shares_[static_cast<std::size_t>(t.tier)]);
    }
    if (!lanes_[i ^ 1].queue.empty()) {
      rate = static_cast<std::int64_t>(static_cast<double>(rate) * config_.both_ways_share[i & 1]);
    }
    t.rate = std::max<std::int64_t>(1, rate);
    const TimePs wait = DivideUp(t.left, t.rate);
    if (wait != kNever) next_end_ = std::min(next_end_, now_ + wait);
  }
}

void Link::Add(TimePs now, int lane, Direction direction, std::int64_t bytes, std::int64_t cap, std::int64_t ticket,
               bool background, Tier tier, int gpus) {
  Advance(now);
  std::deque<Transfer>& queue = lanes_[Index(lane, direction)].queue;
  const auto at =
      background ? queue.end() : std::find_if(queue.begin(), queue.end(), [](const Transfer& t) { return t.background; });
  queue.insert(at, {static_cast<__int128>(bytes) * kPsPerSecond, cap, 1, ticket, background, tier, gpus});
  Reprice();
}

std::int64_t Link::PopFinished(TimePs now) {
  Advance(now);
  for (Lane& lane : lanes_) {
    if (lane.queue.empty() || lane.queue.front().left > 0) continue;
    const std::int64_t ticket = lane.queue.front().ticket;
    lane.queue.pop_front();
    Reprice();
    return ticket;
  }
  return -1;
}

void Link::Cancel(TimePs now, std::int64_t ticket) {
  Advance(now);
  for (Lane& lane : lanes_) std::erase_if(lane.queue, [ticket](const Transfer& t) { return t.ticket == ticket; });
  Reprice();
}

void Link::Slow(TimePs now, double share) {
  Advance(now);
  slow_ = share;
  Reprice();
}

void Link::Outage(TimePs now, bool begins, double share) {
  Advance(now);
  outages_ += begins ? 1 : -1;
  outage_share_ = share;
  Reprice();
}

bool Link::SetShares(TimePs now, const TierRates& shares) {
  const bool changed = std::any_of(lanes_.begin(), lanes_.end(), [&](const Lane& lane) {
    if (lane.queue.empty() || lane.queue.front().tier == Tier::kNotWeights) return false;
    const Transfer& t = lane.queue.front();
    const auto tier = static_cast<std::size_t>(t.tier);
    return std::min(t.cap, shares_[tier]) != std::min(t.cap, shares[tier]);
  });
  if (changed) Advance(now);
  shares_ = shares;
  if (changed) Reprice();
  return changed;
}

bool ShareTiers(TimePs now, std::vector<Link>& links, std::span<const std::int32_t> of_node, std::int32_t link,
                const TierRates& rates, TierRates& loading) {
  const TierRates change = links[link].LoadingChange();
  if (change == TierRates{}) return false;
  // Most tiers give more than the GPUs can take, however many there are.
  const std::int64_t most = links[link].rate_in();
  const auto share = [&](int t) { return loading[t] == 0 ? most : std::clamp<std::int64_t>(rates[t] / loading[t], 1, most); };
  bool felt = false;
  TierRates shares{};
  for (int t = 0; t < kTiers; ++t) {
    const std::int64_t before = share(t);
    loading[t] += change[t];
    shares[t] = share(t);
    felt = felt || shares[t] != before;
  }
  if (!felt) return false;
  bool changed = false;
  for (const std::int32_t other : of_node) changed = links[other].SetShares(now, shares) || changed;
  return changed;
}

}  // namespace poolsim
