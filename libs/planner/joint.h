// Joint planning: what to prune and where to put what stays, in one decision, so that a worker
// reshuffles once.
#pragma once

#include <span>
#include <vector>

#include "libs/planner/planner.h"

namespace espalier::planner {

// One layer's part of a plan, with its certificate. Without `ranks` in the state, "before" figures
// are 1.
struct LayerPlan {
  int layer = 0;
  std::vector<int> pruned;   // original ids, ascending
  std::vector<int> experts;  // kept, original ids, ascending
  std::vector<int> ranks;    // aligned with `experts`
  double max_over_mean_before = 1;
  double max_over_mean_after = 1;
  double lower_bound_over_mean = 1;
  int moves = 0;
  double pruned_load_share = 0;
  Stability stability;
};

// Plans every layer by SelectPruned, then PlaceExperts on what is kept. Which layers may be pruned
// (the stable ones) is the caller's decision: leave `prune.beta` at 0 for the others.
std::vector<LayerPlan> PlanLayers(std::span<const LayerState> layers, const PruneOptions& prune,
                                  const PlacementOptions& placement);

}  // namespace espalier::planner
