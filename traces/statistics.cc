#include "traces/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "sim/rng.h"

namespace poolsim {
namespace {

constexpr TimePs kPeakWindow = 600 * kPsPerSecond;
constexpr TimePs kHour = 3600 * kPsPerSecond;
constexpr int kTokenShift = 13;  // tokens x 2^13 is the width of a Histogram's finest bins
constexpr double kPeakRequests = 10;
constexpr std::array<double, 8> kRates = {0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 10};
constexpr std::array<double, 6> kShares = {0.5, 0.8, 0.9, 0.941, 0.95, 0.99};

// Exact below 16, then 8 bins an octave.
constexpr std::size_t kPairBins = 16 + 8 * 23;
std::size_t PairBin(std::int32_t tokens) {
  const auto v = static_cast<std::uint32_t>(tokens);
  if (v < 16) return v;
  const int exponent = static_cast<int>(std::bit_width(v)) - 4;
  return 8 + 8 * static_cast<std::size_t>(exponent) + ((v >> exponent) - 8);
}

template <class Part>
double Ratio(Part part, double whole) {
  return whole > 0 ? static_cast<double>(part) / whole : 0;
}

std::optional<double> Correlation(double n, double x, double y, double xx, double yy, double xy) {
  const double vx = n * xx - x * x;
  const double vy = n * yy - y * y;
  if (!(vx > 0 && vy > 0)) return std::nullopt;
  return (n * xy - x * y) / (std::sqrt(vx) * std::sqrt(vy));
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void SampledCounts::Add(std::uint64_t key) {
  const std::uint64_t hash = std::max<std::uint64_t>(Mix64(key), 1);
  if (level_ > 0 && hash >> (64 - level_) != 0) return;
  if (2 * (size_ + 1) > keys_.size()) Rebuild(std::max<std::size_t>(1024, 2 * keys_.size()));
  std::uint32_t& count = Slot(hash);
  if (count == 0 && ++size_ > most_) {
    count = 1;
    do {
      ++level_;
      Rebuild(keys_.size());
    } while (size_ > most_);
    return;
  }
  if (count != UINT32_MAX) ++count;
}

// The place of `hash`, which is put there when it is new (the count is 0 then).
std::uint32_t& SampledCounts::Slot(std::uint64_t hash) {
  std::size_t i = static_cast<std::size_t>(hash) & (keys_.size() - 1);
  while (keys_[i] != 0 && keys_[i] != hash) i = (i + 1) & (keys_.size() - 1);
  keys_[i] = hash;
  return counts_[i];
}

void SampledCounts::Rebuild(std::size_t slots) {
  std::vector<std::uint64_t> keys(slots, 0);
  std::vector<std::uint32_t> counts(slots, 0);
  keys.swap(keys_);
  counts.swap(counts_);
  size_ = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == 0 || (level_ > 0 && keys[i] >> (64 - level_) != 0)) continue;
    Slot(keys[i]) = counts[i];
    ++size_;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

void LengthCounts::Add(std::int32_t tokens) {
  const auto i = static_cast<std::size_t>(tokens);
  if (i < kExact) {
    ++exact_[i];
  } else {
    above_.Add(TimePs{tokens} << kTokenShift);
  }
  ++count_;
  sum_ += tokens;
  max_ = std::max(max_, tokens);
}

LengthStatistics LengthCounts::Finish() const {
  LengthStatistics s;
  s.sum = sum_;
  s.mean = Ratio(sum_, static_cast<double>(count_));
  s.max = max_;
  std::int64_t below = 0;  // requests of fewer than `tokens`
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < kLengthQuantiles.size(); ++i) {
    const auto rank =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(kLengthQuantiles[i] * static_cast<double>(count_) - 1e-6)));
    while (tokens < kExact && below + exact_[tokens] < rank) below += exact_[tokens++];
    s.quantiles[i] = static_cast<std::int64_t>(tokens);
    if (tokens < kExact || above_.count() == 0) continue;
    const double share = (static_cast<double>(rank - below) - 0.5) / static_cast<double>(above_.count());
    s.quantiles[i] = std::min<std::int64_t>(max_, above_.Quantile(share) >> kTokenShift);
  }
  return s;
}

