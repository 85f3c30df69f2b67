// Optimizer: dense gradients summed over ranks, the global gradient norm, and AdamW over the
// parameters of one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/run_spec.pb.h"
#include "libs/model/model.h"

namespace espalier::train {

// Works on the parameters' own arrays, or hands each call to a model whose parameters live on a device.
// Used in this order once per update: ReduceDense, then the norms, then Apply or nothing (a skipped
// update). Moments live in the parameters, so they move and are saved with them. Not thread-safe.
class Optimizer {
 public:
  explicit Optimizer(model::Model<float>& model);

  // Parameters moved or went: call after every ApplyLayout.
  void ParametersChanged();
  // Every moment becomes zero, as at the start of a stage.
  absl::Status ResetMoments();

  // Sums the gradients of the dense parameters over all ranks, bucket by bucket through one flat
  // buffer. (collective)
  absl::Status ReduceDense();

  // Of the reduced dense gradients (equal on all ranks), and of the gradients of this rank's own
  // experts.
  struct SquaredNorms {
    double dense = 0, experts = 0;
  };
  absl::StatusOr<SquaredNorms> MeasureNorms();

  // One AdamW step with every gradient multiplied by `gradient_scale`; rows of masked experts stay
  // as they are. `update` counts from 1 since ResetMoments.
  absl::Status Apply(const v1::OptimizerSpec& spec, double learning_rate, uint64_t update,
                     double gradient_scale);

 private:
  const float* GradientOf(size_t index) const;

  model::Model<float>& model_;
  std::vector<model::Parameter<float>*> parameters_;  // dense ones first
  size_t dense_count_ = 0;
  // Reduced dense gradients, back to back; empty with one rank, whose gradients are already whole.
  std::vector<float> reduced_;
  std::vector<int64_t> offsets_;  // of each dense parameter in reduced_
};

// Factor that brings a gradient of this norm down to `clip_norm` (0: never).
double ClipScale(double norm, double clip_norm);

}  // namespace espalier::train
