// What a run leaves behind: summaries and tables as text, and a results folder that comes whole or not at all.
//
// The functions are pure: same result in, same bytes out, whatever the compiler, build type or locale. Reals are rounded to a few
// significant digits, exactly; counts stay whole. Every key and every column header carries its unit, or is a plain count or
// share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/fields.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace poolsim {

// `value` to so many significant digits, half to even on the exact value; 0 for what is not finite.
double Rounded(double value, int digits = 6);

// Shares of the measured requests; 1 when there was nothing to miss.
struct Attainment {
  double token = 1;
  double service = 1;
  double request = 1;
  double request_gaps = 1;  // by TTFT and every gap, instead of deadlines
};
Attainment AttainmentOf(const ModelMetrics& m);

// How evenly service attainment falls to the models that had requests, each of them alike.
struct Fairness {
  double jain = 1;          // Jain's index (sum x)^2 / (n sum x^2): 1 when all fare alike, 1/n when one has all
  double worst_decile = 1;  // mean of the tenth of them, rounded up, that fare worst
};
Fairness FairnessOf(const RunResult& result);
// The same among its tenants.
Fairness FairnessOfTenants(const RunResult& result);

// Of the GPU-time owned. busy is the sum of the first four; idle the rest, without `down`.
struct Utilisation {
  double busy = 0;
  double prefill = 0;
  double decode = 0;
  double switching = 0;  // key "switch"
  double kv_copy = 0;
  double down = 0;  // failed or taken out of service
  double idle = 1;
};
Utilisation UtilisationOf(const RunResult& result);

std::int64_t FailedRequests(const ModelMetrics& m);
// On-time tokens a second, over the time in which arrivals are measured.
double Goodput(const Scenario& scenario, const RunResult& result);

// summary.json. Of an infeasible result: policy, status and reason alone. `cost_usd` and `energy_kwh` are those of ownership.h,
// energy at most; `power_kw` is the mean, energy over simulated time, and the peak, that all boards can draw at once; all are
// null where a figure is missing.
//
//   breakdown_s       where a finished request's time goes on average, in the order of Spell; the sum is e2e_s.mean
//   kv_sync_s         how long each waited for moves of its own KV
//   kv_fragmentation  share of the KV memory of stepping batches that holds no token: in `blocks`, and in `slabs` of whole blocks
//                     (KvHeld says what that leaves out)
//
// `switching` (SwitchMetrics says what is counted):
//
//   from           switches by where the weights were; their sum is `switches`
//   latency_s      of the switches that ended; those from `resident` take 0
//   stages_s       sums over them of engine stages, waiting for weights, and copies out of the prefetch buffer; `kv` is the time
//                  that instances waited for KV
//   prefetches     started; hits: used by a switch, finished or not; misses: the others
//   host_cache     loads and prefetches that found their weights there or did not, and what was evicted for them
//   bytes_from     bytes of weights read from each tier
Json SummaryJson(const Scenario& scenario, const RunResult& result);
std::string ModelsCsv(const RunResult& result);
// Where the scenario has tenants.
std::string TenantsCsv(const RunResult& result);
std::string WindowsCsv(const RunResult& result);

// What pictures are drawn from. REQUIRES result.record (RunOptions::record).
//
// Windows are as long as a power of two of the scenario's (metrics.window_s), the shortest of which there are not too many; the
// last one of a run is as long as the run has left.

