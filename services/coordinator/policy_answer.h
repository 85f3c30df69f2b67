// A PolicyService's question and answer: from a plan's input to the wire, and from an answer to a plan that is safe to command. Pure.
#pragma once

#include "absl/status/statusor.h"
#include "espalier/v1/plan_service.pb.h"
#include "espalier/v1/policy_service.pb.h"
#include "services/coordinator/plan_builder.h"

namespace espalier::coordinator {

// Everything but the run's id and name and the built-in plan. input.prunable: layers that may be pruned now.
v1::DecidePlanRequest ToQuestion(const PlanInput& input);

// The answer with its certificate; `empty` when nothing is to change. InvalidArgument names the layer, the expert and what is wrong: a
// layer or expert that is not there or is named twice, a rank out of range, an expert that may not go, too few kept, more than a
// rank may hold, more moves than the run's spec allows. alpha and beta are the built-in policy's and do not bind others.
absl::StatusOr<v1::Plan> PlanOfAnswer(const PlanInput& input, const v1::DecidePlanResponse& answer);

}  // namespace espalier::coordinator
