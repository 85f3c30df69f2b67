// Planning on recorded loads without any service: JSON in, JSON out, through the same planner as
// the coordinator's.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libs/planner/planner.h"

namespace espalier::cli {

// `loads` is {"layers":[{"layer":0,"loads":[…]}]}, or lines of {"layer":0,"loads":[…]} (the last
// line of a layer counts). Gives {"layers":[{"layer":0,"pruned":[…]}]}.
absl::StatusOr<std::string> PlanPruneOffline(const std::string& loads,
                                             const planner::PruneOptions& options);

// Gives
// {"layers":[{"layer":0,"ranks":[[expert,…],…],"max_over_mean":…,"lower_bound_over_mean":…,"moves":…}]}.
// `current` is empty or such a file: planning then starts there.
absl::StatusOr<std::string> PlanPlacementOffline(const std::string& loads,
                                                 const std::string& current,
                                                 const planner::PlacementOptions& options);

}  // namespace espalier::cli
