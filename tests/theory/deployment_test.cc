// The reported fleet of 1,192 GPUs, derived again.
#include <fstream>
#include <sstream>

#include "planning/deployment.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

std::string Committed(const std::string& file) {
  std::ifstream in(std::string(POOLSIM_SOURCE_DIR) + "/results/aegaeon/deployment/" + file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST_CASE("Whole numbers of sites are found where there are any, else a fraction for all", "[theory]") {
  // Two replicas of 28 models on one GPU and of 19 on four: 56 a + 152 b = 1,192 has one solution.
  CHECK(SitesFor(1192, {56, 152}) == std::vector<double>{5, 6});
  // One replica: (10, 12); (29, 5) is the other, and no rule of redundancy.
  CHECK(SitesFor(1192, {28, 76}) == std::vector<double>{10, 12});
  const std::vector<double> three = SitesFor(1192, {84, 228});
  REQUIRE(three.size() == 2);
  CHECK(three[0] == three[1]);
  CHECK(three[0] * (84 + 228) == Approx(1192));
}

TEST_CASE("Both families give 1,192 dedicated GPUs at the utilisation that they are fitted to", "[theory]") {
  const DeploymentSpec spec = ReadDeployment(Committed("deployment.json"), "deployment.json");
  REQUIRE(spec.families.size() == 2);
  for (const FamilySpec& family : spec.families) {
    INFO(family.name);
    const Fit fit = FitFamily(spec, family, {}, Committed);
    CHECK(fit.gpus == 1192);
    CHECK(fit.utilisation == Approx(spec.utilisation).epsilon(0.03));
    CHECK(fit.utilisation > 0.133);
    CHECK(fit.utilisation < 0.339);
  }
}

}  // namespace
}  // namespace poolsim
