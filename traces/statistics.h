// What is in a trace: one pass, in memory that grows with models, windows and hours, not with requests.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/histogram.h"
#include "sim/request_source.h"

namespace poolsim {

// How often each of many things was seen. Beyond `most` of them only those are kept whose hash is in a part of its range that is
// halved as often as needed. A thing that is kept has been counted from its first time on, so shares, means and quantiles over
// those that are kept estimate those over all.
class SampledCounts {
 public:
  explicit SampledCounts(std::size_t most) : most_(most) {}
  void Add(std::uint64_t key);
  std::size_t size() const { return size_; }  // things kept
  double share() const { return 1.0 / static_cast<double>(std::uint64_t{1} << level_); }
  std::size_t bytes() const { return keys_.size() * (sizeof(std::uint64_t) + sizeof(std::uint32_t)); }
  // Calls visit(count) for each thing that is kept.
  template <class Visit>
  void ForEach(const Visit& visit) const {
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      if (keys_[i] != 0) visit(counts_[i]);
    }
  }

 private:
  void Rebuild(std::size_t slots);
  std::uint32_t& Slot(std::uint64_t hash);

  std::size_t most_;
  std::size_t size_ = 0;
  int level_ = 0;
  std::vector<std::uint64_t> keys_;  // hashes; 0: free. Open addressing, at most half full, size a power of two
  std::vector<std::uint32_t> counts_;
};

struct StatisticsOptions {
  double service_s = 16.79;  // a model is active for so long after each arrival; the mean service time in Aegaeon (SOSP 2025)
  double window_s = 60;      // of counts, for the index of dispersion and the windows
  std::vector<std::int64_t> top = {1, 5, 10, 20, 50, 100};
  std::size_t most_blocks = std::size_t{1} << 24;  // distinct prefix hashes (and a quarter as many sessions) kept: up to 400 MB,
                                                   // twice that while it grows
};

inline constexpr std::array<double, 7> kLengthQuantiles = {0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99};

struct LengthStatistics {
  double mean = 0;
  std::array<std::int64_t, kLengthQuantiles.size()> quantiles{};  // nearest rank; exact below 131,072 tokens, within 0.4 % above
  std::int64_t max = 0;
  std::int64_t sum = 0;
};

// Lengths counted one by one up to a bound, in bins of 0.4 % beyond.
class LengthCounts {
 public:
  LengthCounts() : exact_(kExact, 0) {}
  void Add(std::int32_t tokens);
  LengthStatistics Finish() const;

 private:
  static constexpr std::size_t kExact = std::size_t{1} << 17;
  std::vector<std::int64_t> exact_;
  Histogram above_;
  std::int64_t count_ = 0;
  std::int64_t sum_ = 0;
  std::int32_t max_ = 0;
};

struct ModelStatistics {
  std::string name;
  std::string base;
  std::int64_t requests = 0;
  double share = 0;                  // of all requests
  double rate = 0;                   // its share of the trace's rate [requests/s]
  std::optional<double> gap_cv;      // standard deviation of the gaps over their mean; of three requests or more
  std::optional<double> dispersion;  // as TraceStatistics::dispersion
  // Busiest 10 minutes over the mean; of traces of 20 minutes or more and a mean of 10 requests or more: of fewer, chance alone
  // makes a peak.
  std::optional<double> peak_over_mean;
  double mean_prompt = 0;
  double mean_output = 0;
  double active = 0;  // expected share of time in which it is active: 1 - exp(-rate T)
};

struct ColdTail {
  std::int64_t models = 0;
  double model_share = 0;
  double request_share = 0;
  double top_rate = 0;  // of the hottest of them
};

// Windows are counted from the first arrival. What cannot be said (of too short a trace, or without hashes) is not set.
struct TraceStatistics {
  std::int64_t requests = 0;
  std::int64_t models_seen = 0;  // models with requests
  double first_s = 0;
  double span_s = 0;  // from the first arrival to the last
  double rate = 0;    // requests - 1 over the span: gaps, not ends, are counted
  std::optional<double> gap_cv;
  std::optional<double> dispersion;  // index of dispersion of counts: variance over mean, over whole windows
  LengthStatistics prompt;
  LengthStatistics output;
  std::optional<double> pearson;   // of prompt and output lengths
  std::optional<double> spearman;  // by ranks, within bins an eighth of an octave wide

