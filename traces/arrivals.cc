#include "traces/arrivals.h"

#include <algorithm>
#include <cmath>

namespace poolsim {
namespace {

constexpr double kTwoPi = 6.283185307179586477;

double GammaFunction(double x) { return Exp(LogGamma(x)); }

TimePs ExponentialSpan(Rng& rng, double mean_s, TimePs from) {
  const TimePs span = std::max<TimePs>(1, rng.ExponentialPs(mean_s * 1e12));
  return span > kNever - from ? kNever : from + span;
}

}  // namespace

double CosTurns(double x) {
  double turn = std::fabs(x - std::floor(x + 0.5));  // 0 .. 1/2
  const bool far = turn > 0.25;
  if (far) turn = 0.5 - turn;
  const double z = kTwoPi * turn;
  double term = 1;
  double sum = 1;
  for (int i = 1; i <= 12; ++i) {
    term *= -z * z / static_cast<double>((2 * i - 1) * (2 * i));
    sum += term;
  }
  return far ? -sum : sum;
}

GapLaw::GapLaw(Kind kind, double shape) : kind_(kind), shape_(shape) {
  scale_ = kind == Kind::kGamma ? 1 / shape : 1 / GammaFunction(1 + 1 / shape);
}

GapLaw GapLaw::Gamma(double shape) { return {Kind::kGamma, shape}; }
GapLaw GapLaw::Weibull(double shape) { return {Kind::kWeibull, shape}; }
GapLaw GapLaw::GammaOfCv(double cv) { return Gamma(1 / (cv * cv)); }

GapLaw GapLaw::WeibullOfCv(double cv) {
  const double wanted = Log(1 + cv * cv);
  double low = 0.1;  // of cv 429
  double high = 50;  // of cv 0.025
  for (int i = 0; i < 60; ++i) {
    const double shape = 0.5 * (low + high);
    const double found = LogGamma(1 + 2 / shape) - 2 * LogGamma(1 + 1 / shape);
    (found > wanted ? low : high) = shape;
  }
  return Weibull(0.5 * (low + high));
}

double GapLaw::DrawOther(Rng& rng) const {
  if (kind_ == Kind::kGamma) return scale_ * rng.Gamma(shape_);
  return scale_ * Pow(rng.Exponential(), 1 / shape_);
}

double GapLaw::DrawFirst(Rng& rng) const {
  if (kind_ == Kind::kExponential) return rng.Exponential();
  // A uniform part of a gap that is met with a probability in proportion to its length: x times a Gamma density of shape a is one
  // of shape a + 1; a Weibull gap to the power of its shape k is exponential, and Gamma of shape 1 + 1/k once weighted.
  const double part = rng.Uniform01();
  if (kind_ == Kind::kGamma) return part * scale_ * rng.Gamma(shape_ + 1);
  return part * scale_ * Pow(rng.Gamma(1 + 1 / shape_), 1 / shape_);
}

std::vector<Episode> DrawEpisodes(Rng rng, double per_day, double mean_s, TimePs duration) {
  std::vector<Episode> episodes;
  if (per_day <= 0) return episodes;
  TimePs begin = 0;
  for (;;) {
    begin = ExponentialSpan(rng, 86400 / per_day, begin);
    if (begin >= duration) return episodes;
    const TimePs end = std::min(ExponentialSpan(rng, mean_s, begin), duration);
    if (!episodes.empty() && begin <= episodes.back().end) {
      episodes.back().end = std::max(episodes.back().end, end);
    } else {
      episodes.push_back({begin, end});
    }
  }
}

RateCursor::RateCursor(const RateShape& shape) : shape_(shape) {
  if (shape_.states != nullptr) {  // starts in a state with the probability of its share of the time
    double total = 0;
    for (const double mean : shape_.states->mean_s) total += mean;
    double at = shape_.state_draws->Uniform01() * total;
    while (state_ + 1 < shape_.states->mean_s.size() && at >= shape_.states->mean_s[state_])
      at -= shape_.states->mean_s[state_++];
    state_end_ = ExponentialSpan(*shape_.state_draws, shape_.states->mean_s[state_], 0);
  }
  Open(0);
}

bool RateCursor::Advance() {
  if (end_ >= shape_.duration) return false;
  Open(end_);
  return true;
}

void RateCursor::Open(TimePs begin) {
  TimePs end = shape_.duration;
  double factor = 1;
  if (shape_.day != nullptr || shape_.weekend_factor != 1) {
    const std::int64_t cell = begin / RateShape::kCell;
    end = std::min(end, (cell + 1) * RateShape::kCell);
    if (shape_.day != nullptr)
      factor = (*shape_.day)[static_cast<std::size_t>((cell + shape_.day_offset) % RateShape::kCellsPerDay)];
    if (cell / RateShape::kCellsPerDay % 7 >= 5) factor *= shape_.weekend_factor;
  }
  for (std::size_t t = 0; t < shape_.tracks.size(); ++t) {
    const RateShape::Track& track = shape_.tracks[t];
    if (track.episodes == nullptr) continue;
    std::size_t& next = next_episode_[t];
    while (next < track.episodes->size() && (*track.episodes)[next].end <= begin) ++next;
    if (next == track.episodes->size()) continue;
    const Episode& episode = (*track.episodes)[next];
    if (begin < episode.begin) {
      end = std::min(end, episode.begin);
    } else {
      end = std::min(end, episode.end);
      factor *= track.factor;
    }
  }
  if (shape_.states != nullptr) {
    while (state_end_ <= begin) {
      const std::size_t others = shape_.states->factors.size() - 1;
      if (others > 0) {
        const auto pick = static_cast<std::size_t>(shape_.state_draws->Below(others));
        state_ = pick < state_ ? pick : pick + 1;
      }
      state_end_ = ExponentialSpan(*shape_.state_draws, shape_.states->mean_s[state_], state_end_);
    }
    end = std::min(end, state_end_);
    factor *= shape_.states->factors[state_];
  }
  if (shape_.windows != nullptr) {
    const std::int64_t window = begin / shape_.window;
    end = begin + std::min(end - begin, shape_.window - begin % shape_.window);  // the window may end beyond what a time holds
    window_ = &(*shape_.windows)[(static_cast<std::size_t>(window) + shape_.first_window) % shape_.windows->size()];
    factor *= window_->factor;
  }
  end_ = end;
  factor_ = factor;
}

double IntegralSeconds(const RateShape& shape) {
  RateCursor cursor(shape);
  double sum = 0;
  TimePs begin = 0;
  do {
    sum += cursor.factor() * static_cast<double>(cursor.end() - begin) * 1e-12;
    begin = cursor.end();
  } while (cursor.Advance());
  return sum;
}

ArrivalStream::ArrivalStream(const RateShape& shape, double rate, const GapLaw& law, const Rng& rng)
    : cursor_(shape), rng_(rng), law_(law), rate_per_ps_(rate * 1e-12) {
  Enter();
}

TimePs ArrivalStream::First() {
  first_ = false;
  while (per_ps_ == 0) {
    if (!NextSegment()) return kNever;
  }
  return After(law_.DrawFirst(rng_));
}

bool ArrivalStream::NextSegment() {
  now_ = end_;
  if (!cursor_.Advance()) return false;
  Enter();
  return true;
}

void ArrivalStream::Enter() {
  end_ = cursor_.end();
  per_ps_ = rate_per_ps_ * cursor_.factor();
  ps_per_ = 1 / per_ps_;
  if (cursor_.window() != nullptr) law_ = cursor_.window()->law;
}

}  // namespace poolsim
