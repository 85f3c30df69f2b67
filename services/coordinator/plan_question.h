// PlanQuestion: a plan to be made, all but the loads, which are read where there is time.
#pragma once

#include <cstdint>
#include <string>

#include "services/coordinator/coordinator.h"
#include "services/coordinator/plan_builder.h"

namespace espalier::coordinator {

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

}  // namespace espalier::coordinator
