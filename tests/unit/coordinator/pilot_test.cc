// Goal: the policy asks for a prune when, and only when, its conditions hold; the same after a
// rebuild from the records.
#include "services/coordinator/pilot.h"

#include <random>

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

v1::RunSpec Spec() {
  v1::RunSpec spec;
  spec.mutable_workers()->set_count(2);
  spec.mutable_model()->set_experts(8);
  v1::PrunePolicy* prune = spec.mutable_prune();
  prune->set_enabled(true);
  prune->set_window_steps(10);
  prune->set_stable_rank_correlation(0.95);
  prune->set_stable_shift(0.05);
  prune->set_stable_checks(2);
  prune->set_stable_layers(1);
  v1::PlacementPolicy* placement = spec.mutable_placement();
  placement->set_enabled(true);
  placement->set_window_steps(10);
  placement->set_trigger(1.05);
  placement->set_interval_steps(30);
  return spec;
}

// Layers from `noisy` on churn at random; the others hold their skew.
std::vector<LayerStep> Loads(int layers, int noisy, std::mt19937* random) {
  std::vector<LayerStep> steps;
  for (int l = 0; l < layers; ++l) {
    LayerStep layer;
    layer.layer = static_cast<uint32_t>(l);
    layer.rank_tokens.assign(2, 0);
    for (int e = 0; e < 8; ++e) {
      const uint64_t tokens =
          l >= noisy ? (*random)() % 1000000 / (1 + (*random)() % 1000) : uint64_t{1000} >> e;
      layer.tokens.push_back(tokens);
      layer.ranks.push_back(e < 4 ? 0 : 1);
      layer.rank_tokens[e < 4 ? 0 : 1] += tokens;
    }
    steps.push_back(layer);
  }
  return steps;
}

Situation At(uint64_t step) {
  Situation situation;
  situation.step = step;
  situation.pretraining = true;
  situation.stage_end = 10000;
  return situation;
}

// Step of the first intent within `steps`, or 0.
uint64_t FirstIntent(const v1::RunSpec& spec, int layers, int noisy, uint64_t steps, Intent* out) {
  Pilot pilot(spec);
  pilot.Restart(0);
  std::mt19937 random(7);
  for (uint64_t step = 1; step <= steps; ++step) {
    pilot.Observe(step, Loads(layers, noisy, &random));
    if (const auto intent = pilot.Decide(At(step)); intent.has_value()) {
      *out = *intent;
      return step;
    }
  }
  return 0;
}

TEST(Pilot, PrunesAllLayersTogetherOnceTheyAreStable) {
  Intent intent;
  EXPECT_EQ(FirstIntent(Spec(), 3, 3, 100, &intent), 30u) << "three windows make two comparisons";
  EXPECT_EQ(intent.prunable, (std::set<uint32_t>{0, 1, 2}));
  EXPECT_TRUE(intent.place);
}

TEST(Pilot, WaitsForTheShareOfStableLayers) {
  Intent intent;
  v1::RunSpec spec = Spec();
  EXPECT_EQ(FirstIntent(spec, 4, 3, 200, &intent), 0u) << "layer 3 never settles";
  spec.mutable_prune()->set_stable_layers(0.75);
  EXPECT_EQ(FirstIntent(spec, 4, 3, 200, &intent), 30u);
  EXPECT_EQ(intent.prunable, (std::set<uint32_t>{0, 1, 2})) << "only the stable ones";
}

TEST(Pilot, KeepsEarliestLatestAndFixedStep) {
  Intent intent;
  v1::RunSpec spec = Spec();
  spec.mutable_prune()->set_earliest_step(55);
  EXPECT_EQ(FirstIntent(spec, 2, 2, 200, &intent), 60u);
  spec = Spec();
  spec.mutable_prune()->set_latest_step(47);
  EXPECT_EQ(FirstIntent(spec, 2, 1, 200, &intent), 47u);
  EXPECT_EQ(intent.prunable, (std::set<uint32_t>{0}));
  spec = Spec();
  spec.mutable_prune()->set_fixed_step(13);
  EXPECT_EQ(FirstIntent(spec, 2, 0, 200, &intent), 13u);
  EXPECT_EQ(intent.prunable, (std::set<uint32_t>{0, 1}));
  EXPECT_EQ(FirstIntent(spec, 2, 2, 12, &intent), 0u);
}

TEST(Pilot, PlacesOnlyAboveTheTriggerAndAtIntervals) {
  v1::RunSpec spec = Spec();
  spec.mutable_prune()->set_enabled(false);
  Pilot pilot(spec);
  pilot.Restart(0);
  std::mt19937 random(7);
  std::vector<uint64_t> asked;
  Situation situation = At(0);
  for (uint64_t step = 1; step <= 100; ++step) {
    pilot.Observe(step, Loads(2, 2, &random));
    situation.step = step;
    if (const auto intent = pilot.Decide(situation); intent.has_value()) {
      EXPECT_TRUE(intent->prunable.empty());
      asked.push_back(step);
      situation.last_decision_step = step;
    }
  }
  EXPECT_EQ(asked, (std::vector<uint64_t>{10, 40, 70, 100}));
  spec.mutable_placement()->set_trigger(2);
  Intent intent;
  EXPECT_EQ(FirstIntent(spec, 2, 2, 100, &intent), 0u);
}

TEST(Pilot, DecidesNothingOutsidePretrainingOrAtItsEnd) {
  Pilot pilot(Spec());
  pilot.Restart(0);
  std::mt19937 random(7);
  for (uint64_t step = 1; step <= 100; ++step) {
    pilot.Observe(step, Loads(2, 2, &random));
    Situation situation = At(step);
    situation.pretraining = false;
    EXPECT_FALSE(pilot.Decide(situation).has_value());
    situation.pretraining = true;
    situation.stage_end = step;
    EXPECT_FALSE(pilot.Decide(situation).has_value());
  }
}

TEST(Pilot, StartsAnewWhenTheExpertsChanged) {
  Pilot pilot(Spec());
  pilot.Restart(0);
  std::mt19937 random(7);
  for (uint64_t step = 1; step <= 29; ++step) pilot.Observe(step, Loads(2, 2, &random));
  pilot.Restart(29);
  for (uint64_t step = 20; step <= 29; ++step)
    pilot.Observe(step, Loads(2, 2, &random));  // late news is old news
  uint64_t first = 0;
  for (uint64_t step = 30; step <= 100 && first == 0; ++step) {
    pilot.Observe(step, Loads(2, 2, &random));
    if (pilot.Decide(At(step)).has_value()) first = step;
  }
  EXPECT_EQ(first, 59u);
}

}  // namespace
}  // namespace espalier::coordinator
