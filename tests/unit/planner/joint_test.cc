// Goal: a joint plan says what its parts say, its certificate is true, and moves are made only
// where they pay. Method: random layers, everything recomputed from the placement that came out.
#include "libs/planner/joint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace espalier::planner {
namespace {

using ::testing::HasSubstr;

std::vector<LayerState> RandomLayers(int seed, int layers, int experts, int ranks) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> load(3, 1.5);
  std::vector<LayerState> states(layers);
  for (int l = 0; l < layers; ++l) {
    states[l].layer = 2 * l;
    for (int e = 0; e < experts; ++e) {
      if (random() % 4 == 0) continue;  // gone already
      states[l].experts.push_back(e);
      states[l].ranks.push_back(e * ranks / experts);
      states[l].loads.push_back(load(random));
    }
    states[l].previous_loads = states[l].loads;
  }
  return states;
}

// Loads and former ranks of what a layer's plan keeps.
void Kept(const LayerState& state, const LayerPlan& plan, std::vector<double>* loads,
          std::vector<int>* current) {
  for (size_t i = 0, k = 0; i < state.experts.size(); ++i) {
    if (k == plan.experts.size() || plan.experts[k] != state.experts[i]) continue;
    ++k;
    loads->push_back(state.loads[i]);
    current->push_back(state.ranks[i]);
  }
}

TEST(MakePlan, CertifiesWhatItDoes) {
  for (int seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    PlanRequest request;
    const int ranks = request.topology.rank_count = 1 + static_cast<int>(random() % 6);
    request.layers = RandomLayers(seed, 3, 24, ranks);
    request.prune.beta = 0.1;
    request.prunable = {0, 4};
    if (ranks % 2 == 0) {
      for (int rank = 0; rank < ranks; ++rank)
        request.topology.node_of_rank.push_back(rank / (ranks / 2));
    }
    const JointPlan plan = MakePlan(request);
    ASSERT_EQ(plan.layers.size(), 3u);
    int pruned = 0, moved = 0;
    double before = 0, after = 0;
    for (int l = 0; l < 3; ++l) {
      const LayerState& state = request.layers[l];
      const LayerPlan& layer = plan.layers[l];
      EXPECT_EQ(layer.layer, state.layer);
      if (l == 1) {
        EXPECT_TRUE(layer.pruned.empty()) << "not among the prunable";
      } else {
        EXPECT_EQ(layer.pruned, SelectPruned(state.experts, state.loads, request.prune));
      }
      ASSERT_EQ(layer.pruned.size() + layer.experts.size(), state.experts.size());
      EXPECT_LT(layer.pruned_load_share, request.prune.beta);
      EXPECT_DOUBLE_EQ(layer.max_over_mean_before, MaxOverMean(state.loads, state.ranks, ranks));
      std::vector<double> loads;
      std::vector<int> current;
      Kept(state, layer, &loads, &current);
      ASSERT_EQ(loads.size(), layer.ranks.size());
      int moves = 0;
      for (size_t i = 0; i < current.size(); ++i) moves += current[i] != layer.ranks[i];
      EXPECT_EQ(layer.moves, moves);
      EXPECT_DOUBLE_EQ(layer.max_over_mean_after, MaxOverMean(loads, layer.ranks, ranks));
      EXPECT_LE(layer.max_over_mean_after, MaxOverMean(loads, current, ranks) + 1e-9)
          << "never worse than staying";
      EXPECT_GE(layer.max_over_mean_after, layer.lower_bound_over_mean - 1e-9);
      EXPECT_DOUBLE_EQ(layer.node_max_over_mean_after,
                       NodeMaxOverMean(loads, layer.ranks, request.topology.node_of_rank));
      pruned += static_cast<int>(layer.pruned.size());
      moved += moves;
      before += layer.max_over_mean_before;
      after += layer.max_over_mean_after;
    }
    EXPECT_EQ(plan.experts_pruned, pruned);
    EXPECT_EQ(plan.experts_moved, moved);
    EXPECT_NEAR(plan.imbalance_before, before / 3, 1e-12);
    EXPECT_NEAR(plan.imbalance_after, after / 3, 1e-12);
    EXPECT_EQ(plan.empty, pruned + moved == 0);
  }
}

