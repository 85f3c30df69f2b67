// Stage: what differs between pretraining, finetuning and reinforcement; the loop around them is
// the same.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/train/run_state.h"

namespace espalier::train {

struct StepResult {
  double loss = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  uint64_t local_tokens = 0;   // that this rank fed through the model
  uint64_t global_tokens = 0;  // and all ranks
  uint64_t agreed_sequence = 0;
  std::optional<v1::ReinforceMetrics> reinforce;  // of the step's rollout
};

enum class EvaluationPhase { kBefore, kDuring, kAfter };

// Every method is collective and not thread-safe; all ranks call the same in the same order.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual v1::StageKind kind() const = 0;
  virtual uint64_t steps() const = 0;
  virtual uint64_t eval_every() const = 0;
  // One step, from data to optimizer; `step` counts from 1 within the stage.
  virtual absl::StatusOr<StepResult> Step(uint64_t step) = 0;
  // Held-out loss of the model as it is.
  virtual absl::StatusOr<double> HeldoutLoss() = 0;
  // The stage's regular evaluation, with its event. Returns the held-out loss where the stage
  // measures one.
  virtual absl::StatusOr<std::optional<double>> Evaluate(EvaluationPhase phase) = 0;
};

// Of state.spec.stages(state.progress.stage_index), which is not an export stage. `state` must
// outlive the stage.
std::unique_ptr<Stage> MakeStage(RunState& state);

std::unique_ptr<Stage> MakePretrainStage(RunState& state, const v1::PretrainStage& spec);
std::unique_ptr<Stage> MakeFinetuneStage(RunState& state, const v1::FinetuneStage& spec);
std::unique_ptr<Stage> MakeReinforceStage(RunState& state, const v1::ReinforceStage& spec);

}  // namespace espalier::train
