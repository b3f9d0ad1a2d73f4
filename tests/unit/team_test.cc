#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "sim/nodes.h"
#include "sim/team.h"
#include "tests/catch.h"

namespace poolsim {

TEST_CASE("A team does every task once, and again", "[unit][threads]") {
  for (int size = 1; size <= 4; ++size) {
    Team team(size);
    CHECK(team.size() == size);
    for (const std::size_t tasks : {0, 1, 50}) {
      std::vector<std::atomic<int>> times(tasks);
      std::atomic<int> strangers{0};
      team.Run(tasks, [&](std::size_t task, int worker) {
        ++times[task];
        strangers += worker < 0 || worker >= size;
      });
      for (const std::atomic<int>& n : times) CHECK(n == 1);
      CHECK(strangers == 0);
    }
  }
}

TEST_CASE("Of the tasks that fail, the first by number is heard, and the team goes on", "[unit][threads]") {
  for (int round = 0; round < 200; ++round) {
    Team team(1 + round % 4);
    std::string what;
    try {
      team.Run(50, [](std::size_t task, int) {
        if (task == 7 || task == 8 || task == 9 || task == 30) throw std::runtime_error(std::to_string(task));
      });
    } catch (const std::runtime_error& error) {
      what = error.what();
    }
    CHECK(what == "7");
    std::atomic<int> done{0};
    team.Run(20, [&](std::size_t, int) { ++done; });
    CHECK(done == 20);
  }
}

TEST_CASE("Instances lie in the first node with room, or in whole nodes of their own", "[unit]") {
  NodePacking packing(8);
  const auto at = [&](std::int64_t gpus) {
    const NodePacking::Place place = packing.Take(gpus);
    return std::pair<std::int64_t, std::int64_t>(place.node, place.first_gpu);
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  CHECK(at(4) == Pair(0, 0));
  CHECK(at(2) == Pair(0, 4));
  CHECK(at(4) == Pair(1, 0));   // two are left in the first node
  CHECK(at(16) == Pair(2, 0));  // nodes 2 and 3
  CHECK(at(8) == Pair(4, 0));
  CHECK(at(1) == Pair(0, 6));
  CHECK(at(4) == Pair(1, 4));
  CHECK(packing.nodes() == 5);
  CHECK(packing.Stranded() == 1);
}

}  // namespace poolsim
