// Ctrl-C and its like leave nothing half-written behind.
#pragma once

#include <csignal>

#include <atomic>
#include <functional>
#include <string>
#include <thread>

namespace poolsim {

// While it lives, SIGINT, SIGTERM and SIGHUP call `clean_up` on a thread of their own (so it may do anything) and then end the
// program. Threads started in its lifetime leave the signals to it. Signals that were ignored stay ignored. What is said of it:
// "interrupted; " and the text that `left` gives after `clean_up`; nothing when that is empty.
class InterruptGuard {
 public:
  explicit InterruptGuard(
      std::function<void()> clean_up, std::function<std::string()> left = [] { return "no results were written"; });
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  void Wait();

  std::function<void()> clean_up_;
  std::function<std::string()> left_;
  sigset_t waited_{};
  sigset_t before_{};
  int wake_ = 0;  // a signal of the set, for our own use
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace poolsim
