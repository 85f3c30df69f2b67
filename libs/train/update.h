// One optimizer update: a pass of the model, gradients and the step's small numbers over all ranks,
// AdamW.
#pragma once

#include "absl/status/statusor.h"
#include "libs/model/model.h"
#include "libs/train/run_state.h"

namespace espalier::train {

struct UpdateRequest {
  const model::Batch* batch = nullptr;
  // Fills dlogps and returns this rank's part of the loss (a sum that is already divided by the
  // global count).
  std::function<double(std::span<const float> logps, std::span<float> dlogps)> loss;
  // This rank's share of the global batch's tokens.
  double aux_scale = 0;
  const v1::OptimizerSpec* optimizer = nullptr;
  double learning_rate = 0;
};

struct UpdateResult {
  double loss = 0;           // of the global batch
  double gradient_norm = 0;  // before clipping
  uint64_t agreed_sequence = 0;
  int64_t tokens = 0;    // fed through the model over all ranks
  bool skipped = false;  // loss or gradient was not finite: no weight changed
};

// (collective)
absl::StatusOr<UpdateResult> RunUpdate(RunState& state, const UpdateRequest& request);

// Mean negative log-probability: the loss of pretraining and finetuning.
double CrossEntropy(std::span<const int32_t> targets, std::span<const float> logps,
                    double global_targets, std::span<float> dlogps);

}  // namespace espalier::train
