// The step's own collective: after the dense gradients, one exchange carries loss, norm, loads and
// the commands that each rank holds.
#include "libs/train/update.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/train/exchange.h"

namespace espalier::train {
namespace {

void CountSkip(RunState& state, const UpdateResult& result) {
  ++state.progress.skipped_steps;
  SendEvent(state, v1::EVENT_SEVERITY_WARNING, "step_skipped",
            absl::StrCat("Loss or gradient of step ", state.progress.step + 1,
                         " is not finite; no weight was changed. A lower learning rate may help."),
            {{"step", absl::StrCat(state.progress.step + 1)},
             {"loss", FormatDouble(result.loss)},
             {"gradient_norm", FormatDouble(result.gradient_norm)}});
}

// Its slopes are the same whatever the model says.
absl::StatusOr<double> RunCrossEntropy(model::Model<float>& model, const UpdateRequest& request) {
  const std::vector<int32_t>& targets = request.batch->targets;
  std::vector<float> dlogps(targets.size(), 0.0f), logps;
  const auto slope = static_cast<float>(-1.0 / request.cross_entropy_targets);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] >= 0) dlogps[i] = slope;
  }
  RETURN_IF_ERROR(model.ForwardBackwardLinear(*request.batch, dlogps,
                                              static_cast<float>(request.aux_scale), &logps));
  double loss = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] >= 0) loss -= logps[i];
  }
  return loss / request.cross_entropy_targets;
}

}  // namespace

absl::StatusOr<UpdateResult> RunUpdate(RunState& state, const UpdateRequest& request) {
  model::Model<float>& model = *state.model;
  model.ZeroGradients();
  double local_loss = 0;
  StepRecorder::Pass pass(state.recorder, "pass");
  pass.Set("tokens", static_cast<int64_t>(request.batch->tokens.size()));
  model.RecordTimeline(state.recorder.timeline());
  if (request.loss) {
    RETURN_IF_ERROR(model.ForwardBackward(
        *request.batch,
        [&](std::span<const float> logps, std::span<float> dlogps) {
          local_loss = request.loss(logps, dlogps);
        },
        static_cast<float>(request.aux_scale)));
  } else {
    ASSIGN_OR_RETURN(local_loss, RunCrossEntropy(model, request));
  }
  model.RecordTimeline(nullptr);
  pass.End();
  state.loads.Add(model.route_counts(), model.output_norms());

  StepRecorder::Phase sync(state.recorder, "gradient_sync");
  const absl::Time sync_start = absl::Now();
  RETURN_IF_ERROR(state.optimizer->ReduceDense());
  Exchange exchange(state.communicator);
  const int loss = exchange.AddReal(local_loss);
  ASSIGN_OR_RETURN(const Optimizer::SquaredNorms norms, state.optimizer->MeasureNorms());
  const int expert_norm = exchange.AddReal(norms.experts);
  const int sequence = exchange.AddMin(static_cast<int64_t>(LocalSequence(state)));
  const int tokens = exchange.AddSum(static_cast<int64_t>(request.batch->tokens.size()));
  const int slow = exchange.AddMin(state.recorder.SlowVote());
  state.loads.Pack(&exchange);
  RETURN_IF_ERROR(exchange.Run());
  state.loads.Unpack(exchange);
  sync.End();
  state.recorder.Hear(exchange.Min(slow));

  UpdateResult result;
  result.loss = exchange.Total(loss);
  result.agreed_sequence = static_cast<uint64_t>(exchange.Min(sequence));
  result.tokens = exchange.Sum(tokens);
  // A gradient that is not finite makes the norm so: squares of finite floats cannot overflow a
  // double.
  result.gradient_norm = std::sqrt(norms.dense + exchange.Total(expert_norm));
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.gradient_norm);
  const absl::Time optimizer_start = absl::Now();
  state.phases.set_gradient_sync_seconds(state.phases.gradient_sync_seconds() +
                                         absl::ToDoubleSeconds(optimizer_start - sync_start));
  if (result.skipped) {
    CountSkip(state, result);
    return result;
  }
  const StepRecorder::Phase optimizer(state.recorder, "optimizer");
  RETURN_IF_ERROR(
      state.optimizer->Apply(*request.optimizer, request.learning_rate, ++state.progress.updates,
                             ClipScale(result.gradient_norm, request.optimizer->clip_norm())));
  state.phases.set_optimizer_seconds(state.phases.optimizer_seconds() +
                                     absl::ToDoubleSeconds(absl::Now() - optimizer_start));
  return result;
}

}  // namespace espalier::train
