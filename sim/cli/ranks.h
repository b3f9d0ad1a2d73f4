// The processes that work on a command together: this one alone, or those that mpirun or srun started.
//
// This is all that knows of MPI. What is done together is a list of numbered tasks, each of which gives a text; who does which
// task makes no difference to it. Rank 0 hands the tasks out one by one, as threads come free anywhere, and works too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sim/team.h"

namespace poolsim {

class Ranks {
 public:
  // As the launcher says, without MPI: rank 0 of 1 where there is none.
  static int LaunchedRank();
  static int LaunchedSize();
  // "Open MPI v4.1.4", or that this was built without MPI.
  static std::string Library();

  // Joins the others. Throws InputError when there are others and this was built without MPI. One at a time, on the main thread.
  Ranks();
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }

  // All call it before they do anything together. `error`: why this rank cannot take part ("": it can); `identity`: of what it is
  // about to do. True when all can, and agree with rank 0. Otherwise rank 0 throws InputError with its own error, or the first
  // other rank's, named with its host; the others get false.
  bool Agree(const std::string& error, const std::string& identity) const;

  using Work = std::function<std::string(std::size_t task)>;
  using Take = std::function<void(std::size_t task, const std::string& text)>;
  // Does every task of rank 0's list once, on at most `threads` threads of each rank, begun in the list's order. `work` is called
  // on any rank and thread; `take` on rank 0 alone, one call at a time, as tasks are finished. When any of them throws, no
  // further task is begun, and rank 0 throws it when those under way are done: as it was, or from another rank as a
  // std::runtime_error that names it. A rank that dies takes all others with it: the launcher ends them.
  void Run(const std::vector<std::size_t>& tasks, int threads, const Work& work, const Take& take) const;
  // For the simulation and for planning; null where this process is alone.
  Share Sharing(int threads) const;
  // What happened on this rank alone is said, and ends all of them: the others may be waiting for it.
  [[noreturn]] void Abandon(const std::string& why) const;

 private:
  class Dealer;
  struct Mpi;
  void ServeOthers(Dealer& dealer) const;
  void WorkForRankZero(int threads, const Work& work) const;

  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<Mpi> mpi_;
};

}  // namespace poolsim
