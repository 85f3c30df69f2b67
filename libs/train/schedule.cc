// The peak is reached at the last warmup step.
#include "libs/train/schedule.h"

#include <cmath>
#include <numbers>

namespace espalier::train {

double LearningRate(const v1::OptimizerSpec& spec, uint64_t step, uint64_t steps) {
  const double peak = spec.learning_rate();
  const uint64_t warmup = spec.warmup_steps();
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double done = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  const double last = spec.final_learning_rate();
  return last + (peak - last) * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
}

}  // namespace espalier::train
