// The GPU's kernels, run on the CPU through the launch shim, against double-precision references.
#include "models/cuda/attention_problem.h"
#include "models/cuda/checks.h"
#include "models/cuda/cpu_device.h"
#include "models/cuda/reference.h"
#include "tests/catch.h"

namespace poolsim::bench {
namespace {

TEST_CASE("every kernel agrees with the reference on the shim", "[unit]") {
  const auto device = OpenShim();
  CheckKernels(*device, 4, 2, 64);
}

TEST_CASE("the CPU backend agrees with the reference", "[unit]") {
  const auto device = OpenCpu();
  CheckKernels(*device, 14, 2, 64);
  CheckKernels(*device, 4, 4, 128);
}

}  // namespace
}  // namespace poolsim::bench
