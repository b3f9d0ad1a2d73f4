// Times one case after another on a device.
#pragma once

#include <memory>
#include <optional>

#include "models/cuda/device.h"
#include "models/cuda/model.h"
#include "models/cuda/plan.h"

namespace poolsim::bench {

struct Timed {
  Summary time = {};
  std::optional<double> back = {};         // median of the other direction, of copies both ways
  std::optional<std::int64_t> bytes = {};  // of kind memory
};

class Measurer {
 public:
  Measurer(Device& device, const LlmSpec& llm, const Scope& scope);
  ~Measurer();

  // Checks the output of the case's first run where there is one (throws CheckFailed), then times it.
  Timed Measure(const Case& c);
  // How many sets of layer weights whole steps used; 0: there was none.
  int DistinctLayers() const { return model_ ? model_->DistinctLayers() : 0; }

 private:
  struct Weights;

  Summary TimeInARow(int copies, const std::function<void(int copy)>& queue);
  int CopiesOf(std::int64_t bytes) const;
  Timed Copy(const Case& c);
  Timed KvCopy(const Case& c);
  Timed AllReduce(const Case& c);
  Timed Gemm(const Case& c);
  Timed PrefillAttention(const Case& c);
  Timed DecodeAttention(const Case& c);
  Timed Step(const Case& c);

  Device& device_;
  const LlmSpec& llm_;
  const Scope& scope_;
  std::unique_ptr<Weights> weights_;  // of the last gemm: the next has often the same
  std::unique_ptr<Model> model_;
};

}  // namespace poolsim::bench
