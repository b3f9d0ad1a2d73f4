// How a simulation comes along, on stderr: a bar on a terminal, a plain line every ten seconds elsewhere.
//
// The simulation only stores two numbers now and then; a thread of its own turns them into text.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sim/simulation.h"
#include "sim/time.h"

namespace poolsim {

// What there is to say.
struct ProgressState {
  std::string label;    // what is running
  double fraction = 0;  // of the whole
  TimePs simulated = 0;
  std::int64_t requests = 0;
  double elapsed_s = 0;  // since the first simulation began
};
// One line, of at most `width` characters with a bar, or of any length without one.
std::string ProgressBar(const ProgressState& state, std::size_t width);
std::string ProgressLine(const ProgressState& state);

class Progress {
 public:
  enum class Mode { kOff, kLines, kBar };
  // kOff when quiet, else by what stderr is.
  static Mode ModeFor(bool quiet);

  // Says that the workload is being read, until the first Sink.
  explicit Progress(Mode mode);
  // Stops and clears the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // What is to come, before any Sink: simulations, and about so many requests in each of them.
  void Expect(std::size_t simulations, std::int64_t requests);
  // For simulation `i`, which begins now; null when off.
  ProgressSink Sink(std::size_t i, const std::string& label);
  void Done(std::size_t i);

 private:
  struct Slot {
    std::string label;     // guarded by mutex_
    bool running = false;  // guarded by mutex_
    bool done = false;     // guarded by mutex_
    std::atomic<TimePs> simulated{0};
    std::atomic<std::int64_t> requests{0};
  };
  void Run();
  ProgressState State();  // mutex_ held
  double FractionOf(const Slot& slot) const;
  void Show();

  Mode mode_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  bool shown_ = false;
  bool begun_ = false;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::vector<std::unique_ptr<Slot>> slots_;
  std::int64_t expected_requests_ = 0;
  std::thread thread_;
};

// One line on a terminal that is written over; nothing elsewhere, or when quiet. From any thread.
class StatusLine {
 public:
  explicit StatusLine(bool quiet) : on_(Progress::ModeFor(quiet) == Progress::Mode::kBar) {}
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  void Say(const std::string& text);

 private:
  bool on_;
  std::mutex mutex_;
};

}  // namespace poolsim
