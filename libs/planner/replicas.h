// Replicas: what copies of experts heavier than a rank's share would give. Training of copies is
// not there yet; this says what it would be worth.
#pragma once

#include <vector>

namespace espalier::planner {

// An expert heavier than a rank's share: what copies of it would give.
struct ReplicaAdvice {
  int expert = 0;
  double load_over_rank_mean = 1;
  int copies = 2;                        // in all, the original included
  double max_over_mean_with_copies = 1;  // of the layer, when every expert listed has its copies
};

// For every expert whose load is above the mean rank load, in the order of `experts`. A copy takes
// an even part of its expert's tokens. Starts from as many copies as bring each part under the
// mean, and takes one more each while that lowers the layer's heaviest rank by a hundredth or more;
// never more than one a rank.
std::vector<ReplicaAdvice> AdviseReplicas(const std::vector<int>& experts,
                                          const std::vector<double>& loads, int rank_count);

}  // namespace espalier::planner
