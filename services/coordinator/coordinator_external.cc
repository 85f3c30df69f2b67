// Runs of another trainer: their reports come by unary calls, and commands are advice that waits
// until it is acknowledged.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

// One call may bring this many reports: 64 ranks of 64 steps.
constexpr int kReportsMax = 4096;

}  // namespace

void Coordinator::ReportSteps(v1::ReportStepsRequest request, Done<v1::ReportStepsResponse> done) {
  OnExecutor<v1::ReportStepsResponse>(
      done, [this, request = std::move(request), done]() mutable { DoReport(&request, done); });
}

void Coordinator::DoReport(v1::ReportStepsRequest* request,
                           const Done<v1::ReportStepsResponse>& done) {
  const auto found = FindRun(request->run_id());
  if (!found.ok()) return done(found.status());
  LiveRun* run = *found;
  if (!run->external()) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("run ", run->id(),
                     " is trained by Espalier's workers; reports are for runs of kind external")));
  }
  if (request->reports_size() > kReportsMax) {
    return done(absl::InvalidArgumentError(absl::StrCat(
        "reports: ", request->reports_size(), "; at most ", kReportsMax, " in one call")));
  }
  if (const absl::Status writable = Writable(); !writable.ok()) return done(writable);
  if (!run->ended()) {
    for (v1::StepReport& report : *request->mutable_reports()) {
      // Another trainer need not know of our stages: what it does is pretraining.
      if (report.stage() == v1::STAGE_KIND_UNSPECIFIED) report.set_stage(v1::STAGE_KIND_PRETRAIN);
      const absl::Status taken = TakeReport(run, report);
      if (!taken.ok()) return done(taken);
    }
    for (v1::CommandAck& ack : *request->mutable_acks()) {
      const auto open = run->open_commands.find(ack.sequence());
      if (open == run->open_commands.end()) continue;  // said before
      ack.set_epoch(run->record.run().epoch());
      HandleAck(run, ack);
    }
    if (request->has_end()) {
      const v1::AssignmentEnd& end = request->end();
      const bool failed = end.outcome() == v1::AssignmentEnd::OUTCOME_FAILED;
      End(run,
          failed                                                  ? v1::RUN_STATE_FAILED
          : end.outcome() == v1::AssignmentEnd::OUTCOME_COMPLETED ? v1::RUN_STATE_COMPLETED
                                                                  : v1::RUN_STATE_STOPPED,
          end.error());
    }
    Touch(run, false);
  }
  // Behind the flush, and behind the policy that then looks at the new steps.
  ledger_->Then([this, id = run->id(), done](const absl::Status& status) {
    if (!status.ok()) return done(Writable());
    executor_.Post([this, id, done] { AnswerReport(id, done); });
  });
}

void Coordinator::AnswerReport(const std::string& run_id,
                               const Done<v1::ReportStepsResponse>& done) {
  const LiveRun& run = *runs_.at(run_id);
  // The advice may have been decided on in the batch that is being flushed.
  ledger_->Then([this, id = run.id(), done](const absl::Status& status) {
    if (!status.ok()) return done(Writable());
    const LiveRun& run = *runs_.at(id);
    v1::ReportStepsResponse response;
    response.set_durable_step(run.newest_step());
    response.set_ended(run.ended());
    for (const auto& [sequence, open] : run.open_commands) {
      if (!open.failed && !open.command.has_applied_step()) *response.add_advice() = open.command;
    }
    done(std::move(response));
  });
}

void Coordinator::StartExternal(LiveRun* run) {
  v1::Run* state = run->record.mutable_run();
  state->set_epoch(1);
  state->set_state(v1::RUN_STATE_RUNNING);
  *state->mutable_start_time() = ToProto(absl::Now());
  state->set_detail("waits for the reports of its trainer");
}

}  // namespace espalier::coordinator
