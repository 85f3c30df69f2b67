// Planning on recorded loads without any service: JSON in, JSON out, through the same planner as
// the coordinator's.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libs/planner/planner.h"

namespace espalier::cli {

// `loads` is {"layers":[{"layer":0,"loads":[…]}]}, or lines of {"layer":0,"loads":[…]} (the last
// line of a layer counts). Gives {"layers":[{"layer":0,"pruned":[…],"ranks":[[expert,…],…],…}],…}:
// what goes, and where the rest would stand. `current` is empty or a placement to start from.
absl::StatusOr<std::string> PlanPruneOffline(const std::string& loads, const std::string& current,
                                             const planner::PruneOptions& prune,
                                             const planner::PlacementOptions& placement);

// Gives
// {"layers":[{"layer":0,"ranks":[[expert,…],…],"max_over_mean":…,"lower_bound_over_mean":…,"moves":…}]}.
// and what copies of experts too heavy for a rank would give. `current` is empty or such a file:
// planning then starts there, and moves at most `moves_max_share` of a layer's experts.
absl::StatusOr<std::string> PlanPlacementOffline(const std::string& loads,
                                                 const std::string& current,
                                                 planner::PlacementOptions options,
                                                 double moves_max_share = 1);

}  // namespace espalier::cli
