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
  // global count). Empty for cross-entropy:
  std::function<double(std::span<const float> logps, std::span<float> dlogps)> loss;
  // the mean negative log-probability of this many targets over all ranks.
  double cross_entropy_targets = 0;
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

}  // namespace espalier::train
