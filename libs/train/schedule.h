// Learning rate of a stage's steps: linear warmup, then cosine decay.
#pragma once

#include <cstdint>

#include "espalier/v1/run_spec.pb.h"

namespace espalier::train {

// Step counts from 1 to `steps`. The last step has exactly final_learning_rate unless warmup covers
// the whole stage.
double LearningRate(const v1::OptimizerSpec& spec, uint64_t step, uint64_t steps);

}  // namespace espalier::train
