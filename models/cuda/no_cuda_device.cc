#include "models/cuda/device.h"

namespace poolsim::bench {

std::unique_ptr<Device> OpenCuda(int) {
  throw NoDevice("no CUDA device: this poolsim-bench was built without nvcc and measures CPUs only");
}

}  // namespace poolsim::bench