void StatisticsCollector::Gaps::Add(TimePs arrival) {
  if (last >= 0) {
    const double gap = ToSeconds(arrival - last);
    ++count;
    sum += gap;
    squares += gap * gap;
  }
  last = arrival;
}

std::optional<double> StatisticsCollector::Gaps::Cv() const {
  if (count < 2 || !(sum > 0)) return std::nullopt;
  const double n = static_cast<double>(count);
  return std::sqrt(std::max(0.0, n * squares - sum * sum)) / sum;
}

void StatisticsCollector::Counts::Add(std::int64_t at) {
  if (at != window) {
    Close();
    window = at;
  }
  ++here;
}

void StatisticsCollector::Counts::Close() {
  sum += here;
  squares += static_cast<double>(here) * static_cast<double>(here);
  most = std::max(most, here);
  here = 0;
}

std::optional<double> StatisticsCollector::Counts::Dispersion(std::int64_t windows) {
  if (window < windows) Close();  // else the last one is cut short
  if (windows < 2 || sum == 0) return std::nullopt;
  const double n = static_cast<double>(windows);
  const double mean = static_cast<double>(sum) / n;
  return (squares - n * mean * mean) / (n - 1) / mean;
}

StatisticsCollector::StatisticsCollector(const StatisticsOptions& options)
    : options_(options),
      service_(PsFromSeconds(options.service_s)),
      window_(PsFromSeconds(options.window_s)),
      pairs_(kPairBins * kPairBins, 0),
      sessions_(options.most_blocks / 4),
      blocks_(options.most_blocks) {}

void StatisticsCollector::Add(const RequestSpec& spec, const RequestDetails& details) {
  const auto m = static_cast<std::size_t>(spec.model);
  if (m >= models_.size()) models_.resize(m + 1);
  Model& model = models_[m];
  if (requests_++ == 0) first_ = spec.arrival;
  last_ = spec.arrival;
  const TimePs since = spec.arrival - first_;
  const std::int64_t window = since / window_;
  const auto hour = static_cast<std::size_t>(since / kHour);

  if (static_cast<std::size_t>(window) >= windows_.size()) windows_.resize(static_cast<std::size_t>(window) + 1);
  if (model.requests++ > 0) Active(model.gaps.last, std::min(model.gaps.last + service_, spec.arrival));
  model.prompts += spec.prompt_tokens;
  model.outputs += spec.output_tokens;
  model.gaps.Add(spec.arrival);
  model.counts.Add(window);
  model.peaks.Add(since / kPeakWindow);

  gaps_.Add(spec.arrival);
  counts_.Add(window);
  ++windows_[static_cast<std::size_t>(window)].requests;
  if (hour >= hours_.size()) hours_.resize(hour + 1, 0);
  ++hours_[hour];

  prompt_.Add(spec.prompt_tokens);
  output_.Add(spec.output_tokens);
  const auto prompt = static_cast<std::uint64_t>(spec.prompt_tokens);
  const auto output = static_cast<std::uint64_t>(spec.output_tokens);
  prompts_ += spec.prompt_tokens;
  outputs_ += spec.output_tokens;
  prompts2_ += prompt * prompt;
  outputs2_ += output * output;
  products_ += prompt * output;
  ++pairs_[PairBin(spec.prompt_tokens) * kPairBins + PairBin(spec.output_tokens)];

  if (!details.session.empty()) {
    ++session_requests_;
    sessions_.Add(Hash64(details.session));
  }
  block_tokens_ = std::max(block_tokens_, details.block_tokens);
  block_count_ += static_cast<std::int64_t>(details.blocks.size());
  for (const std::uint64_t block : details.blocks) blocks_.Add(block);
}

// One model is active from `from` to `to`, which is at most the present.
void StatisticsCollector::Active(TimePs from, TimePs to) {
  const TimePs steady = std::max(from, first_ + service_);
  if (to > steady) active_s_ += ToSeconds(to - steady);
  for (TimePs at = from; at < to;) {
    const std::int64_t window = (at - first_) / window_;
    const TimePs end = std::min(to, first_ + (window + 1) * window_);
    windows_[static_cast<std::size_t>(window)].active += ToSeconds(end - at);
    at = end;
  }
}