// Two ranks, one of them with three times the other's load; one move evens them out.
PlanRequest Lopsided() {
  PlanRequest request;
  request.topology.rank_count = 2;
  request.layers = {
      {.layer = 0, .experts = {0, 1, 2, 3}, .ranks = {0, 0, 0, 1}, .loads = {1, 1, 1, 1}}};
  request.cost = {.step_seconds = 1,
                  .experts_seconds = 0.6,
                  .expert_bytes = 1e9,
                  .bytes_per_second = 1e9,
                  .horizon_steps = 100};
  return request;
}

TEST(MakePlan, MovesExactlyWhenTheyPayWithinTheHorizon) {
  // One expert is one second; max/mean 1.5 to 1 saves 0.6 / 3 = 0.2 s a step: five steps.
  PlanRequest request = Lopsided();
  const JointPlan plan = MakePlan(request);
  EXPECT_EQ(plan.experts_moved, 1);
  EXPECT_DOUBLE_EQ(plan.move_seconds, 1);
  ASSERT_TRUE(plan.payback_steps.has_value());
  EXPECT_NEAR(*plan.payback_steps, 5, 1e-9);
  EXPECT_NEAR(plan.step_seconds_predicted, 0.8, 1e-9);
  EXPECT_DOUBLE_EQ(plan.bytes_moved, 1e9);

  request.cost.horizon_steps = 5.001;
  EXPECT_EQ(MakePlan(request).experts_moved, 1);
  request.cost.horizon_steps = 4.999;
  const JointPlan none = MakePlan(request);
  EXPECT_TRUE(none.empty);
  EXPECT_EQ(none.experts_moved, 0);
  EXPECT_DOUBLE_EQ(none.imbalance_after, 1.5);
  EXPECT_THAT(none.reason, HasSubstr("does not pay"));
  EXPECT_THAT(none.reason, HasSubstr("1 experts"));

  request.cost.step_seconds = request.cost.experts_seconds = 0;
  const JointPlan unknown = MakePlan(request);
  EXPECT_EQ(unknown.experts_moved, 1) << "without a step time the gain alone decides";
  EXPECT_FALSE(unknown.payback_steps.has_value());
}

TEST(MakePlan, LeavesOutTheLayersThatDoNotPayAndKeepsTheOthers) {
  PlanRequest request = Lopsided();
  // A second layer that is only a little uneven, and whose expert is as heavy to move.
  request.layers.push_back(
      {.layer = 1, .experts = {0, 1, 2, 3}, .ranks = {0, 0, 1, 1}, .loads = {1.1, 1.0, 1.0, 0.9}});
  request.cost.horizon_steps = 20;
  const JointPlan plan = MakePlan(request);
  EXPECT_EQ(plan.layers[0].moves, 1);
  EXPECT_EQ(plan.layers[1].moves, 0);
  EXPECT_FALSE(plan.empty);
  EXPECT_THAT(plan.reason, HasSubstr("more"));
  request.cost.bytes_per_second = 1e12;
  EXPECT_GT(MakePlan(request).layers[1].moves, 0);
}

TEST(MakePlan, StaysBelowTheTriggerAndWithinTheBudget) {
  PlanRequest request = Lopsided();
  request.trigger = 1.6;
  EXPECT_TRUE(MakePlan(request).empty);
  EXPECT_THAT(MakePlan(request).reason, HasSubstr("placement.trigger"));
  for (int seed = 0; seed < 50; ++seed) {
    PlanRequest drawn;
    drawn.topology.rank_count = 4;
    drawn.layers = RandomLayers(seed, 2, 32, 4);
    drawn.moves_max_share = 0.1;
    for (const LayerPlan& layer : MakePlan(drawn).layers)
      EXPECT_LE(layer.moves, static_cast<int>(layer.experts.size()) / 10) << seed;
  }
}

TEST(MakePlan, JudgesByTheScoreWhenOneIsGiven) {
  PlanRequest request;
  request.layers = {{.layer = 0,
                     .experts = {3, 5, 7},
                     .ranks = {0, 0, 0},
                     .loads = {1, 100, 100},
                     .scores = {100, 1, 100}}};
  request.prunable = {0};
  request.prune.beta = 0.05;
  const JointPlan plan = MakePlan(request);
  EXPECT_EQ(plan.layers[0].pruned, std::vector<int>{5}) << "rarely used, but worth much: 3 stays";
  EXPECT_NEAR(plan.layers[0].pruned_load_share, 100.0 / 201, 1e-12);
}

