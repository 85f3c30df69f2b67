// Planner: from expert loads to what to prune and where to put what stays. Pure functions: no I/O, no clock, no threads.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::planner {

// Load of each expert alive, aligned with `experts` (ascending original ids) and, where placed, `ranks`.
struct LayerState {
  int layer = 0;
  std::vector<int> experts;
  std::vector<int> ranks;
  std::vector<double> loads;           // newest window
  std::vector<double> previous_loads;  // the window before it; empty when there is none
  std::vector<double> scores;          // what pruning judges by; empty: the loads
};

struct StabilityOptions {
  double rank_correlation_min = 0.95;
  double shift_max = 0.05;
  int checks = 2;
};

// Spearman rank correlation (average ranks for ties) and total-variation distance of load shares.
struct Stability {
  double rank_correlation = 0;
  double shift = 1;
};
Stability MeasureStability(const std::vector<double>& previous, const std::vector<double>& current);

// Counts consecutive windows that hold, per layer.
class StabilityTracker {
 public:
  explicit StabilityTracker(StabilityOptions options) : options_(options) {}
  // Feeds the next window of `layer`; returns true when the layer is stable now.
  bool Observe(int layer, const std::vector<double>& loads);
  bool IsStable(int layer) const;
  Stability Last(int layer) const;
  // Loads change meaning when experts go: start again.
  void Reset(int layer);

 private:
  struct Entry {
    std::vector<double> previous;
    Stability last;
    int held = 0;
  };
  StabilityOptions options_;
  std::vector<Entry> entries_;
};

struct PruneOptions {
  double alpha = std::numeric_limits<double>::infinity();
  double beta = 0.05;
  int keep_multiple_of = 1;
  int keep_min = 1;  // never below top_k: the caller sees to it
  std::vector<int> protected_experts;
};
// LAEP: ids of the experts to prune, ascending [arXiv 2601.14327]. `loads` may be any score that is
// higher for an expert worth more: alpha then speaks of the mean score, beta of the sum of scores.
std::vector<int> SelectPruned(const std::vector<int>& experts, const std::vector<double>& loads,
                              const PruneOptions& options);

struct PlacementOptions {
  int rank_count = 1;
  int extra_slots = 2;        // capacity of a rank = ceil(experts / ranks) + extra_slots
  double tolerance = 0.005;   // stop within this of the lower bound
  int moves_max = std::numeric_limits<int>::max();  // budget against `current`
  // Node of each rank. Nodes of equal size are balanced first, then the ranks within each; empty, one
  // node, or nodes of different sizes: ranks alone.
  std::vector<int> node_of_rank;
};
struct Placement {
  std::vector<int> ranks;  // aligned with loads
  double max_over_mean = 1;
  double lower_bound_over_mean = 1;
  int moves = 0;           // experts whose rank differs from `current`
};
// `current` empty: capped LPT, then swaps. Else swaps and moves from the current placement.
Placement PlaceExperts(const std::vector<double>& loads, const std::vector<int>& current,
                       const PlacementOptions& options);
double MaxOverMean(const std::vector<double>& loads, const std::vector<int>& ranks, int rank_count);
// Likewise of the nodes, each against its share of the ranks; 1 without nodes.
double NodeMaxOverMean(const std::vector<double>& loads, const std::vector<int>& ranks,
                       const std::vector<int>& node_of_rank);

}  // namespace espalier::planner
