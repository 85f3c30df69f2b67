// Reporter: StepReports of one rank, each covering as many steps as the spec says.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/train/run_state.h"
#include "libs/train/stage.h"

namespace espalier::train {

// Used from the trainer's thread alone. Every rank closes its reports after the same steps.
class Reporter {
 public:
  // `state` must outlive the reporter.
  explicit Reporter(RunState& state) : state_(state) {}

  // Adds the step just finished (state.progress) and closes nothing yet.
  void AddStep(v1::StageKind kind, const StepResult& result, absl::Duration duration);
  // Held-out loss measured after the step added last; closes the report so that the figure keeps
  // its step.
  void SetHeldoutLoss(double loss);
  // Sends the report when it covers enough steps, or anyway. Flush before the layout changes: loads
  // belong to holders.
  void FlushIfDue();
  void Flush();

 private:
  void AddPhases();

  RunState& state_;
  v1::StepReport report_;
  absl::Duration duration_;
  uint64_t steps_ = 0;
  bool due_ = false;
};

}  // namespace espalier::train
