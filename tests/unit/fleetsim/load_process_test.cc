// Goal: the drawn loads have the two phases that real ones have, and follow from the seed alone.
// Method: windows judged by the planner's own measure of stability.
#include "services/fleetsim/load_process.h"

#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "libs/planner/planner.h"

namespace espalier::fleetsim {
namespace {

constexpr uint32_t kLayers = 3, kExperts = 64, kWindow = 10;
constexpr uint64_t kChange = 200, kTokens = 64 * 1000;

LoadProcessOptions Options(uint64_t seed) {
  return {.layers = kLayers,
          .experts = kExperts,
          .tokens_per_step = kTokens,
          .phase_change_step = kChange,
          .window_steps = kWindow,
          .seed = seed};
}

const std::vector<bool> kAll(kLayers* kExperts, true);

// Loads of one layer, summed over the window of steps that begins at `first`.
std::vector<double> Window(const LoadProcess& process, uint32_t layer, uint64_t first) {
  std::vector<double> sums(kExperts, 0);
  std::vector<uint64_t> tokens;
  for (uint64_t step = first; step < first + kWindow; ++step) {
    process.Draw(step, kAll, &tokens);
    for (uint32_t e = 0; e < kExperts; ++e)
      sums[e] += static_cast<double>(tokens[layer * kExperts + e]);
  }
  return sums;
}

TEST(LoadProcess, ChurnsInTheTransitionAndHoldsItsRankingAfterwards) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    const LoadProcess process(Options(seed));
    double churning = 0;
    int windows = 0;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint64_t first = 1; first + 2 * kWindow < kChange * 9 / 10; first += kWindow) {
        churning += planner::MeasureStability(Window(process, layer, first),
                                              Window(process, layer, first + kWindow))
                        .rank_correlation;
        ++windows;
      }
      for (uint64_t first = kChange; first < kChange + 50 * kWindow; first += 5 * kWindow) {
        const auto held = planner::MeasureStability(Window(process, layer, first),
                                                    Window(process, layer, first + kWindow));
        EXPECT_GT(held.rank_correlation, 0.95) << "layer " << layer << " step " << first;
        EXPECT_LT(held.shift, 0.05) << "layer " << layer << " step " << first;
      }
    }
    EXPECT_LT(churning / windows, 0.6);
  }
}

TEST(LoadProcess, DriftsSoThatFarWindowsDifferMoreThanAdjacentOnes) {
  const LoadProcess process(Options(7));
  const std::vector<double> early = Window(process, 0, kChange);
  const double near = planner::MeasureStability(early, Window(process, 0, kChange + kWindow)).shift;
  const double far =
      planner::MeasureStability(early, Window(process, 0, kChange + 100 * kWindow)).shift;
  EXPECT_GT(far, 2 * near);
}

TEST(LoadProcess, BusiestExpertHasSevenToNineTimesTheMeanAndTheIdlestNextToNothing) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const LoadProcess process(Options(seed));
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<double> loads = Window(process, layer, kChange);
      const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / kExperts;
      const double busiest = *std::max_element(loads.begin(), loads.end());
      // The drift moves the busiest by up to a third.
      EXPECT_GT(busiest / mean, 7 * 0.67) << "seed " << seed << " layer " << layer;
      EXPECT_LT(busiest / mean, 9 * 1.5) << "seed " << seed << " layer " << layer;
      EXPECT_LT(*std::min_element(loads.begin(), loads.end()) / mean, 0.05);
    }
  }
}

TEST(LoadProcess, GivesEveryTokenToSomeChoosableExpert) {
  const LoadProcess process(Options(3));
  std::vector<bool> choosable = kAll;
  for (uint32_t e = 0; e < kExperts; e += 3) choosable[kExperts + e] = false;
  std::vector<uint64_t> tokens;
  for (const uint64_t step : {1u, 150u, 190u, 200u, 5000u}) {
    process.Draw(step, choosable, &tokens);
    ASSERT_EQ(tokens.size(), size_t{kLayers * kExperts});
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const auto begin = tokens.begin() + layer * kExperts;
      EXPECT_EQ(std::accumulate(begin, begin + kExperts, uint64_t{0}), kTokens);
    }
    for (uint32_t e = 0; e < kExperts; e += 3) EXPECT_EQ(tokens[kExperts + e], 0u);
  }
}

TEST(LoadProcess, FollowsFromTheSeedAndTheStepInAnyOrder) {
  const LoadProcess a(Options(11)), b(Options(11)), other(Options(12));
  std::vector<uint64_t> forward, backward, different;
  for (uint64_t step = 400; step > 0; step -= 57 < step ? 57 : step) b.Draw(step, kAll, &backward);
  a.Draw(123, kAll, &forward);
  b.Draw(123, kAll, &backward);
  other.Draw(123, kAll, &different);
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, different);
}

}  // namespace
}  // namespace espalier::fleetsim
