#include "sim/cli/ranks.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include <fmt/format.h>

#ifdef POOLSIM_MPI
#include <boost/mpi.hpp>
#include <boost/serialization/string.hpp>
#include <boost/serialization/utility.hpp>
#endif

#include "sim/errors.h"
#include "sim/team.h"

namespace poolsim {
namespace {

// Open MPI's mpirun; Slurm's srun with PMIx, and with PMI-2.
int FromLauncher(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names) {
    if (const char* text = std::getenv(name)) return std::atoi(text);
  }
  return otherwise;
}

}  // namespace

int Ranks::LaunchedRank() { return FromLauncher({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}, 0); }

int Ranks::LaunchedSize() {
  // PMIx alone does not say how many: Slurm does.
  return FromLauncher({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"},
                      std::getenv("PMIX_RANK") != nullptr ? FromLauncher({"SLURM_NTASKS"}, 2) : 1);
}

// Which task is next, for the threads of rank 0; what is finished, one at a time.
class Ranks::Dealer {
 public:
  Dealer(const std::vector<std::size_t>& tasks, const Take& take) : tasks_(tasks), take_(take) {}

  bool Next(std::size_t& task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ || next_ == tasks_.size()) return false;
    task = tasks_[next_++];
    return true;
  }
  void Finished(std::size_t task, const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_) return;
    try {
      take_(task, text);
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void Failed(std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::move(error);
  }
  void Rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::vector<std::size_t>& tasks_;
  const Take& take_;
  std::mutex mutex_;
  std::size_t next_ = 0;
  std::exception_ptr error_;
};

#ifdef POOLSIM_MPI

namespace mpi = boost::mpi;

namespace {

// How long a thread sleeps between two looks for a message: a wait inside MPI would keep a core busy.
constexpr std::chrono::microseconds kNap{200};

// To rank 0: what became of a task, which also asks for the next one. Its answer goes to the thread's own tag.
constexpr int kToRankZero = 0;
constexpr int kToThread = 1;  // + thread

struct Report {
  enum Kind : int { kReady, kFinished, kFailed, kLeft };
  int kind = kReady;
  int thread = 0;
  std::uint64_t task = 0;
  std::string text;

  template <class Archive>
  void serialize(Archive& archive, unsigned) {  // NOLINT: Boost's name
    archive& kind& thread& task& text;
  }
};
constexpr std::int64_t kNoMore = -1;

}  // namespace

struct Ranks::Mpi {
  // Errors are told to rank 0, so that none need abort the others.
  mpi::environment environment{mpi::threading::serialized, false};
  mpi::communicator world;
};

std::string Ranks::Library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<std::size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

Ranks::Ranks() {
  // Alone there is nothing to join, and MPI takes a while to start.
  if (LaunchedSize() == 1) return;
  mpi_ = std::make_unique<Mpi>();
  rank_ = mpi_->world.rank();
  size_ = mpi_->world.size();
}

bool Ranks::Agree(const std::string& error, const std::string& identity) const {
  if (size_ == 1) {
    if (!error.empty()) throw InputError(error);
    return true;
  }
  std::vector<std::pair<std::string, std::string>> all;
  std::vector<std::string> hosts;
  mpi::gather(mpi_->world, std::pair(error, identity), all, 0);
  mpi::gather(mpi_->world, mpi::environment::processor_name(), hosts, 0);
  std::string verdict;
  for (std::size_t r = 0; r < all.size() && verdict.empty(); ++r) {
    const std::string who = r == 0 ? "" : fmt::format("rank {} on {}: ", r, hosts[r]);
    if (!all[r].first.empty()) {
      verdict = who + all[r].first;
    } else if (all[r].second != all[0].second) {
      verdict = fmt::format("{}it would do something else than rank 0 on {}: {} there, {} here", who, hosts[0], all[r].second,
                            all[0].second);
    }
  }
  bool agreed = verdict.empty();
  mpi::broadcast(mpi_->world, agreed, 0);
  if (!verdict.empty()) throw InputError(verdict);
  return agreed;
}

void Ranks::ServeOthers(Dealer& dealer) const {
  for (int there = size_ - 1; there > 0;) {
    const auto message = mpi_->world.iprobe(mpi::any_source, kToRankZero);
    if (!message) {
      std::this_thread::sleep_for(kNap);
      continue;
    }
    Report report;
    mpi_->world.recv(message->source(), kToRankZero, report);
    if (report.kind == Report::kLeft) --there;
    if (report.kind == Report::kFinished) dealer.Finished(report.task, report.text);
    if (report.kind == Report::kFailed) {
      dealer.Failed(std::make_exception_ptr(std::runtime_error(fmt::format("rank {}: {}", message->source(), report.text))));
    }
    if (report.kind == Report::kReady || report.kind == Report::kFinished) {
      std::size_t task = 0;
      const std::int64_t answer = dealer.Next(task) ? static_cast<std::int64_t>(task) : kNoMore;
      mpi_->world.send(message->source(), kToThread + report.thread, answer);
    }
  }
}

void Ranks::WorkForRankZero(int threads, const Work& work) const {
  std::mutex mutex;  // one thread at a time talks
  Team(threads).Run(static_cast<std::size_t>(threads), [&](std::size_t thread, int) {
    const int tag = kToThread + static_cast<int>(thread);
    Report report;
    report.thread = static_cast<int>(thread);
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      mpi_->world.send(0, kToRankZero, report);
      if (report.kind == Report::kFailed) return;
      while (!mpi_->world.iprobe(0, tag)) {
        lock.unlock();
        std::this_thread::sleep_for(kNap);
        lock.lock();
      }
      std::int64_t task = kNoMore;
      mpi_->world.recv(0, tag, task);
      lock.unlock();
      if (task == kNoMore) return;
      report.task = static_cast<std::uint64_t>(task);
      try {
        report.text = work(static_cast<std::size_t>(task));
        report.kind = Report::kFinished;
      } catch (const std::exception& error) {
        report.text = error.what();
        report.kind = Report::kFailed;
      }
    }
  });
  Report left;
  left.kind = Report::kLeft;
  mpi_->world.send(0, kToRankZero, left);
}

