// The policy: when it plans, by the coordinator's own planner or by the run's PolicyService, with
// the former behind the latter.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/plan_question.h"
#include "services/coordinator/policy_answer.h"

namespace espalier::coordinator {
namespace {

constexpr size_t kWordsMax = 500;  // of what a policy calls itself, and of its reasons

// A sentence without its figures: the same cause reads the same.
std::string WithoutFigures(std::string text) {
  std::erase_if(text, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
  return text;
}

std::string Shortened(const std::string& text) {
  return text.size() <= kWordsMax ? text : text.substr(0, kWordsMax) + "...";
}

std::string NameOf(const v1::DecidePlanResponse& answer, const std::string& address) {
  return absl::StrCat(answer.policy().empty() ? "a PolicyService" : Shortened(answer.policy()),
                      " at ", address);
}

// How a question ended, for the metric.
const char* OutcomeOf(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "deadline";
    case grpc::StatusCode::UNAVAILABLE:
      return "unreachable";
    default:
      return "error";
  }
}

}  // namespace

void Coordinator::ConsiderPolicy(LiveRun* run) {
  if (run->record.run().state() != v1::RUN_STATE_RUNNING || !(run->manned() || run->external()) ||
      run->record.stop_wanted())
    return;
  WatchDecisions(run);
  LapseLate(run);
  if (run->pending_decision() != nullptr || run->policy_asked) return;
  const v1::RunSpec& spec = run->record.run().spec();
  Situation situation;
  situation.step = run->durable_step;
  situation.pretraining = run->progress.stage() == v1::STAGE_KIND_PRETRAIN;
  situation.stage_end = run->stage_end(situation.step);
  situation.prune_closed = run->record.prune_closed();
  situation.last_decision_step = run->record.last_decision_step();
  const bool rested =
      situation.last_decision_step == 0 ||
      situation.step >= situation.last_decision_step + spec.placement().interval_steps();
  // Whoever approves finds the plan that they looked at: a newer one comes only when this one has
  // lapsed.
  if (run->waiting_decision() != nullptr) return;
  if (spec.prune().enabled() && !situation.prune_closed && situation.pretraining &&
      run->pilot.PrunePast(situation.step)) {
    situation.prune_closed = true;
    run->record.set_prune_closed(true);
    AddEvent(
        run, v1::EVENT_SEVERITY_WARNING, "prune_skipped",
        absl::StrCat("No layer was stable by prune.latest_step ", spec.prune().latest_step(), "."));
    Touch(run, true);
  }
  const std::optional<Intent> intent = run->pilot.Decide(situation);
  if (!spec.policy().service().empty() && absl::Now() >= run->policy_retry_at) {
    const bool window = run->pilot.TakeWindow() && rested && situation.pretraining &&
                        situation.step < situation.stage_end;
    if (intent.has_value() || window) AskService(run, intent);
    return;
  }
  if (intent.has_value()) PlanBuiltin(run, *intent);
}

void Coordinator::PlanBuiltin(LiveRun* run, const Intent& intent) {
  PlanQuestion question = AskPlan(*run, intent.window_steps);
  question.input.prunable = intent.prunable;
  question.input.place = intent.place;
  question.input.needs_trigger = intent.prunable.empty();
  const absl::Time asked = question.asked;
  auto plan = AnswerPlan(std::move(question));
  if (!plan.ok()) {
    LOG(ERROR) << "plan_failed run=" << run->id() << " cause=" << plan.status();
    return;
  }
  TakeBuiltin(run, intent, *std::move(plan), asked);
}

void Coordinator::TakeBuiltin(LiveRun* run, const Intent& intent, v1::Plan plan, absl::Time asked) {
  if (!intent.prunable.empty() && plan.experts_pruned() == 0) {
    // The loads are settled and nothing falls under alpha and beta: asking again would give the
    // same answer.
    run->record.set_prune_closed(true);
    AddEvent(run, v1::EVENT_SEVERITY_WARNING, "prune_skipped",
             absl::StrCat("No expert falls under the prune policy (", intent.why, ")."));
    Touch(run, true);
  }
  if (!plan.empty()) {
    Decide(run, std::move(plan), run->record.run().spec().prune(),
           {.origin = "policy", .policy = kBuiltinPolicy, .why = intent.why, .asked = asked});
  } else if (intent.prunable.empty() && WithoutFigures(plan.reason()) != run->skipped_reason) {
    // Said once, not at every window.
    run->skipped_reason = WithoutFigures(plan.reason());
    AddEvent(run, v1::EVENT_SEVERITY_INFO, "plan_skipped",
             absl::StrCat("No plan was made (", intent.why, "): ", plan.reason(), "."));
  }
}

void Coordinator::AskService(LiveRun* run, const std::optional<Intent>& intent) {
  const v1::RunSpec& spec = run->record.run().spec();
  PolicyTurn turn;
  turn.question =
      AskPlan(*run, intent.has_value() ? intent->window_steps : spec.placement().window_steps());
  turn.address = spec.policy().service();
  turn.intent = intent;
  turn.question.input.place = spec.placement().enabled();
  turn.question.prune_all = spec.prune().enabled() && !run->record.prune_closed() &&
                            run->durable_step >= spec.prune().earliest_step();
  const absl::Duration deadline = absl::Seconds(spec.policy().deadline_seconds());
  run->policy_asked = true;
  const auto ask = [this, turn = std::move(turn), deadline, name = spec.name()]() mutable {
    // Loads are read and the built-in plan is made here, so that the executor waits for neither.
    const absl::Status read = ReadWindow(&turn.question);
    if (!read.ok() || turn.question.input.layers.empty()) {
      const grpc::Status none(
          grpc::StatusCode::FAILED_PRECONDITION,
          read.ok() ? "no loads are recorded yet" : std::string(read.message()));
      return executor_.Post([this, turn, none] { ServiceAnswered(turn, none, {}); });
    }
    v1::DecidePlanRequest request = ToQuestion(turn.question.input);
    request.set_run_id(turn.question.run_id);
    request.set_run_name(name);
    turn.builtin.set_empty(true);
    if (turn.intent.has_value()) {
      PlanInput input = turn.question.input;
      input.prunable = turn.intent->prunable;
      input.place = turn.intent->place;
      input.needs_trigger = turn.intent->prunable.empty();
      turn.builtin = BuildPlan(input);
      *request.mutable_builtin() = turn.builtin;
      request.set_builtin_why(turn.intent->why);
    }
    const std::string address = turn.address;
    policies_.Ask(
        address, std::move(request), deadline,
        [this, turn = std::move(turn)](const grpc::Status& status,
                                       const v1::DecidePlanResponse& answer) {
          executor_.Post([this, turn, status, answer] { ServiceAnswered(turn, status, answer); });
        });
  };
  if (!pool_.TryPost(ask)) run->policy_asked = false;  // busy with reads: the next window will do
}

void Coordinator::ServiceAnswered(const PolicyTurn& turn, const grpc::Status& status,
                                  const v1::DecidePlanResponse& answer) {
  const auto it = runs_.find(turn.question.run_id);
  if (it == runs_.end()) return;
  LiveRun* run = it->second.get();
  run->policy_asked = false;
  // While it thought, the run may have ended, gone back, or changed by somebody's request.
  if (run->record.run().state() != v1::RUN_STATE_RUNNING || run->record.stop_wanted() ||
      run->pending_decision() != nullptr || run->waiting_decision() != nullptr ||
      run->record.last_layout_step() != turn.question.layout_step ||
      run->durable_step < turn.question.input.last_step) {
    metrics_.PolicyAnswer(*run, "late");
    return;
  }
  const v1::PolicySpec& rule = run->record.run().spec().policy();
  const absl::StatusOr<v1::Plan> plan = status.ok()
                                            ? PlanOfAnswer(turn.question.input, answer)
                                            : absl::StatusOr<v1::Plan>(rpc::FromGrpc(status));
  if (!plan.ok()) {
    metrics_.PolicyAnswer(*run, status.ok() ? "invalid" : OutcomeOf(status));
    run->policy_retry_at = absl::Now() + absl::Seconds(rule.retry_seconds());
    AddEvent(
        run, v1::EVENT_SEVERITY_WARNING, "policy_failed",
        absl::StrCat(NameOf(answer, turn.address),
                     status.ok() ? " gave an answer that cannot be taken: " : " gave no answer: ",
                     Shortened(std::string(plan.status().message())),
                     ". The built-in policy plans in its place."),
        {{"address", turn.address}, {"outcome", status.ok() ? "invalid" : OutcomeOf(status)}});
    if (turn.intent.has_value()) TakeBuiltin(run, *turn.intent, turn.builtin, turn.question.asked);
    return;
  }
  metrics_.PolicyAnswer(*run, plan->empty() ? "no_change" : "plan");
  if (plan->empty()) {
    const std::string reason = absl::StrCat(NameOf(answer, turn.address), ": ", plan->reason());
    if (WithoutFigures(reason) == run->skipped_reason) return;
    run->skipped_reason = WithoutFigures(reason);
    AddEvent(run, v1::EVENT_SEVERITY_INFO, "plan_skipped",
             absl::StrCat("No plan was made by ", Shortened(reason), "."));
    return;
  }
  Decide(run, *plan, run->record.run().spec().prune(),
         {.origin = "policy",
          .policy = NameOf(answer, turn.address),
          .why = answer.reason().empty() ? "it gave no reason" : Shortened(answer.reason()),
          .asked = turn.question.asked});
}

}  // namespace espalier::coordinator