  std::vector<ModelStatistics> models;                           // hottest first, ties by name; those without requests, too
  std::vector<std::pair<std::int64_t, double>> top;              // k, share of requests of the k hottest models
  std::vector<std::pair<double, ColdTail>> below_rate;           // rate [request/s], models below it
  std::vector<std::pair<double, ColdTail>> coldest_share;        // share of models, the coldest so many
  std::optional<double> peak_over_mean_p50, peak_over_mean_p90;  // over models that have one

  // Models active, that is, within service_s after one of their arrivals: time-average from service_s after the first arrival to
  // the last; and what Poisson arrivals at their rates would give, sum of 1 - exp(-rate T).
  std::optional<double> active;
  double active_expected = 0;
  // Over the windows from service_s on that are whole.
  std::optional<double> active_min, active_p50, active_max;
  struct Window {
    std::int64_t requests = 0;
    double active = 0;  // time-average
  };
  std::vector<Window> windows;  // the last one may be cut short
  std::vector<std::int64_t> hours;
  std::optional<double> hour_min, hour_max;  // requests of the quietest and the busiest whole hour over their mean

  std::int64_t session_requests = 0;  // requests with a session
  double sessions = 0;                // distinct ones; an estimate when sessions_share is below 1
  double sessions_share = 1;          // of the sessions that were kept
  std::optional<double> turns_mean;
  std::int64_t turns_p50 = 0, turns_p90 = 0;

  std::int64_t blocks = 0;        // prefix blocks of all prompts
  std::int32_t block_tokens = 0;  // the most of any request
  double blocks_share = 1;        // of the distinct blocks that were kept
  // Share of the blocks whose hash had come before. A hash stands for the whole prefix up to the end of its block: where a trace
  // numbers blocks by their own content (RAGPulse), readers chain them first, so a passage that comes after another beginning
  // is not reused.
  std::optional<double> blocks_reused;
  std::size_t hash_bytes = 0;  // memory that sessions and hashes took
};

class StatisticsCollector {
 public:
  // REQUIRES service_s > 0, window_s >= 1.
  explicit StatisticsCollector(const StatisticsOptions& options);
  // Requests in order of arrival.
  void Add(const RequestSpec& spec, const RequestDetails& details);
  // After the last one. REQUIRES names for every model that was added.
  TraceStatistics Finish(const ModelNames& names);

 private:
  struct Gaps {
    TimePs last = -1;
    std::int64_t count = 0;
    double sum = 0;  // [s]
    double squares = 0;
    void Add(TimePs arrival);
    std::optional<double> Cv() const;
  };
  struct Counts {  // per window, closed ones
    std::int64_t window = -1;
    std::int64_t here = 0;
    std::int64_t sum = 0;
    double squares = 0;
    std::int64_t most = 0;
    void Add(std::int64_t at);
    void Close();
    std::optional<double> Dispersion(std::int64_t windows);  // over the first so many; REQUIRES that at most one more was begun
  };
  struct Model {
    std::int64_t requests = 0;
    std::int64_t prompts = 0;
    std::int64_t outputs = 0;
    Gaps gaps;
    Counts counts;
    Counts peaks;
  };
  void Active(TimePs from, TimePs to);
  std::optional<double> Spearman() const;
  void FinishModels(const ModelNames& names, TraceStatistics& s);
  void FinishTail(TraceStatistics& s) const;

  StatisticsOptions options_;
  TimePs service_;
  TimePs window_;
  std::int64_t requests_ = 0;
  TimePs first_ = 0;
  TimePs last_ = 0;
  Gaps gaps_;
  Counts counts_;
  std::vector<Model> models_;
  LengthCounts prompt_;
  LengthCounts output_;
  std::int64_t prompts_ = 0, outputs_ = 0;
  unsigned __int128 prompts2_ = 0, outputs2_ = 0, products_ = 0;
  std::vector<std::int64_t> pairs_;  // of binned lengths, prompt by output
  double active_s_ = 0;
  std::vector<TraceStatistics::Window> windows_;  // `active` in seconds until Finish
  std::vector<std::int64_t> hours_;
  std::int64_t session_requests_ = 0;
  SampledCounts sessions_;
  std::int64_t block_count_ = 0;
  std::int32_t block_tokens_ = 0;
  SampledCounts blocks_;
};

}  // namespace poolsim
