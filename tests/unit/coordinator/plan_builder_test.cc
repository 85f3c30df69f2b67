// Goal: a plan keeps what the policy says it must and its certificate tells the truth about the
// layout beside it.
#include "services/coordinator/plan_builder.h"

#include <algorithm>
#include <map>
#include <random>

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

PlanInput RandomInput(uint32_t seed) {
  std::mt19937 random(seed);
  PlanInput input;
  input.model.set_layers(3);
  input.model.set_width(16);
  input.model.set_expert_width(8);
  input.model.set_experts(4 + random() % 28);
  input.model.set_top_k(1 + random() % 4);
  input.rank_count = 1 + random() % 4;
  input.prune.set_beta(0.05 + 0.01 * (random() % 60));
  input.prune.set_keep_multiple_of(1 + random() % 4);
  input.prune.set_stable_rank_correlation(0.95);
  input.prune.set_stable_shift(0.05);
  input.placement.set_extra_slots(2);
  input.placement.set_trigger(1.05);
  input.placement.set_min_gain(0.01);
  std::lognormal_distribution<double> load(3, 1.5);
  for (int layer = 0; layer < 3; ++layer) {
    planner::LayerState state;
    state.layer = layer;
    for (uint32_t e = 0; e < input.model.experts(); ++e) {
      state.experts.push_back(static_cast<int>(e));
      state.ranks.push_back(static_cast<int>(e * input.rank_count / input.model.experts()));
      state.loads.push_back(load(random));
    }
    state.previous_loads = state.loads;
    input.layers.push_back(state);
    if (random() % 2 == 0) input.prunable.insert(layer);
  }
  return input;
}

TEST(BuildPlan, KeepsItsPromisesOnRandomLoads) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    const PlanInput input = RandomInput(seed);
    const v1::Plan plan = BuildPlan(input);
    ASSERT_EQ(plan.layers_size(), 3);
    uint64_t pruned = 0, moved = 0;
    for (int l = 0; l < 3; ++l) {
      const v1::LayerLayout& layout = plan.layout().layers(l);
      const v1::LayerCertificate& certificate = plan.layers(l);
      const planner::LayerState& state = input.layers[l];
      ASSERT_EQ(layout.experts_size(), layout.ranks_size());
      EXPECT_GE(layout.experts_size(),
                static_cast<int>(std::min(input.model.top_k(), input.model.experts())));
      EXPECT_TRUE(std::is_sorted(layout.experts().begin(), layout.experts().end()));
      EXPECT_EQ(layout.experts_size() + certificate.pruned_size(),
                static_cast<int>(state.experts.size()));
      EXPECT_TRUE(input.prunable.contains(l) || certificate.pruned_size() == 0);
      EXPECT_LT(certificate.pruned_load_share(), input.prune.beta());
      pruned += certificate.pruned_size();
      std::vector<double> loads;
      std::vector<int> ranks;
      uint32_t moves = 0;
      for (int i = 0; i < layout.experts_size(); ++i) {
        const int expert = static_cast<int>(layout.experts(i));
        loads.push_back(state.loads[expert]);
        ranks.push_back(static_cast<int>(layout.ranks(i)));
        EXPECT_LT(layout.ranks(i), input.rank_count);
        if (static_cast<int>(layout.ranks(i)) != state.ranks[expert]) ++moves;
      }
      EXPECT_EQ(moves, certificate.moves());
      moved += moves;
      EXPECT_NEAR(planner::MaxOverMean(loads, ranks, static_cast<int>(input.rank_count)),
                  certificate.max_over_mean_after(), 1e-9);
      EXPECT_TRUE(certificate.stable());
    }
    EXPECT_EQ(plan.experts_pruned(), pruned);
    EXPECT_EQ(plan.experts_moved(), moved);
    EXPECT_EQ(plan.empty(), pruned == 0 && moved == 0);
    EXPECT_EQ(plan.bytes_moved(), moved * 3 * 16 * 8 * 12);
  }
}

TEST(BuildPlan, KeepsProtectedExpertsAndTheFewestAllowed) {
  PlanInput input = RandomInput(1);
  input.prune.set_beta(0.9);
  input.prune.set_keep_min_fraction(0.5);
  input.prunable = {0, 1, 2};
  const auto lightest =
      std::min_element(input.layers[0].loads.begin(), input.layers[0].loads.end());
  const auto shielded = static_cast<uint32_t>(lightest - input.layers[0].loads.begin());
  input.prune.add_protected_experts(shielded);
  const v1::Plan plan = BuildPlan(input);
  for (const auto& layer : plan.layout().layers()) {
    EXPECT_GE(layer.experts_size() * 2, static_cast<int>(input.model.experts()));
    EXPECT_TRUE(std::count(layer.experts().begin(), layer.experts().end(), shielded));
  }
}

TEST(BuildPlan, LeavesABalancedPlacementAlone) {
  PlanInput input = RandomInput(2);
  input.prunable.clear();
  input.needs_trigger = true;
  for (auto& layer : input.layers) std::fill(layer.loads.begin(), layer.loads.end(), 1.0);
  input.placement.set_trigger(3);
  const v1::Plan plan = BuildPlan(input);
  EXPECT_TRUE(plan.empty());
  EXPECT_NE(plan.reason().find("placement.trigger"), std::string::npos);
}

TEST(BuildPlan, PredictsAShorterStepFromALighterHeaviestRank) {
  PlanInput input = RandomInput(3);
  input.rank_count = 2;
  for (auto& layer : input.layers) {
    for (size_t i = 0; i < layer.loads.size(); ++i) {
      layer.ranks[i] = i * 2 < layer.loads.size() ? 0 : 1;
      layer.loads[i] = layer.ranks[i] == 0 ? 3 : 1;
    }
  }
  input.step_seconds = 1;
  input.experts_seconds = 0.5;
  const v1::Plan plan = BuildPlan(input);
  EXPECT_LT(plan.step_seconds_predicted(), 1);
  EXPECT_GE(plan.step_seconds_predicted(), 0.5);
}

}  // namespace
}  // namespace espalier::coordinator
