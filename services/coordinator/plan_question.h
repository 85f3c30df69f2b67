// PlanQuestion: a plan to be made, all but the loads, which are read where there is time. DecisionCause and PolicyTurn: whose plan
// it is, and what the coordinator must remember while a PolicyService thinks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "services/coordinator/coordinator.h"
#include "services/coordinator/plan_builder.h"

namespace espalier::coordinator {

// What decisions of the coordinator's own planner say of who planned.
inline constexpr char kBuiltinPolicy[] = "built-in";

struct Coordinator::PlanQuestion {
  std::string run_id;
  PlanInput input;
  v1::ExpertLayout layout;   // empty: as recorded
  bool prune_all = false;    // every layer may be pruned
  uint64_t base_step = 0;    // loads up to here were counted under another layout
  uint64_t layout_step = 0;  // of the newest layout, to notice a newer one
  uint32_t window_steps = 1;
  absl::Time asked = absl::InfinitePast();  // when the plan was asked for
};

// Who wanted a decision, and why.
struct Coordinator::DecisionCause {
  std::string origin;  // "policy" or "request"
  std::string policy;  // who planned
  std::string why;
  std::string by;  // who asked; empty for a policy
  absl::Time asked = absl::InfinitePast();
};

// One question to a PolicyService.
struct Coordinator::PolicyTurn {
  PlanQuestion question;  // with the window's loads
  std::string address;
  // What the built-in policy wants at this step, and its plan; absent when it wants nothing.
  std::optional<Intent> intent;
  v1::Plan builtin;
};

}  // namespace espalier::coordinator
