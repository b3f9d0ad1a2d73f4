#include "sim/team.h"

namespace poolsim {

Team::Team(int threads) {
  for (int t = 1; t < threads; ++t) {
    threads_.emplace_back([this, t] {
      std::uint64_t seen = 0;
      std::unique_lock<std::mutex> lock(mutex_);
      for (;;) {
        begin_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
        lock.unlock();
        WorkOff(t);
        lock.lock();
        if (--working_ == 0) end_.notify_one();
      }
    });
  }
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  begin_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::WorkOff(int worker) {
  for (std::size_t i = next_++; i < tasks_; i = next_++) {
    try {
      (*task_)(i, worker);
    } catch (...) {
      next_ = tasks_;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (error_ && error_task_ < i) continue;
      error_ = std::current_exception();
      error_task_ = i;
    }
  }
}

void Team::Run(std::size_t tasks, const std::function<void(std::size_t, int)>& task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    tasks_ = tasks;
    next_ = 0;
    error_ = nullptr;
    working_ = threads_.size();
    ++round_;
  }
  begin_.notify_all();
  WorkOff(0);
  std::unique_lock<std::mutex> lock(mutex_);
  end_.wait(lock, [this] { return working_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

}  // namespace poolsim
