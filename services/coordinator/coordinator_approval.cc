// Decisions that wait for somebody's word: approved, rejected, or lapsed because something came
// between.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/plan_question.h"
#include "services/coordinator/times.h"

namespace espalier::coordinator {
namespace {

absl::Status NoSuchDecision(const LiveRun& run, const std::string& decision_id) {
  return absl::NotFoundError(absl::StrCat("decision_id: run ", run.id(), " has no decision \"",
                                          decision_id, "\"; list its decisions"));
}

// Why a decision that does not wait cannot be approved or rejected.
absl::Status WaitsNoMore(const v1::Decision& decision) {
  const std::string& id = decision.decision_id();
  switch (decision.state()) {
    case v1::DECISION_STATE_REJECTED:
      return absl::FailedPreconditionError(
          absl::StrCat("decision ", id, " was rejected by ", decision.rejected_by(),
                       decision.error().empty() ? "" : ": ", decision.error()));
    case v1::DECISION_STATE_LAPSED:
      return absl::FailedPreconditionError(absl::StrCat(
          "decision ", id, " waits no more: ", decision.error(), "; list the run's decisions"));
    default:
      return absl::FailedPreconditionError(absl::StrCat(
          "decision ", id, " does not wait for approval: it was ",
          decision.approved_by().empty() ? "commanded when it was made"
                                         : absl::StrCat("approved by ", decision.approved_by()),
          "; roll it back if it is not wanted"));
  }
}

}  // namespace

void Coordinator::ApproveDecision(LiveRun* run, const v1::ApplyPlanRequest& request,
                                  const std::string& by, const Done<v1::ApplyPlanResponse>& done) {
  if (request.has_options()) {
    return done(absl::InvalidArgumentError(
        "options: given together with decision_id; a decision is approved as it was planned, so "
        "give one of the two"));
  }
  const auto answer = [this, done](const v1::Decision& decision) {
    ledger_->Then([this, decision, done](const absl::Status& status) {
      if (!status.ok()) return done(Writable());
      v1::ApplyPlanResponse response;
      *response.mutable_decision() = decision;
      done(std::move(response));
    });
  };
  const std::string& id = request.decision_id();
  const auto open = run->open_decisions.find(id);
  if (open == run->open_decisions.end()) {
    const auto known = ledger_->ReadDecision(run->id(), id);
    if (absl::IsNotFound(known.status())) return done(NoSuchDecision(*run, id));
    if (!known.ok()) return done(known.status());
    return known->approved_by().empty() ? done(WaitsNoMore(*known)) : answer(*known);
  }
  v1::Decision& decision = open->second;
  if (decision.state() != v1::DECISION_STATE_WAITING)
    return decision.approved_by().empty() ? done(WaitsNoMore(decision)) : answer(decision);
  if (const absl::Status may = CheckCommandable(*run, "changed"); !may.ok()) return done(may);
  if (const v1::Decision* pending = run->pending_decision()) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("decision ", pending->decision_id(),
                     " is not at its end yet; wait for it, then approve again")));
  }
  if (decision.base_layout_step() != run->record.last_layout_step()) {
    const std::string why =
        absl::StrCat("it was planned on the layout of step ", decision.base_layout_step(),
                     ", and that of step ", run->record.last_layout_step(), " is in effect");
    LapseWaiting(run, why);
    return done(absl::AbortedError(
        absl::StrCat("decision ", id, " waits no more: ", why, "; the policy will plan again")));
  }
  decision.set_approved_by(by);
  *decision.mutable_approve_time() = ToProto(absl::Now());
  CommandDecision(run, &decision);
  SaveDecision(run, decision);
  run->record.set_last_decision_step(run->progress.step());
  if (!request.request_id().empty())
    ledger_->PutRequest("apply/" + run->id(), request.request_id(), id);
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_approved",
           absl::StrCat("Decision ", id, " was approved by ", by, "."),
           {{"decision_id", id}, {"by", by}});
  Touch(run, true);
  answer(decision);
}

void Coordinator::RejectDecision(v1::RejectDecisionRequest request, std::string by,
                                 Done<v1::RejectDecisionResponse> done) {
  OnExecutor<v1::RejectDecisionResponse>(
      done, [this, request = std::move(request), by = std::move(by), done] {
        const auto found = FindRun(request.run_id());
        if (!found.ok()) return done(found.status());
        LiveRun* run = *found;
        const std::string& id = request.decision_id();
        v1::Decision decision;
        const auto open = run->open_decisions.find(id);
        if (open == run->open_decisions.end()) {
          const auto known = ledger_->ReadDecision(run->id(), id);
          if (absl::IsNotFound(known.status())) return done(NoSuchDecision(*run, id));
          if (!known.ok()) return done(known.status());
          decision = *known;
        } else {
          decision = open->second;
        }
        if (decision.state() == v1::DECISION_STATE_WAITING) {
          if (const absl::Status writable = Writable(); !writable.ok()) return done(writable);
          decision.set_state(v1::DECISION_STATE_REJECTED);
          decision.set_rejected_by(by);
          decision.set_error(request.reason());
          run->open_decisions.erase(id);
          SaveDecision(run, decision);
          // The loads have settled: the policy would only propose the same prune again.
          if (decision.plan().experts_pruned() > 0) run->record.set_prune_closed(true);
          run->record.set_last_decision_step(run->progress.step());
          AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_rejected",
                   absl::StrCat("Decision ", id, " was rejected by ", by,
                                request.reason().empty() ? "" : ": ", request.reason(), "."),
                   {{"decision_id", id}, {"by", by}});
          Touch(run, true);
        } else if (decision.state() != v1::DECISION_STATE_REJECTED) {
          return done(WaitsNoMore(decision));
        }
        ledger_->Then([this, decision, done](const absl::Status& status) {
          if (!status.ok()) return done(Writable());
          v1::RejectDecisionResponse response;
          *response.mutable_decision() = decision;
          done(std::move(response));
        });
      });
}

void Coordinator::LapseWaiting(LiveRun* run, const std::string& why) {
  v1::Decision* waiting = run->waiting_decision();
  if (waiting == nullptr) return;
  v1::Decision decision = *waiting;
  decision.set_state(v1::DECISION_STATE_LAPSED);
  decision.set_error(why);
  run->open_decisions.erase(std::string(decision.decision_id()));
  SaveDecision(run, decision);
  AddEvent(run, v1::EVENT_SEVERITY_INFO, "decision_lapsed",
           absl::StrCat("Decision ", decision.decision_id(), " waits no more: ", why, "."),
           {{"decision_id", decision.decision_id()}});
  Touch(run, true);
}

void Coordinator::LapseLate(LiveRun* run) {
  const v1::Decision* waiting = run->waiting_decision();
  if (waiting == nullptr || !waiting->has_lapse_step() ||
      run->durable_step <= waiting->lapse_step())
    return;
  LapseWaiting(run, absl::StrCat("nobody approved it by step ", waiting->lapse_step()));
}

}  // namespace espalier::coordinator
