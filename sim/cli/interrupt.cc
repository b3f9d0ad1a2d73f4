#include "sim/cli/interrupt.h"

#include <cstdio>

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

namespace poolsim {

InterruptGuard::InterruptGuard(std::function<void()> clean_up, std::function<std::string()> left)
    : clean_up_(std::move(clean_up)), left_(std::move(left)) {
  sigemptyset(&waited_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction present {};
    sigaction(signal, nullptr, &present);
    if (present.sa_handler == SIG_IGN) continue;
    sigaddset(&waited_, signal);
    wake_ = signal;
  }
  pthread_sigmask(SIG_BLOCK, &waited_, &before_);
  if (wake_ != 0) thread_ = std::thread([this] { Wait(); });
}

InterruptGuard::~InterruptGuard() {
  if (thread_.joinable()) {
    done_ = true;
    pthread_kill(thread_.native_handle(), wake_);
    thread_.join();
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void InterruptGuard::Wait() {
  int signal = 0;
  if (sigwait(&waited_, &signal) != 0 || done_) return;
  clean_up_();
  const std::string left = left_();
  if (!left.empty()) {
    // After the bar, or the ^C.
    fmt::print(stderr, "{}poolsim: interrupted; {}\n", isatty(STDERR_FILENO) == 1 ? "\n" : "", left);
  }
  _exit(128 + signal);
}

}  // namespace poolsim