TEST(MakePlan, PlacesAFreshModel) {
  PlanRequest request;
  request.layers = {{.layer = 1, .experts = {0, 1}, .loads = {2, 2}}};
  request.topology.rank_count = 2;
  const JointPlan plan = MakePlan(request);
  EXPECT_EQ(plan.layers[0].max_over_mean_after, 1);
  EXPECT_EQ(plan.layers[0].moves, 0);
  EXPECT_FALSE(plan.empty);
  EXPECT_EQ(plan.layers[0].ranks.size(), 2u);
}

TEST(MakePlan, SaysWhatCopiesOfAHotExpertWouldGive) {
  PlanRequest request;
  request.topology.rank_count = 4;
  request.layers = {{.layer = 0,
                     .experts = {0, 1, 2, 3, 4, 5, 6},
                     .ranks = {0, 0, 1, 1, 2, 2, 3},
                     .loads = {10, 1, 1, 1, 1, 1, 1}}};
  const LayerPlan layer = MakePlan(request).layers[0];
  ASSERT_EQ(layer.replicas.size(), 1u);
  EXPECT_EQ(layer.replicas[0].expert, 0);
  EXPECT_DOUBLE_EQ(layer.replicas[0].load_over_rank_mean, 2.5);
  EXPECT_DOUBLE_EQ(layer.lower_bound_over_mean, 2.5);
  EXPECT_GE(layer.replicas[0].copies, 3);
  EXPECT_LT(layer.replicas[0].max_over_mean_with_copies, 1.2);
}

TEST(CertifyPlan, SaysOfAPlanWhatItsMakerSaid) {
  for (int seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    PlanRequest request;
    request.topology.rank_count = 1 + seed % 5;
    request.layers = RandomLayers(seed, 3, 24, request.topology.rank_count);
    request.prune.beta = 0.1;
    request.prunable = {0, 2, 4};
    request.cost = {.step_seconds = 1, .experts_seconds = 0.5, .expert_bytes = 1e6,
                    .bytes_per_second = 1e9};
    const JointPlan made = MakePlan(request);
    std::map<int, LayerTarget> targets;
    for (const LayerPlan& layer : made.layers) targets[layer.layer] = {layer.experts, layer.ranks};
    const JointPlan certified = CertifyPlan(request, targets);
    EXPECT_EQ(made.experts_pruned, certified.experts_pruned);
    EXPECT_EQ(made.experts_moved, certified.experts_moved);
    EXPECT_DOUBLE_EQ(made.imbalance_before, certified.imbalance_before);
    EXPECT_NEAR(made.imbalance_after, certified.imbalance_after, 1e-12);
    EXPECT_NEAR(made.gap_to_lower_bound, certified.gap_to_lower_bound, 1e-12);
    EXPECT_NEAR(made.step_seconds_predicted, certified.step_seconds_predicted, 1e-12);
    EXPECT_DOUBLE_EQ(made.move_seconds, certified.move_seconds);
    ASSERT_EQ(made.layers.size(), certified.layers.size());
    for (size_t l = 0; l < made.layers.size(); ++l) {
      EXPECT_EQ(made.layers[l].pruned, certified.layers[l].pruned);
      EXPECT_NEAR(made.layers[l].max_over_mean_after, certified.layers[l].max_over_mean_after,
                  1e-12);
      EXPECT_DOUBLE_EQ(made.layers[l].pruned_load_share, certified.layers[l].pruned_load_share);
    }
  }
}

TEST(CertifyPlan, LayersWithoutATargetStay) {
  PlanRequest request;
  request.topology.rank_count = 4;
  request.layers = RandomLayers(1, 3, 24, 4);
  const JointPlan plan = CertifyPlan(request, {});
  EXPECT_TRUE(plan.empty);
  EXPECT_EQ(plan.imbalance_before, plan.imbalance_after);
  for (size_t l = 0; l < plan.layers.size(); ++l)
    EXPECT_EQ(plan.layers[l].ranks, request.layers[l].ranks);
}

}  // namespace
}  // namespace espalier::planner
