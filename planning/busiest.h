// The busiest hour of a stream of requests, found in passing.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "planning/request_set.h"

namespace poolsim {

// Keeps the requests of the window with the most work, and of the warm-up before it. Windows begin at multiples of a twelfth of
// their length. What is held in memory is two windows with their warm-ups.
class BusiestWindow {
 public:
  BusiestWindow(TimePs window, TimePs warmup);
  // In order of arrival; `work` in any unit.
  void Add(const RequestSpec& r, double work);
  // Those of the busiest window and its warm-up, with arrivals counted from the warm-up's begin.
  std::vector<RequestSpec> Finish();

 private:
  struct Bin {
    std::int64_t number = 0;
    double work = 0;
    std::vector<RequestSpec> rows;
  };
  void Close();

  static constexpr std::int64_t kBins = 12;  // of a window
  TimePs bin_;
  TimePs warmup_;
  std::int64_t warmup_bins_;
  std::deque<std::shared_ptr<Bin>> recent_;  // the last one is being filled; without those that had no request
  std::vector<std::shared_ptr<Bin>> best_;
  std::int64_t best_first_ = 0;  // number of the window's first bin
  double best_work_ = -1;
};

}  // namespace poolsim
