// Phase times of the model and of the trainer are added up over the steps of a report.
#include "libs/train/reporter.h"

#include "libs/observe/log.h"

namespace espalier::train {
namespace {

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

}  // namespace

void Reporter::AddStep(v1::StageKind kind, const StepResult& result, absl::Duration duration) {
  if (steps_++ == 0) {
    report_.Clear();
    duration_ = absl::ZeroDuration();
    report_.set_first_step(state_.progress.step);
    report_.set_stage(kind);
    report_.set_stage_index(state_.progress.stage_index);
  }
  report_.set_last_step(state_.progress.step);
  report_.set_tokens(report_.tokens() + result.local_tokens);
  duration_ += duration;
  AddPhases();
  if (!state_.root()) return;
  v1::StepMetrics* metrics = report_.mutable_metrics();
  metrics->Clear();
  metrics->set_loss(result.loss);
  metrics->set_gradient_norm(result.gradient_norm);
  metrics->set_learning_rate(result.learning_rate);
  metrics->set_global_tokens(result.global_tokens);
  metrics->set_skipped_steps(state_.progress.skipped_steps);
  if (result.reinforce.has_value()) *metrics->mutable_reinforce() = *result.reinforce;
}

void Reporter::AddPhases() {
  const model::PhaseSeconds& model = state_.model->phase_seconds();
  const v1::PhaseTimes& own = state_.phases;
  v1::PhaseTimes* sum = report_.mutable_phases();
  sum->set_data_seconds(sum->data_seconds() + own.data_seconds());
  sum->set_attention_seconds(sum->attention_seconds() + model.attention);
  sum->set_router_seconds(sum->router_seconds() + model.router);
  sum->set_dispatch_seconds(sum->dispatch_seconds() + model.dispatch);
  sum->set_experts_seconds(sum->experts_seconds() + model.experts);
  sum->set_combine_seconds(sum->combine_seconds() + model.combine);
  sum->set_head_seconds(sum->head_seconds() + model.head);
  sum->set_gradient_sync_seconds(sum->gradient_sync_seconds() + own.gradient_sync_seconds());
  sum->set_optimizer_seconds(sum->optimizer_seconds() + own.optimizer_seconds());
  sum->set_rollout_seconds(sum->rollout_seconds() + own.rollout_seconds());
  sum->set_reward_seconds(sum->reward_seconds() + own.reward_seconds());
}

void Reporter::SetHeldoutLoss(double loss) {
  due_ = true;
  if (steps_ > 0 && state_.root()) report_.mutable_metrics()->set_heldout_loss(loss);
}

void Reporter::FlushIfDue() {
  if (due_ || steps_ >= state_.spec.reports().steps_per_report()) Flush();
}

void Reporter::Flush() {
  due_ = false;
  if (steps_ == 0) return;
  steps_ = 0;
  *report_.mutable_duration() = ToProto(duration_);
  state_.loads.TakeLoads(state_.communicator.rank(), &report_);
  state_.controller.Report(std::move(report_));
  report_ = v1::StepReport();
}

}  // namespace espalier::train
