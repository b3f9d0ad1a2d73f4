// A few threads that work off numbered tasks together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace poolsim {

// Numbered tasks, each of which gives a text, done by whoever is free in several processes (sim/cli/ranks.h): all of them make
// the same call, and who does which task makes no difference. `work` is called on any thread of any process, `take` in the first
// process alone, one call at a time. Elsewhere the call gives false: nothing is left to do there.
using Share = std::function<bool(std::size_t tasks, const std::function<std::string(std::size_t task)>& work,
                                 const std::function<void(std::size_t task, const std::string& text)>& take)>;

class Team {
 public:
  // `threads` >= 1, the caller's own included.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // task(i, worker) for every i in 0 .. tasks - 1, begun in this order, on whichever of the workers 0 .. size() - 1 is free;
  // returns when all are done. When tasks throw, no further one is begun, and what the first of them (by number) threw is thrown
  // here.
  void Run(std::size_t tasks, const std::function<void(std::size_t task, int worker)>& task);

 private:
  void WorkOff(int worker);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable begin_;
  std::condition_variable end_;
  std::uint64_t round_ = 0;  // guarded by mutex_, as are these
  std::size_t working_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::size_t error_task_ = 0;
  const std::function<void(std::size_t, int)>* task_ = nullptr;  // change between rounds only, as does this
  std::size_t tasks_ = 0;
  std::atomic<std::size_t> next_{0};
};

}  // namespace poolsim
