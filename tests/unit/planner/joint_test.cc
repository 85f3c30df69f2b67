// Goal: a joint plan says what its parts say, and its certificate is true. Method: random layers,
// recomputed.
#include "libs/planner/joint.h"

#include <gtest/gtest.h>

#include <random>

namespace espalier::planner {
namespace {

TEST(PlanLayers, CertifiesWhatItDoes) {
  for (int seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::lognormal_distribution<double> load(3, 1.5);
    std::vector<LayerState> layers(3);
    const int ranks = 1 + random() % 5;
    for (int l = 0; l < 3; ++l) {
      layers[l].layer = 2 * l;
      for (int e = 0; e < 24; ++e) {
        if (random() % 4 == 0) continue;  // gone already
        layers[l].experts.push_back(e);
        layers[l].ranks.push_back(e % ranks);
        layers[l].loads.push_back(load(random));
      }
      layers[l].previous_loads = layers[l].loads;
    }
    const PlacementOptions placement{.rank_count = ranks};
    const PruneOptions prune{.beta = 0.1};
    const auto plans = PlanLayers(layers, prune, placement);
    ASSERT_EQ(plans.size(), 3u);
    for (int l = 0; l < 3; ++l) {
      const LayerState& state = layers[l];
      const LayerPlan& plan = plans[l];
      EXPECT_EQ(plan.layer, state.layer);
      EXPECT_EQ(plan.pruned, SelectPruned(state.experts, state.loads, prune));
      EXPECT_EQ(plan.pruned.size() + plan.experts.size(), state.experts.size());
      EXPECT_LT(plan.pruned_load_share, prune.beta);
      EXPECT_DOUBLE_EQ(plan.max_over_mean_before, MaxOverMean(state.loads, state.ranks, ranks));
      EXPECT_NEAR(plan.stability.rank_correlation, 1, 1e-12);
      std::vector<double> loads;
      int moves = 0;
      for (size_t i = 0, k = 0; i < state.experts.size(); ++i) {
        if (k == plan.experts.size() || plan.experts[k] != state.experts[i]) continue;
        loads.push_back(state.loads[i]);
        moves += plan.ranks[k++] != state.ranks[i];
      }
      ASSERT_EQ(loads.size(), plan.ranks.size());
      EXPECT_EQ(plan.moves, moves);
      EXPECT_DOUBLE_EQ(plan.max_over_mean_after, MaxOverMean(loads, plan.ranks, ranks));
      EXPECT_GE(plan.max_over_mean_after, plan.lower_bound_over_mean - 1e-9);
    }
  }
}

TEST(PlanLayers, PlacesAFreshModel) {
  const auto plans =
      PlanLayers(std::vector<LayerState>{{.layer = 1, .experts = {0, 1}, .loads = {2, 2}}},
                 {.beta = 0}, {.rank_count = 2});
  EXPECT_EQ(plans[0].max_over_mean_after, 1);
  EXPECT_EQ(plans[0].moves, 0);
}

}  // namespace
}  // namespace espalier::planner
