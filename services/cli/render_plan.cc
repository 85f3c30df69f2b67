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
  return plan.layers_size() > 0 ? text + RenderTable(rows, style) : text;
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
  if (!decision.error().empty())
    absl::StrAppend(&text, "Failed: ", Printable(decision.error()), "\n");
  text += RenderPlan(decision.plan(), style);
  if (decision.has_heldout_loss_before() && decision.has_heldout_loss_after()) {
    absl::StrAppend(&text, "Held-out loss ", Fixed(decision.heldout_loss_before(), 4),
                    " just before, ", Fixed(decision.heldout_loss_after(), 4), " just after\n");
  }
  if (decision.has_step_seconds_realised()) {
    absl::StrAppend(&text, "Step time came out at ", Fixed(decision.step_seconds_realised(), 4),
                    " s\n");
  }
  if (decision.has_imbalance_realised()) {
    absl::StrAppend(&text, "Imbalance came out at ", Fixed(decision.imbalance_realised(), 3), "\n");
  }
  return text;
}

}  // namespace espalier::cli
