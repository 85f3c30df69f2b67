// Plans and decisions on the terminal.
#pragma once

#include <string>

#include "espalier/v1/plan_service.pb.h"
#include "services/cli/terminal.h"

namespace espalier::cli {

std::string RenderPlan(const v1::Plan& plan, const Style& style);
std::string RenderDecisions(const v1::ListDecisionsResponse& decisions, const Style& style);
// One decision: its promise and what came of it.
std::string RenderDecision(const v1::Decision& decision, const Style& style);

}  // namespace espalier::cli
