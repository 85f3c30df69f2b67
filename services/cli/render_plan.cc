// A plan as its certificate by layer, a decision as promise against outcome.
#include "services/cli/render_plan.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/render_table.h"

namespace espalier::cli {
namespace {

std::string DecisionStateName(v1::DecisionState state) {
  constexpr size_t kPrefix = sizeof("DECISION_STATE_") - 1;
  const std::string name = v1::DecisionState_Name(state);
  return name.size() > kPrefix ? absl::AsciiStrToLower(name.substr(kPrefix)) : "unknown";
}

std::string Fixed(double value, int digits) { return absl::StrFormat("%.*f", digits, value); }

std::string Summary(const v1::Plan& plan) {
  return absl::StrFormat("prunes %d, moves %d (%s B), imbalance %.3f -> %.3f",
                         plan.experts_pruned(), plan.experts_moved(),
                         Count(static_cast<double>(plan.bytes_moved())), plan.imbalance_before(),
                         plan.imbalance_after());
}

// Experts that no placement can spread.
std::string RenderReplicas(const v1::Plan& plan) {
  std::string text;
  for (const v1::LayerCertificate& layer : plan.layers()) {
    for (const v1::ReplicaAdvice& advice : layer.replicas()) {
      absl::StrAppendFormat(&text,
                            "Layer %d: expert %d alone is %.2f of a rank's share; %d copies of it "
                            "would bring max/mean to %.3f\n",
                            layer.layer(), advice.expert(), advice.load_over_rank_mean(),
                            advice.copies(), advice.max_over_mean_with_copies());
    }
  }
  return text;
}

std::string RenderGuard(const v1::Decision& decision) {
  if (!decision.has_guard()) return "";
  const v1::GuardReport& guard = decision.guard();
  std::string text;
  if (decision.state() == v1::DECISION_STATE_OBSERVED) {
    absl::StrAppendFormat(&text, "%s until step %d\n",
                          decision.plan().soft() ? "Masked, not dropped," : "Watched",
                          guard.judge_step());
  }
  if (guard.has_held()) {
    absl::StrAppendFormat(&text,
                          "Quality guard %s at step %d: held-out loss %.4f, forecast %.4f from %d "
                          "points, tolerance %g\n",
                          guard.held() ? "held" : "did not hold", guard.judge_step(),
                          guard.heldout_loss_measured(), guard.heldout_loss_forecast(),
                          guard.points(), guard.tolerance());
  }
  return text;
}

// Who planned, asked, approved or refused, and what ended it early.
std::string RenderCourse(const v1::Decision& decision) {
  std::string text;
  if (!decision.policy().empty()) {
    absl::StrAppend(&text, "Planned by ", Printable(decision.policy()), ": ",
                    Printable(decision.why()), "\n");
  }
  if (decision.state() == v1::DECISION_STATE_WAITING) {
    absl::StrAppend(&text, "Waits for approval");
    if (decision.has_lapse_step())
      absl::StrAppend(&text, " until step ", decision.lapse_step());
    absl::StrAppend(&text, ": espalier plan apply ", decision.run_id(), " --decision ",
                    decision.decision_id(), ", or plan reject ", decision.run_id(), " ",
                    decision.decision_id(), "\n");
  }
  if (!decision.approved_by().empty())
    absl::StrAppend(&text, "Approved by ", Printable(decision.approved_by()), "\n");
  const char* head = decision.state() == v1::DECISION_STATE_LAPSED ? "Waits no more: " : "Failed: ";
  if (decision.state() == v1::DECISION_STATE_REJECTED) {
    absl::StrAppend(&text, "Rejected by ", Printable(decision.rejected_by()),
                    decision.error().empty() ? "" : ": ", Printable(decision.error()), "\n");
  } else if (!decision.error().empty()) {
    absl::StrAppend(&text, head, Printable(decision.error()), "\n");
  }
  return text;
}

}  // namespace

std::string RenderPlan(const v1::Plan& plan, const Style& style) {
  std::string text;
  if (plan.empty()) absl::StrAppend(&text, "Nothing to do: ", Printable(plan.reason()), "\n");
  absl::StrAppend(&text, "Plan on the loads of steps ", plan.first_step(), " to ", plan.last_step(),
                  ": ", Summary(plan), "\n");
  if (plan.step_seconds_predicted() > 0) {
    absl::StrAppend(&text, "Step time ", Fixed(plan.step_seconds_before(), 4), " s, predicted ",
                    Fixed(plan.step_seconds_predicted(), 4), " s\n");
  }
  if (plan.experts_moved() > 0) {
    absl::StrAppendFormat(&text, "Moves take %.3g s at %s B/s (%s), %s; the horizon is %d steps\n",
                          plan.move_seconds(), Count(plan.bytes_per_second()),
                          plan.bandwidth_measured() ? "measured" : "assumed",
                          plan.has_payback_steps()
                              ? absl::StrFormat("paid back after %.1f steps", plan.payback_steps())
                              : std::string("with no step time to pay them back from"),
                          plan.horizon_steps());
  }
  std::vector<std::vector<std::string>> rows = {{"LAYER", "EXPERTS", "LOAD PRUNED", "MAX/MEAN",
                                                 "BOUND", "MOVES", "RANK CORR.", "SHIFT",
                                                 "STABLE"}};
  for (const v1::LayerCertificate& layer : plan.layers()) {
    rows.push_back({absl::StrCat(layer.layer()),
                    absl::StrCat(layer.experts_before(), " -> ", layer.experts_after()),
                    Fixed(layer.pruned_load_share() * 100, 2) + "%",
                    absl::StrCat(Fixed(layer.max_over_mean_before(), 3), " -> ",
                                 Fixed(layer.max_over_mean_after(), 3)),
                    Fixed(layer.lower_bound_over_mean(), 3), absl::StrCat(layer.moves()),
                    Fixed(layer.rank_correlation(), 3), Fixed(layer.shift(), 3),
                    layer.stable() ? "yes" : "no"});
  }
  if (plan.layers_size() > 0) text += RenderTable(rows, style);
  return text + RenderReplicas(plan);
}

std::string RenderDecisions(const v1::ListDecisionsResponse& decisions, const Style& style) {
  if (decisions.decisions_size() == 0) return "No decisions yet.\n";
  std::vector<std::vector<std::string>> rows = {{"DECISION", "STATE", "ORIGIN", "STEP", "WHAT"}};
  for (const v1::Decision& decision : decisions.decisions()) {
    rows.push_back(
        {decision.decision_id(), DecisionStateName(decision.state()), decision.origin(),
         decision.has_applied_step() ? absl::StrCat(decision.applied_step()) : "",
         decision.error().empty() ? Summary(decision.plan()) : Printable(decision.error())});
  }
  return RenderTable(rows, style);
}

std::string RenderDecision(const v1::Decision& decision, const Style& style) {
  std::string text = absl::StrCat(Paint(decision.decision_id(), Tone::kBold, style), ": ",
                                  DecisionStateName(decision.state()), ", by ", decision.origin());
  if (decision.has_applied_step()) absl::StrAppend(&text, ", after step ", decision.applied_step());
  text += "\n";
  text += RenderCourse(decision);
  text += RenderPlan(decision.plan(), style);
  if (decision.has_heldout_loss_before() && decision.has_heldout_loss_after()) {
    absl::StrAppend(&text, "Held-out loss ", Fixed(decision.heldout_loss_before(), 4),
                    " just before, ", Fixed(decision.heldout_loss_after(), 4), " just after\n");
  }
  if (decision.has_step_seconds_realised()) {
    absl::StrAppend(&text, "Step time came out at ", Fixed(decision.step_seconds_realised(), 4),
                    " s\n");
  }
  text += RenderGuard(decision);
  if (!decision.rollback_reason().empty()) {
    absl::StrAppend(&text, "Taken back",
                    decision.rolled_back_by().empty()
                        ? ""
                        : absl::StrCat(" by ", Printable(decision.rolled_back_by())),
                    ": ", Printable(decision.rollback_reason()), "\n");
  }
  if (decision.has_pause_seconds()) {
    absl::StrAppendFormat(&text, "The ranks stood still for %.3g s and sent %s B\n",
                          decision.pause_seconds(),
                          Count(static_cast<double>(decision.bytes_sent())));
  }
  if (decision.has_imbalance_realised()) {
    absl::StrAppend(&text, "Imbalance came out at ", Fixed(decision.imbalance_realised(), 3), "\n");
  }
  return text;
}

}  // namespace espalier::cli
