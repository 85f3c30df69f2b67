// A command that is wrong changes nothing anywhere: what decides that is the same on every rank, or
// is agreed.
#include "libs/train/commands.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/message.h"
#include "google/protobuf/unknown_field_set.h"
#include "libs/base/status_macros.h"
#include "libs/model/export.h"
#include "libs/observe/log.h"
#include "libs/spec/spec.h"
#include "libs/train/exchange.h"
#include "libs/train/layout.h"

namespace espalier::train {
namespace {

constexpr absl::Duration kPausePoll = absl::Milliseconds(100);

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

// The field that an action unknown to this worker came in: all that can be said of it.
std::string ActionName(const v1::Command& command) {
  const auto& unknown = command.GetReflection()->GetUnknownFields(command);
  if (unknown.empty()) return "no action";
  return absl::StrCat("an action (field ", unknown.field(0).number(), ")");
}

// What an export asked for while the run goes on is written as: the run's own export stage, else the family that the model belongs to.
model::ModelFamily FamilyOfRun(const RunState& state) {
  for (const v1::StageSpec& stage : state.spec.stages()) {
    if (stage.has_export_()) return spec::ToFamily(stage.export_().format());
  }
  const model::ModelConfig& config = state.model->config();
  if (config.router == model::RouterKind::kSigmoid) return model::ModelFamily::kGlm4Moe;
  switch (config.qk_norm) {
    case model::QkNorm::kHead:
      return model::ModelFamily::kQwen3Moe;
    case model::QkNorm::kFull:
      return model::ModelFamily::kOlmoe;
    case model::QkNorm::kNone:
      break;
  }
  return model::ModelFamily::kMixtral;
}

// Into the ack when the run can go on, else out.
absl::Status AckError(const absl::Status& status, v1::CommandAck* ack) {
  if (status.ok() || IsLinkError(status)) return status;
  ack->set_error(std::string(status.message()));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCancelled(RunState& state) {
  if (!state.controller.Cancelled()) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("run ", state.assignment.run_id(), ": rank ",
                                         state.communicator.rank(), " was told to leave"));
}

absl::StatusOr<std::string> ExportModel(RunState& state, const std::string& directory,
                                        model::ModelFamily family) {
  const std::string path = directory.empty() ? ResolvePath(RunDirectory(state), "export")
                                             : ResolvePath(state.options.data_root, directory);
  const absl::Status exported =
      model::ExportHuggingFace(*state.model, *state.data.tokenizer, path, family);
  if (IsLinkError(exported)) return exported;
  RETURN_IF_ERROR(AgreeStatus(state.communicator, exported));
  SendEvent(state, v1::EVENT_SEVERITY_INFO, "export_written",
            absl::StrCat("Model exported to ", path), {{"path", path}});
  return path;
}

absl::Status CommandRunner::LearnHistory() {
  v1::Assignment history;
  for (const v1::Command& command : state_.assignment.commands()) {
    if (!command.has_applied_step()) continue;
    v1::Command* known = history.add_commands();
    known->set_sequence(command.sequence());
    // What was revoked changes nothing, so nothing behind it need wait for the step it stood at.
    known->set_applied_step(command.has_revoked() ? 0 : command.applied_step());
  }
  std::string bytes = history.SerializeAsString();
  RETURN_IF_ERROR(state_.communicator.Broadcast(0, &bytes));
  if (!history.ParseFromString(bytes)) {
    return absl::InternalError("rank 0 sent a history of commands that does not parse");
  }
  for (const v1::Command& command : history.commands()) {
    applied_steps_[command.sequence()] = command.applied_step();
  }
  return absl::OkStatus();
}

bool CommandRunner::NextMustWait() const {
  const auto known = applied_steps_.find(state_.progress.last_applied_sequence + 1);
  // While paused no step can come, whatever the history says.
  return !paused_ && known != applied_steps_.end() && known->second > state_.progress.step;
}

absl::StatusOr<bool> CommandRunner::ApplyHistory(Stage& stage) {
  // Rank 0 knows commands that another rank may not hold yet; the agreement covers these too.
  Exchange exchange(state_.communicator);
  const int held = exchange.AddMin(static_cast<int64_t>(LocalSequence(state_)));
  RETURN_IF_ERROR(exchange.Run());
  uint64_t last = state_.progress.last_applied_sequence;
  for (auto known = applied_steps_.upper_bound(last);
       known != applied_steps_.end() && known->first == last + 1 &&
       known->second <= state_.progress.step;
       ++known) {
    last = known->first;
  }
  if (last > static_cast<uint64_t>(exchange.Min(held))) {
    return MarkAgreed(absl::FailedPreconditionError(
        absl::StrCat("commands up to ", last,
                     " were applied before this restart, but a rank holds "
                     "only those up to ",
                     exchange.Min(held))));
  }
  return ApplyUpTo(last, stage);
}

absl::StatusOr<bool> CommandRunner::ApplyUpTo(uint64_t agreed, Stage& stage) {
  std::optional<StepRecorder::Phase> paused;
  while (true) {
    ASSIGN_OR_RETURN(const bool stopped, ApplyPending(agreed, stage));
    if (stopped) return true;
    if (!paused_) return false;
    if (!paused.has_value()) paused.emplace(state_.recorder, "paused");
    ASSIGN_OR_RETURN(agreed, WaitInPause());
  }
}

absl::StatusOr<bool> CommandRunner::ApplyPending(uint64_t agreed, Stage& stage) {
  while (state_.progress.last_applied_sequence < agreed && !NextMustWait()) {
    const v1::Command command = Fetch(++state_.progress.last_applied_sequence);
    reporter_.Flush();
    v1::CommandAck ack;
    ack.set_sequence(command.sequence());
    ack.set_step(state_.progress.step);
    const absl::Time start = absl::Now();
    state_.recorder.NoteCommand();
    StepRecorder::Phase phase(state_.recorder, "command");
    Describe(command, &phase);
    if (state_.recorder.in_step())
      ack.set_start_unix_nanos(static_cast<uint64_t>(state_.recorder.Now()));
    if (const absl::Status known = AgreeOnAction(command); known.ok()) {
      RETURN_IF_ERROR(Apply(command, stage, &ack));
    } else {
      RETURN_IF_ERROR(AckError(known, &ack));
    }
    if (command.action_case() != v1::Command::kResume)
      *ack.mutable_pause() = ToProto(absl::Now() - start);
    phase.End();
    if (state_.recorder.in_step())
      ack.set_end_unix_nanos(static_cast<uint64_t>(state_.recorder.Now()));
    const std::string error = ack.error();
    state_.controller.Ack(std::move(ack));
    if (command.action_case() != v1::Command::kStop) continue;
    if (!error.empty()) return MarkAgreed(absl::ResourceExhaustedError(error));
    return true;
  }
  return false;
}

void CommandRunner::Describe(const v1::Command& command, StepRecorder::Phase* phase) const {
  const std::string& run = state_.assignment.run_id();
  const auto* field = v1::Command::descriptor()->FindFieldByNumber(command.action_case());
  phase->Set("action", field == nullptr ? std::string("unknown") : std::string(field->name()));
  phase->Set("sequence", static_cast<int64_t>(command.sequence()));
  if (command.decision_id().empty()) return;
  phase->Set("decision", command.decision_id());
  phase->Link({observe::TraceOfDecision(run, command.decision_id()),
               observe::CommandSpan(run, command.sequence()), true});
}

absl::StatusOr<uint64_t> CommandRunner::WaitInPause() {
  absl::SleepFor(kPausePoll);
  RETURN_IF_ERROR(CheckCancelled(state_));
  Exchange exchange(state_.communicator);
  const int held = exchange.AddMin(static_cast<int64_t>(LocalSequence(state_)));
  RETURN_IF_ERROR(exchange.Run());
  return static_cast<uint64_t>(exchange.Min(held));
}

v1::Command CommandRunner::Fetch(uint64_t sequence) const {
  for (const v1::Command& command : state_.assignment.commands()) {
    if (command.sequence() == sequence) return command;
  }
  return state_.controller.GetCommand(sequence);
}

absl::Status CommandRunner::AgreeOnAction(const v1::Command& command) {
  if (command.action_case() != v1::Command::ACTION_NOT_SET) {
    return AgreeStatus(state_.communicator, absl::OkStatus());
  }
  // Workers of several versions may share a run: what one does not know, none does.
  return AgreeStatus(state_.communicator,
                     absl::UnimplementedError(absl::StrCat(
                         "command ", command.sequence(), " has ", ActionName(command),
                         " that rank ", state_.communicator.rank(),
                         "'s worker does not know; update the workers to the coordinator's "
                         "version")));
}

absl::Status CommandRunner::Apply(const v1::Command& command, Stage& stage, v1::CommandAck* ack) {
  switch (command.action_case()) {
    case v1::Command::kSetLayout:
      return SetLayout(command.set_layout(), stage, ack);
    case v1::Command::kStop:
      return Checkpoint({}, ack);
    case v1::Command::kCheckpoint:
      return Checkpoint(command.checkpoint(), ack);
    case v1::Command::kEvaluate:
      return Evaluate(stage, ack);
    case v1::Command::kPause:
      if (!paused_) paused_at_ = absl::Now();
      paused_ = true;
      return absl::OkStatus();
    case v1::Command::kResume:
      *ack->mutable_pause() = ToProto(paused_ ? absl::Now() - paused_at_ : absl::ZeroDuration());
      paused_ = false;
      return absl::OkStatus();
    case v1::Command::kExport:
      return Export(command.export_().directory(), ack);
    case v1::Command::kRevoked:
      return absl::OkStatus();
    case v1::Command::ACTION_NOT_SET:
      break;
  }
  LOG(FATAL) << "command without an action: " << command.ShortDebugString();
}

absl::Status CommandRunner::SetLayout(const v1::ExpertLayout& order, Stage& stage,
                                      v1::CommandAck* ack) {
  const model::ExpertLayout before = state_.model->layout();
  const auto layout =
      ResolveLayout(state_.model->config(), before, order, state_.communicator.size());
  if (!layout.ok()) return AckError(layout.status(), ack);
  // Experts that were masked before they go leave the function as it is, which is worth a look.
  const bool measured = ChoiceDiffers(before, *layout) || RemovesExperts(before, *layout);
  if (measured) {
    ASSIGN_OR_RETURN(const double loss, stage.HeldoutLoss());
    if (state_.root()) ack->set_heldout_loss_before(loss);
  }
  ASSIGN_OR_RETURN(const int64_t bytes, state_.model->ApplyLayout(*layout));
  ack->set_bytes_moved(static_cast<uint64_t>(bytes));
  state_.optimizer->ParametersChanged();
  state_.loads.Reset(state_.model->layout(), MeasuresOutputNorms(state_));
  if (measured) {
    ASSIGN_OR_RETURN(const double loss, stage.HeldoutLoss());
    if (state_.root()) ack->set_heldout_loss_after(loss);
  }
  const std::string params = absl::StrCat(state_.model->TotalParameters());
  SendEvent(state_, v1::EVENT_SEVERITY_INFO, "layout_applied",
            absl::StrCat("New expert layout after step ", state_.progress.step, ": ", params,
                         " parameters"),
            {{"params", params}, {"experts", ExpertsCsv(*state_.model)}});
  return absl::OkStatus();
}

absl::Status CommandRunner::Evaluate(Stage& stage, v1::CommandAck* ack) {
  ASSIGN_OR_RETURN(const double loss, stage.HeldoutLoss());
  if (state_.root()) ack->set_heldout_loss_after(loss);
  return absl::OkStatus();
}

absl::Status CommandRunner::Checkpoint(const v1::CheckpointAction& order, v1::CommandAck* ack) {
  if (!order.unpin().empty()) {
    if (order.pin()) {
      ack->set_error(
          absl::StrCat("checkpoint: pin, and unpin ", order.unpin(), "; ask for one of them"));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(AckError(checkpointer_.Unpin(order.unpin()), ack));
    if (ack->error().empty()) ack->set_path(order.unpin());
    return absl::OkStatus();
  }
  const auto path =
      checkpointer_.Write(order.pin() ? CheckpointKeep::kPinned : CheckpointKeep::kInRotation);
  if (!path.ok()) return AckError(path.status(), ack);
  ack->set_path(*path);
  return absl::OkStatus();
}

absl::Status CommandRunner::Export(const std::string& directory, v1::CommandAck* ack) {
  const auto path = ExportModel(state_, directory, FamilyOfRun(state_));
  if (!path.ok()) return AckError(path.status(), ack);
  ack->set_path(*path);
  return absl::OkStatus();
}

}  // namespace espalier::train
