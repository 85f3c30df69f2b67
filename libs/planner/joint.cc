// MakePlan: pruning and placement of each layer in one pass, with the figures that certify it.
#include "libs/planner/joint.h"

#include <algorithm>
#include <numeric>

#include "libs/observe/log.h"

namespace espalier::planner {
namespace {

LayerPlan PlanLayer(const LayerState& state, const PruneOptions& prune,
                    const PlacementOptions& placement) {
  CHECK_EQ(state.experts.size(), state.loads.size());
  const bool placed = !state.ranks.empty();
  if (placed) CHECK_EQ(state.ranks.size(), state.loads.size());
  LayerPlan plan;
  plan.layer = state.layer;
  plan.stability = MeasureStability(state.previous_loads, state.loads);
  if (placed) {
    plan.max_over_mean_before = MaxOverMean(state.loads, state.ranks, placement.rank_count);
  }
  plan.pruned = SelectPruned(state.experts, state.loads, prune);

  std::vector<double> loads;
  std::vector<int> current;
  double gone = 0;
  for (size_t i = 0; i < state.experts.size(); ++i) {
    if (std::binary_search(plan.pruned.begin(), plan.pruned.end(), state.experts[i])) {
      gone += state.loads[i];
      continue;
    }
    plan.experts.push_back(state.experts[i]);
    loads.push_back(state.loads[i]);
    if (placed) current.push_back(state.ranks[i]);
  }
  const double total = std::accumulate(state.loads.begin(), state.loads.end(), 0.0);
  plan.pruned_load_share = total > 0 ? gone / total : 0;

  Placement best = PlaceExperts(loads, current, placement);
  plan.ranks = std::move(best.ranks);
  plan.max_over_mean_after = best.max_over_mean;
  plan.lower_bound_over_mean = best.lower_bound_over_mean;
  plan.moves = best.moves;
  return plan;
}

}  // namespace

JointPlan MakePlan(const PlanRequest& request) {
  JointPlan plan;
  PlacementOptions placement;
  placement.rank_count = request.topology.rank_count;
  placement.extra_slots = request.extra_slots;
  placement.tolerance = request.tolerance;
  for (const LayerState& state : request.layers) {
    PruneOptions prune = request.prune;
    if (!request.prunable.contains(state.layer)) prune.beta = 0;
    plan.layers.push_back(PlanLayer(state, prune, placement));
  }
  return plan;
}

}  // namespace espalier::planner
