// The rate of a stream of requests over time, and arrivals that follow it.
//
// Arrivals are a renewal process in operational time: gaps of mean 1 are laid out along the integral of the rate. So a gap law
// keeps its coefficient of variation while the rate swings, exponential gaps give exactly a Poisson process of that rate, and the
// expected number of arrivals up to t is the integral up to t for every law: the first gap is drawn from the law's equilibrium
// distribution (D. R. Cox, Renewal Theory, 1962, chapter 2), so the process is stationary from its start. Where the law changes
// between windows, the first gap is of the first window with a rate above 0.
//
// Rates are constant on segments, so the integral is inverted exactly.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/fields.h"
#include "sim/rng.h"
#include "sim/time.h"

namespace poolsim {

// Cosine of 2 pi x, in plain IEEE operations; error at most 1e-14.
double CosTurns(double x);

// A law of gaps with mean 1.
class GapLaw {
 public:
  GapLaw() = default;  // exponential
  static GapLaw Gamma(double shape);
  static GapLaw Weibull(double shape);
  // Shapes that give a coefficient of variation: Gamma 1 / cv^2; Weibull the root of G(1+2/k) / G(1+1/k)^2 = 1 + cv^2. REQUIRES
  // kMinCv <= cv <= kMaxCv.
  static GapLaw GammaOfCv(double cv);
  static GapLaw WeibullOfCv(double cv);
  static constexpr double kMinCv = 0.05;
  static constexpr double kMaxCv = 20;

  double Draw(Rng& rng) const {
    if (kind_ == Kind::kExponential) return rng.Exponential();
    return DrawOther(rng);
  }
  double DrawFirst(Rng& rng) const;  // from the equilibrium distribution
  double shape() const { return shape_; }

 private:
  enum class Kind { kExponential, kGamma, kWeibull };
  GapLaw(Kind kind, double shape);
  double DrawOther(Rng& rng) const;
  Kind kind_ = Kind::kExponential;
  double shape_ = 1;
  double scale_ = 1;
};

// A stretch of time, its end not included.
struct Episode {
  TimePs begin = 0;
  TimePs end = 0;
};
// Episodes that begin as a Poisson process, `per_day` a day, and last an exponential time of mean `mean_s`; those that touch are
// one. In order, cut at `duration`. Takes draws of `rng`.
std::vector<Episode> DrawEpisodes(Rng rng, double per_day, double mean_s, TimePs duration);

// States of a Markov-modulated process: each lasts an exponential time of mean `mean_s`, then any other state follows with equal
// probability. `factors` have a stationary mean of 1.
struct RateStates {
  std::vector<double> factors;
  std::vector<double> mean_s;
};

// The factor on a constant rate as a product of parts, each of which may be absent. What it points at outlives it.
struct RateShape {
  static constexpr TimePs kCell = 300 * kPsPerSecond;  // swings are constant on cells of 5 minutes
  static constexpr std::int64_t kCellsPerDay = 288;

  TimePs duration = 0;
  const std::vector<double>* day = nullptr;  // kCellsPerDay factors of a day's cells
  std::int64_t day_offset = 0;               // the first cell of the day, from 0
  double weekend_factor = 1;                 // on days 5 and 6 of every 7; day 0 is a Monday
  struct Track {                             // factor while in an episode
    const std::vector<Episode>* episodes = nullptr;
    double factor = 1;
  };
  std::array<Track, 2> tracks;
  const RateStates* states = nullptr;
  std::optional<Rng> state_draws;  // present with states
  // Consecutive windows, repeated: factor and gap law of each.
  struct Window {
    double factor = 1;
    GapLaw law;
  };
  const std::vector<Window>* windows = nullptr;
  TimePs window = 0;  // length of one
  std::size_t first_window = 0;
};

// Walks over the segments of a shape, each at least 1 ps long.
class RateCursor {
 public:
  explicit RateCursor(const RateShape& shape);
  TimePs end() const { return end_; }                          // of the current segment; the first begins at 0
  double factor() const { return factor_; }                    // of the current segment
  const RateShape::Window* window() const { return window_; }  // null without windows
  bool Advance();                                              // false when the current segment is the last

 private:
  void Open(TimePs begin);
  RateShape shape_;
  TimePs end_ = 0;
  double factor_ = 0;
  const RateShape::Window* window_ = nullptr;
  std::array<std::size_t, 2> next_episode_{};
  std::size_t state_ = 0;
  TimePs state_end_ = kNever;
};

// Integral of the factor over the shape's duration [s].
double IntegralSeconds(const RateShape& shape);

// The arrivals of one stream before shape.duration. Takes draws of `rng`.
class ArrivalStream {
 public:
  // `rate` in requests/s where the factor is 1.
  ArrivalStream(const RateShape& shape, double rate, const GapLaw& law, const Rng& rng);
  // The next arrival; kNever when there is none left.
  TimePs Next() {
    if (first_) return First();
    return After(law_.Draw(rng_));
  }

 private:
  TimePs After(double need) {
    for (;;) {
      const TimePs left = end_ - now_;
      const double room = per_ps_ * static_cast<double>(left);
      if (need < room) {
        const auto step = static_cast<TimePs>(need * ps_per_ + 0.5);
        now_ += step < left ? step : left - 1;
        return now_;
      }
      if (!NextSegment()) return kNever;
      need -= room;
    }
  }
  TimePs First();
  bool NextSegment();
  void Enter();

  RateCursor cursor_;
  Rng rng_;
  GapLaw law_;
  double rate_per_ps_ = 0;
  TimePs now_ = 0;
  TimePs end_ = 0;
  double per_ps_ = 0;  // in the current segment
  double ps_per_ = 0;
  bool first_ = true;
};

}  // namespace poolsim