// distributions.csv: a row per bin that is not empty. `upper` is the bin's upper edge, to six digits; bins are as wide as
// Histogram makes them. Measured requests only: ttft_s, tbt_s, tpot_s, e2e_s and kv_sync_s as in the summary, prompt_tokens and
// output_tokens as asked for; switch_s is the latency of the switches that ended, the warm-up's included.
std::string DistributionsCsv(const RunResult& result);
// model_windows.csv: the columns of models.csv over time, of measured requests, in at most kModelWindows windows; rows of zeros
// are left out.
std::string ModelWindowsCsv(const RunResult& result);
// fleet.csv: what the GPUs did, in at most kFleetRows rows of neighbouring instances and kFleetWindows windows. Instances are
// numbered through the fleet, pool by pool; where each model has instances of its own they come model by model. The four shares
// are of the row's GPU time in the window. `model` took most of the busy time, of equals the first in models.csv; among more than
// four models in one cell it may be another that is not behind by more than a fifth of the busy time (Busiest), and where models
// take turns a run of steps is laid out as if they came one after the other. Blank: idle. Idle cells are left out, but for a
// row's first window.
std::string FleetCsv(const RunResult& result);

// A summary per policy. In the CSV nested keys are joined with dots; cells that an infeasible policy has no value for are empty.
Json CompareJson(const Scenario& scenario, const std::vector<RunResult>& results);
std::string CompareCsv(const Scenario& scenario, const std::vector<RunResult>& results);

// A summary's values by their nested keys, joined with dots, in the order of the document.
std::vector<std::pair<std::string, Json>> Flattened(const Json& summary);
// A value as a cell of a CSV file; null is empty.
std::string CsvValue(const Json& value);

// Where results come from, besides the scenario.
struct Provenance {
  std::string version;
  std::string commit;
  std::string command;   // as it was typed
  std::string scenario;  // file, as it was typed
};
Json ManifestJson(const Provenance& provenance, const Scenario& scenario, const WorkloadFacts& facts,
                  const std::vector<RunResult>& results);

// JSON as it is written to files: indented by two, a newline at the end.
std::string FileText(const Json& json);

// A cell of a CSV file: quoted where it must be (RFC 4180), with a ' before what a spreadsheet would compute (sim/foreign.h).
std::string CsvCell(std::string_view text);

// A results folder in the making. Files go to a hidden folder beside the final one, which takes its place when all of them are on
// the disk; until then, and after an error, the final folder is as it was before. What a killed run left is removed by the next
// one.
class ResultsFolder {
 public:
  // Throws InputError, before anything is simulated, when `folder` cannot be written, or holds what poolsim did not write: an
  // earlier results folder is replaced, anything else is left alone. Missing parents are made, and removed again when nothing is
  // committed.
  explicit ResultsFolder(const std::string& folder);
  ~ResultsFolder() { Discard(); }
  ResultsFolder(const ResultsFolder&) = delete;
  ResultsFolder& operator=(const ResultsFolder&) = delete;

  // A file that is written piece by piece. Throws InputError when the disk is full. Not for two threads at once.
  class File {
   public:
    ~File() {
      if (file_ != nullptr) std::fclose(file_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    void Write(std::string_view text);
    void Close();

   private:
    friend class ResultsFolder;
    File(std::string path, std::string shown);
    std::string path_;
    std::string shown_;  // in messages
    std::FILE* file_ = nullptr;
  };

  // `name` may have one folder in front ("aegaeon/summary.json").
  std::unique_ptr<File> Open(const std::string& name);
  void Write(const std::string& name, std::string_view text);
  // A file that is not wanted after all.
  void Drop(const std::string& name);

  // Where the files are until Commit, and what there is so far.
  const std::string& path() const { return temporary_; }
  const std::vector<std::string>& files() const { return files_; }

  // Adds the list of files to `manifest`, writes it as manifest.json and puts the folder in its place.
  void Commit(Json manifest);
  // Removes what was written so far. Safe from another thread, and after Commit without effect.
  void Discard();

 private:
  void CheckTarget() const;
  void MakeParents();
  void Sync() const;
  void Replace();

  std::string shown_;   // as the user named it
  std::string target_;  // absolute
  std::string temporary_;
  std::vector<std::string> made_parents_;  // outermost first
  std::vector<std::string> files_;
  std::mutex mutex_;
  bool open_ = false;
};

}  // namespace poolsim