std::optional<double> StatisticsCollector::Spearman() const {
  std::vector<double> rows(kPairBins, 0), columns(kPairBins, 0);
  for (std::size_t i = 0; i < kPairBins; ++i) {
    for (std::size_t j = 0; j < kPairBins; ++j) {
      rows[i] += static_cast<double>(pairs_[i * kPairBins + j]);
      columns[j] += static_cast<double>(pairs_[i * kPairBins + j]);
    }
  }
  // Ranks, taken from the middle of all ranks: those of a bin share their mean.
  const double n = static_cast<double>(requests_);
  const auto ranks = [n](const std::vector<double>& counts) {
    std::vector<double> out;
    double before = 0;
    for (const double count : counts) {
      out.push_back(before + count / 2 - n / 2);
      before += count;
    }
    return out;
  };
  const std::vector<double> x = ranks(rows), y = ranks(columns);
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < kPairBins; ++i) {
    xx += rows[i] * x[i] * x[i];
    yy += columns[i] * y[i] * y[i];
    for (std::size_t j = 0; j < kPairBins; ++j) xy += static_cast<double>(pairs_[i * kPairBins + j]) * x[i] * y[j];
  }
  if (!(xx > 0 && yy > 0)) return std::nullopt;
  return xy / (std::sqrt(xx) * std::sqrt(yy));
}

void StatisticsCollector::FinishModels(const ModelNames& names, TraceStatistics& s) {
  models_.resize(names.models().size());
  const std::int64_t whole_windows = (last_ - first_) / window_;
  const double service_s = options_.service_s;
  std::vector<double> peaks;
  for (std::size_t i = 0; i < models_.size(); ++i) {
    Model& m = models_[i];
    ModelStatistics out;
    out.name = names.models()[i].name;
    out.base = names.models()[i].base;
    out.requests = m.requests;
    if (m.requests > 0) {
      const double n = static_cast<double>(m.requests);
      Active(m.gaps.last, std::min(m.gaps.last + service_, last_));
      ++s.models_seen;
      out.share = Ratio(m.requests, static_cast<double>(requests_));
      out.rate = s.rate * out.share;
      out.gap_cv = m.gaps.Cv();
      out.dispersion = m.counts.Dispersion(whole_windows);
      out.mean_prompt = static_cast<double>(m.prompts) / n;
      out.mean_output = static_cast<double>(m.outputs) / n;
      out.active = 1 - Exp(-out.rate * service_s);
      s.active_expected += out.active;
      const double in_window = out.rate * ToSeconds(kPeakWindow);
      if (last_ - first_ >= 2 * kPeakWindow && in_window >= kPeakRequests) {
        m.peaks.Close();
        out.peak_over_mean = static_cast<double>(m.peaks.most) / in_window;
        peaks.push_back(*out.peak_over_mean);
      }
    }
    s.models.push_back(std::move(out));
  }
  std::sort(s.models.begin(), s.models.end(), [](const ModelStatistics& a, const ModelStatistics& b) {
    return a.requests != b.requests ? a.requests > b.requests : a.name < b.name;
  });
  std::sort(peaks.begin(), peaks.end());
  if (!peaks.empty()) {
    s.peak_over_mean_p50 = peaks[(peaks.size() - 1) / 2];
    s.peak_over_mean_p90 = peaks[(peaks.size() - 1) * 9 / 10];
  }
}

