// A run on disk, from which it goes on after it was killed.
//
// The state is that of engines and policies between two pieces of the workload (archive.h). The workload itself is not in it: a
// run that goes on reads it again as far as it had come, and compares hashes.
//
// The file: the line kCheckpointMagic; its format's number, the lengths of what follows and a checksum of them, 8 bytes each;
// `about` as JSON; the state. It is replaced in one step, so that there is always a whole one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "sim/fields.h"

namespace poolsim {

inline constexpr std::string_view kCheckpointMagic = "poolsim checkpoint\n";

struct Checkpoint {
  Json about;  // of the run: how it was called, and by which build, "build"
  std::string state;
};

// Whether the file begins as one.
bool IsCheckpoint(const std::string& file);
// Throws InputError when it cannot be written, a full disk say; what the file held is there then.
void WriteCheckpoint(const std::string& file, const Json& about, std::string_view state);
// Throws InputError for a file that is not there, no checkpoint, torn, of another format or of another build than `build`.
Checkpoint ReadCheckpoint(const std::string& file, const std::string& build);

// How a run keeps checkpoints, and what it goes on from.
struct Checkpoints {
  double every_s = 60;                                // wall-clock time; the first one comes at once
  std::function<void(std::string_view state)> write;  // called while nothing runs
  std::string_view from;                              // the state to go on from; empty: the beginning
  std::string rows;                                   // file that rows of requests.csv are kept in until the end
  std::int64_t piece = 0;                             // requests between two rests; 0: as many as suit the run.
                                                      // For tests; rows then go to the file 4 KB at a time
};

// Brings the threads of a run to rest between two pieces of work whenever a checkpoint is due, so that one of them can write it.
class RestPoint {
 public:
  RestPoint(double every_s, std::function<void()> save);
  // Around a thread's work.
  void Enter();
  void Leave();
  // Between two pieces of it. Throws, on every thread, what `save` has thrown.
  void Rest();

 private:
  bool Due() const { return std::chrono::steady_clock::now() >= next_; }
  void Save();  // the mutex is held

  const std::chrono::duration<double> every_;
  const std::function<void()> save_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::chrono::steady_clock::time_point next_;
  std::int64_t working_ = 0;
  std::uint64_t saved_ = 0;
  std::exception_ptr error_;
};

}  // namespace poolsim
