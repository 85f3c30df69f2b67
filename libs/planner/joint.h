// Joint planning: what to prune and where to put what stays, in one decision, so that a worker
// reshuffles once; with the cost of its moves, and the certificate of what it promises.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "libs/planner/planner.h"
#include "libs/planner/replicas.h"

namespace espalier::planner {

// Which ranks sit together. Moves and tokens within a node are cheap, so nodes are balanced first.
struct Topology {
  int rank_count = 1;
  std::vector<int> node_of_rank;  // empty: all ranks share one node
};

// What a move costs and what a balanced step saves. Times in seconds; 0 where nothing was measured.
struct CostModel {
  double step_seconds = 0;
  // Part of the step in which ranks wait for the heaviest one: it scales with max over mean.
  double experts_seconds = 0;
  double expert_bytes = 0;  // weights and optimizer state of one expert
  double bytes_per_second = 1e9;
  double horizon_steps = 1000;  // steps within which the moves must have paid
};

struct PlanRequest {
  std::vector<LayerState> layers;
  std::set<int> prunable;  // layers; empty leaves pruning out
  PruneOptions prune;
  bool place = true;
  Topology topology;
  int extra_slots = 2;
  double tolerance = 0.005;
  // Leave the placement alone while the mean over layers of max/mean is at most this and nothing is
  // pruned; 0 plans always.
  double trigger = 0;
  double min_gain = 0.01;      // of a layer's heaviest rank
  double moves_max_share = 1;  // of a layer's experts
  CostModel cost;
};

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
  double node_max_over_mean_before = 1;
  double node_max_over_mean_after = 1;
  int moves = 0;
  double pruned_load_share = 0;
  Stability stability;
  std::vector<ReplicaAdvice> replicas;
};

struct JointPlan {
  std::vector<LayerPlan> layers;
  double imbalance_before = 1;  // mean over layers of max/mean
  double imbalance_after = 1;
  double gap_to_lower_bound = 0;  // mean over layers, relative
  int experts_pruned = 0;
  int experts_moved = 0;
  double bytes_moved = 0;
  double move_seconds = 0;  // of the busiest rank
  double step_seconds_predicted = 0;
  std::optional<double> payback_steps;  // absent when never, or when no step time is known
  bool empty = false;                   // nothing worth doing
  std::string reason;                   // why, in one sentence
};

// What somebody else wants of one layer.
struct LayerTarget {
  std::vector<int> experts;  // kept: original ids, ascending, a subset of the layer's
  std::vector<int> ranks;    // aligned with `experts`
};

// The certificate of a plan made elsewhere: `targets` by layer, layers without one stay as they are. Every layer of the request has
// ranks. Nothing is judged: what does not pay is certified as not paying. `prunable`, `place`, `trigger` and `min_gain` are not read.
JointPlan CertifyPlan(const PlanRequest& request, const std::map<int, LayerTarget>& targets);

// Plans every layer by SelectPruned, then places what is kept, nodes first. Moves that do not pay
// within the horizon are left out, layer by layer; `reason` says so when nothing is left.
JointPlan MakePlan(const PlanRequest& request);

}  // namespace espalier::planner
