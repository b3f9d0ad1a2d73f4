#include "planning/busiest.h"

#include <algorithm>

namespace poolsim {

BusiestWindow::BusiestWindow(TimePs window, TimePs warmup)
    : bin_(std::max<TimePs>(1, window / kBins)), warmup_(warmup), warmup_bins_((warmup + bin_ - 1) / bin_) {}

// The window that ends with the last bin.
void BusiestWindow::Close() {
  const std::int64_t first = std::max<std::int64_t>(0, recent_.back()->number - kBins + 1);
  while (recent_.front()->number < first - warmup_bins_) recent_.pop_front();
  double work = 0;
  for (const auto& bin : recent_) work += bin->number >= first ? bin->work : 0;
  if (work <= best_work_) return;
  best_work_ = work;
  best_first_ = first;
  best_.assign(recent_.begin(), recent_.end());
}

void BusiestWindow::Add(const RequestSpec& r, double work) {
  const std::int64_t number = r.arrival / bin_;
  if (recent_.empty() || recent_.back()->number != number) {
    if (!recent_.empty()) Close();
    recent_.push_back(std::make_shared<Bin>());
    recent_.back()->number = number;
  }
  recent_.back()->work += work;
  recent_.back()->rows.push_back(r);
}

std::vector<RequestSpec> BusiestWindow::Finish() {
  if (!recent_.empty()) Close();
  const TimePs from = best_first_ * bin_ - warmup_;
  std::vector<RequestSpec> rows;
  for (const auto& bin : best_) {
    for (RequestSpec r : bin->rows) {
      if (r.arrival < from) continue;
      r.arrival -= from;
      rows.push_back(r);
    }
  }
  return rows;
}

}  // namespace poolsim