#else

struct Ranks::Mpi {};
std::string Ranks::Library() { return "built without MPI (it needs Boost.MPI and Open MPI)"; }
Ranks::Ranks() {
  if (LaunchedSize() > 1)
    throw InputError("started as several processes, but built without MPI: they would not know of each other");
}
bool Ranks::Agree(const std::string& error, const std::string&) const {
  if (!error.empty()) throw InputError(error);
  return true;
}
void Ranks::ServeOthers(Dealer&) const {}
void Ranks::WorkForRankZero(int, const Work&) const {}

#endif

Ranks::~Ranks() = default;

Share Ranks::Sharing(int threads) const {
  if (size_ == 1) return nullptr;
  return [this, threads](std::size_t tasks, const Work& work, const Take& take) {
    std::vector<std::size_t> all(tasks);
    std::iota(all.begin(), all.end(), 0);
    Run(all, threads, work, take);
    return rank_ == 0;
  };
}

void Ranks::Abandon(const std::string& why) const {
  fmt::print(stderr, "poolsim: rank {}: {}\n", rank_, why);
  std::fflush(nullptr);
  std::_Exit(2);  // without a word to MPI: the launcher ends the others
}

void Ranks::Run(const std::vector<std::size_t>& tasks, int threads, const Work& work, const Take& take) const {
  if (rank_ != 0) return WorkForRankZero(threads, work);
  Dealer dealer(tasks, take);
  std::thread server;
  if (size_ > 1) server = std::thread([&] { ServeOthers(dealer); });
  Team(threads).Run(static_cast<std::size_t>(threads), [&](std::size_t, int) {
    try {
      for (std::size_t task = 0; dealer.Next(task);) dealer.Finished(task, work(task));
    } catch (...) {
      dealer.Failed(std::current_exception());
    }
  });
  if (server.joinable()) server.join();
  dealer.Rethrow();
}

}  // namespace poolsim
