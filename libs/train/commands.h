// CommandRunner: applies the run's commands in their one order, on every rank after the same step.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/model/family.h"
#include "libs/train/checkpointer.h"
#include "libs/train/reporter.h"
#include "libs/train/run_state.h"
#include "libs/train/stage.h"

namespace espalier::train {

// Used from the trainer's thread alone.
class CommandRunner {
 public:
  CommandRunner(RunState& state, Checkpointer& checkpointer, Reporter& reporter)
      : state_(state), checkpointer_(checkpointer), reporter_(reporter) {}

  // Learns from rank 0 which commands of the assignment were applied after which step before, so
  // that all ranks repeat them alike. (collective)
  absl::Status LearnHistory();

  // Repeats what was applied at or before the present step but is missing in the checkpoint.
  // (collective)
  absl::StatusOr<bool> ApplyHistory(Stage& stage);

  // Applies every command up to `agreed`, waiting in a pause until it ends. Returns true when the
  // run was stopped. (collective)
  absl::StatusOr<bool> ApplyUpTo(uint64_t agreed, Stage& stage);

 private:
  // The command that comes next, or nothing when it must wait for a later step.
  bool NextMustWait() const;
  absl::StatusOr<bool> ApplyPending(uint64_t agreed, Stage& stage);
  // What a trace says of a command.
  void Describe(const v1::Command& command, StepRecorder::Phase* phase) const;
  absl::StatusOr<uint64_t> WaitInPause();
  v1::Command Fetch(uint64_t sequence) const;
  // OK when every rank knows what `command` asks for; else the same error on all. (collective)
  absl::Status AgreeOnAction(const v1::Command& command);

  // Each fills the ack; an error of the command itself goes into it, a returned one ends the run.
  absl::Status Apply(const v1::Command& command, Stage& stage, v1::CommandAck* ack);
  absl::Status SetLayout(const v1::ExpertLayout& order, Stage& stage, v1::CommandAck* ack);
  absl::Status Evaluate(Stage& stage, v1::CommandAck* ack);
  absl::Status Checkpoint(const v1::CheckpointAction& order, v1::CommandAck* ack);
  absl::Status Export(const std::string& directory, v1::CommandAck* ack);

  RunState& state_;
  Checkpointer& checkpointer_;
  Reporter& reporter_;
  // Steps that commands were applied after before; 0 for those revoked since, which wait for none.
  std::map<uint64_t, uint64_t> applied_steps_;
  bool paused_ = false;
  absl::Time paused_at_;
};

// Writes the export of the present model and announces it. The same error on every rank.
// (collective)
absl::StatusOr<std::string> ExportModel(RunState& state, const std::string& directory,
                                        model::ModelFamily family);

// kAborted once the controller wants this rank to leave; the links go with it.
absl::Status CheckCancelled(RunState& state);

}  // namespace espalier::train