void StatisticsCollector::FinishTail(TraceStatistics& s) const {
  const std::vector<ModelStatistics>& models = s.models;
  const std::size_t count = models.size();
  std::vector<std::int64_t> of_hottest = {0};
  for (const ModelStatistics& m : models) of_hottest.push_back(of_hottest.back() + m.requests);
  const double all = static_cast<double>(requests_);
  for (const std::int64_t k : options_.top) {
    if (static_cast<std::size_t>(k) < count) s.top.emplace_back(k, Ratio(of_hottest[static_cast<std::size_t>(k)], all));
  }
  const auto coldest = [&](std::size_t number) {
    ColdTail tail;
    tail.models = static_cast<std::int64_t>(number);
    tail.model_share = Ratio(number, static_cast<double>(count));
    tail.request_share = Ratio(requests_ - of_hottest[count - number], all);
    tail.top_rate = number == 0 ? 0 : models[count - number].rate;
    return tail;
  };
  for (const double rate : kRates) {
    const auto hot = std::find_if(models.begin(), models.end(), [rate](const ModelStatistics& m) { return m.rate < rate; });
    s.below_rate.emplace_back(rate, coldest(static_cast<std::size_t>(models.end() - hot)));
  }
  for (const double share : kShares)
    s.coldest_share.emplace_back(share, coldest(static_cast<std::size_t>(share * static_cast<double>(count) + 0.5)));
}

TraceStatistics StatisticsCollector::Finish(const ModelNames& names) {
  TraceStatistics s;
  const TimePs span = last_ - first_;
  const double n = static_cast<double>(requests_);
  s.requests = requests_;
  s.first_s = ToSeconds(first_);
  s.span_s = ToSeconds(span);
  s.rate = Ratio(requests_ - 1, s.span_s);
  s.gap_cv = gaps_.Cv();
  s.dispersion = counts_.Dispersion(span / window_);
  s.prompt = prompt_.Finish();
  s.output = output_.Finish();
  s.pearson = Correlation(n, static_cast<double>(prompts_), static_cast<double>(outputs_), static_cast<double>(prompts2_),
                          static_cast<double>(outputs2_), static_cast<double>(products_));
  s.spearman = Spearman();
  FinishModels(names, s);
  FinishTail(s);

  if (span > service_) s.active = active_s_ / ToSeconds(span - service_);
  s.windows = windows_;
  for (std::size_t i = 0; i < s.windows.size(); ++i) {
    const TimePs length = std::min(window_, span - static_cast<TimePs>(i) * window_);
    s.windows[i].active = Ratio(s.windows[i].active, ToSeconds(length));
  }
  const auto whole_windows = static_cast<std::size_t>(span / window_);
  std::vector<double> steady;
  for (auto i = static_cast<std::size_t>((service_ + window_ - 1) / window_); i < whole_windows; ++i)
    steady.push_back(s.windows[i].active);
  if (!steady.empty()) {
    std::sort(steady.begin(), steady.end());
    s.active_min = steady.front();
    s.active_p50 = steady[(steady.size() - 1) / 2];
    s.active_max = steady.back();
  }
  s.hours = hours_;
  const auto whole_hours = static_cast<std::ptrdiff_t>(span / kHour);
  if (whole_hours >= 2) {
    std::int64_t sum = 0;
    for (std::ptrdiff_t h = 0; h < whole_hours; ++h) sum += hours_[static_cast<std::size_t>(h)];
    const auto [least, most] = std::minmax_element(hours_.begin(), hours_.begin() + whole_hours);
    const double mean = static_cast<double>(sum) / static_cast<double>(whole_hours);
    s.hour_min = Ratio(*least, mean);
    s.hour_max = Ratio(*most, mean);
  }

  s.session_requests = session_requests_;
  s.sessions_share = sessions_.share();
  s.sessions = static_cast<double>(sessions_.size()) / s.sessions_share;
  if (sessions_.size() > 0) {
    std::vector<std::uint32_t> turns;
    double sum = 0;
    sessions_.ForEach([&](std::uint32_t count) {
      turns.push_back(count);
      sum += count;
    });
    std::sort(turns.begin(), turns.end());
    s.turns_mean = sum / static_cast<double>(turns.size());
    s.turns_p50 = turns[(turns.size() - 1) / 2];
    s.turns_p90 = turns[(turns.size() - 1) * 9 / 10];
  }
  s.blocks = block_count_;
  s.block_tokens = block_tokens_;
  s.blocks_share = blocks_.share();
  double seen = 0;
  blocks_.ForEach([&seen](std::uint32_t count) { seen += count; });
  if (seen > 0) s.blocks_reused = 1 - static_cast<double>(blocks_.size()) / seen;
  s.hash_bytes = sessions_.bytes() + blocks_.bytes();
  return s;
}

}  // namespace poolsim
