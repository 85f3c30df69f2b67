// Goal: stability is measured as defined and held as long as asked. Method: values worked out by
// hand, invariants on random loads, and the recorded run.
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "libs/planner/planner.h"
#include "tests/unit/planner/recorded.h"

namespace espalier::planner {
namespace {

TEST(MeasureStability, HasNoEvidenceWithoutTokensOrAComparableWindow) {
  for (const auto& [previous, current] :
       std::vector<std::pair<std::vector<double>, std::vector<double>>>{{{}, {}},
                                                                        {{}, {1, 2}},
                                                                        {{1, 2}, {1, 2, 3}},
                                                                        {{0, 0}, {0, 0}},
                                                                        {{1, 2}, {0, 0}},
                                                                        {{0, 0}, {1, 2}}}) {
    const Stability stability = MeasureStability(previous, current);
    EXPECT_EQ(stability.rank_correlation, 0);
    EXPECT_EQ(stability.shift, 1);
  }
}

TEST(MeasureStability, MatchesValuesWorkedOutByHand) {
  const Stability reversed = MeasureStability({1, 2, 3, 4}, {4, 3, 2, 1});
  EXPECT_DOUBLE_EQ(reversed.rank_correlation, -1);
  EXPECT_DOUBLE_EQ(reversed.shift, 0.4);
  // Ranks {1, 2.5, 2.5, 4} against {1, 2, 3, 4}: 4.5 / sqrt(4.5 * 5).
  const Stability tied = MeasureStability({1, 2, 2, 3}, {1, 2, 3, 4});
  EXPECT_NEAR(tied.rank_correlation, 4.5 / std::sqrt(4.5 * 5), 1e-12);
  EXPECT_DOUBLE_EQ(MeasureStability({5, 5}, {7, 7}).rank_correlation, 1);
  EXPECT_DOUBLE_EQ(MeasureStability({5, 5}, {7, 8}).rank_correlation, 0);
}

TEST(MeasureStability, IgnoresScaleAndOrderOfExperts) {
  for (int seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<double> previous(20), current(20);
    for (double& load : previous) load = random() % 30;
    for (double& load : current) load = random() % 30;
    previous[0] = current[0] = 7;
    const Stability plain = MeasureStability(previous, current);
    EXPECT_GE(plain.shift, 0);
    EXPECT_LE(plain.shift, 1);
    EXPECT_LE(std::abs(plain.rank_correlation), 1 + 1e-12);
    std::vector<int> order(20);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<double> mixed_previous, mixed_current;
    for (const int i : order) {
      mixed_previous.push_back(3 * previous[i]);
      mixed_current.push_back(current[i]);
    }
    const Stability mixed = MeasureStability(mixed_previous, mixed_current);
    EXPECT_NEAR(mixed.rank_correlation, plain.rank_correlation, 1e-9);
    EXPECT_NEAR(mixed.shift, plain.shift, 1e-9);
  }
}

TEST(StabilityTracker, NeedsConsecutiveChecksAndStartsAgainAfterReset) {
  StabilityTracker tracker({.rank_correlation_min = 0.9, .shift_max = 0.1, .checks = 2});
  const std::vector<double> calm = {1, 2, 3}, churned = {3, 2, 1};
  EXPECT_FALSE(tracker.IsStable(4));
  EXPECT_FALSE(tracker.Observe(4, calm));
  EXPECT_FALSE(tracker.Observe(4, calm));
  EXPECT_FALSE(tracker.Observe(4, churned)) << "the count starts again";
  EXPECT_FALSE(tracker.Observe(4, churned));
  EXPECT_TRUE(tracker.Observe(4, churned));
  EXPECT_FALSE(tracker.IsStable(3)) << "layers are apart";
  EXPECT_FALSE(tracker.Observe(4, {1, 2})) << "an expert went";
  tracker.Reset(4);
  EXPECT_FALSE(tracker.IsStable(4));
  EXPECT_EQ(tracker.Last(4).rank_correlation, 0);
  EXPECT_FALSE(tracker.IsStable(-1));
}

TEST(StabilityTracker, FindsTheRecordedRunStableAfterItsTransitionAndBeforeItsEnd) {
  StabilityTracker tracker({});
  for (const auto& [layer, windows] : ReadRecorded()) {
    int stable_at = 0;
    for (const Window& window : windows) {
      if (tracker.Observe(layer, window.loads) && stable_at == 0) stable_at = window.last_step;
    }
    EXPECT_GE(stable_at, 150) << "layer " << layer << ": loads churn at first";
    // The first layer takes longest: its churn is real, and the others must not wait for it.
    EXPECT_GT(stable_at, 0) << "layer " << layer;
    EXPECT_LE(stable_at, layer == 0 ? 1500 : 700) << "layer " << layer;
  }
}

}  // namespace
}  // namespace espalier::planner
