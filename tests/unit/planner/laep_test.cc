// Goal: LAEP takes exactly the lightest experts that both constraints allow. Method: small cases by
// hand, an oracle that tries every count, invariants on random loads, and the recorded run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "libs/planner/planner.h"
#include "tests/unit/planner/recorded.h"

namespace espalier::planner {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> Ids(size_t count) {
  std::vector<int> ids(count);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<double> Draw(std::mt19937& random, int count) {
  std::lognormal_distribution<double> load(3, 1);
  std::vector<double> loads(count);
  for (double& value : loads) value = std::floor(load(random));  // with ties
  return loads;
}

TEST(SelectPruned, PrunesNothingWithoutLoadExpertsOrLicence) {
  EXPECT_THAT(SelectPruned({}, {}, {}), IsEmpty());
  EXPECT_THAT(SelectPruned(Ids(3), {0, 0, 0}, {.beta = 0.5}), IsEmpty());
  EXPECT_THAT(SelectPruned(Ids(3), {1, 2, 3}, {.beta = 0}), IsEmpty());
  EXPECT_THAT(SelectPruned(Ids(3), {1, 2, 3}, {.alpha = 0, .beta = 0.9}), IsEmpty());
}

TEST(SelectPruned, HoldsBothConstraintsAtTheirEdges) {
  // Total 10, mean 2.5. The prefix sum must stay strictly below; the single load may equal its
  // limit.
  EXPECT_THAT(SelectPruned({3, 5, 8, 9}, {4, 1, 3, 2}, {.beta = 0.3}), ElementsAre(5));
  EXPECT_THAT(SelectPruned({3, 5, 8, 9}, {4, 1, 3, 2}, {.beta = 0.31}), ElementsAre(5, 9));
  EXPECT_THAT(SelectPruned({3, 5, 8, 9}, {4, 1, 3, 2}, {.alpha = 0.4, .beta = 0.9}),
              ElementsAre(5));
  EXPECT_THAT(SelectPruned({3, 5, 8, 9}, {4, 1, 3, 2}, {.alpha = 0.39, .beta = 0.9}), IsEmpty());
}

TEST(SelectPruned, TakesTheLowerIndexOfEquals) {
  EXPECT_THAT(SelectPruned(Ids(4), {5, 1, 1, 1}, {.beta = 0.26}), ElementsAre(1, 2));
}

TEST(SelectPruned, KeepsMultiplesMinimumAndProtected) {
  const std::vector<double> loads = {1, 1, 1, 1, 1, 1, 1, 93};
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5}), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .keep_multiple_of = 3}),
              ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .keep_multiple_of = 5}),
              ElementsAre(0, 1, 2));
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .keep_multiple_of = 16}), IsEmpty());
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .keep_min = 6}), ElementsAre(0, 1));
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .keep_min = 99}), IsEmpty());
  EXPECT_THAT(SelectPruned(Ids(8), loads, {.beta = 0.5, .protected_experts = {0, 6, 42}}),
              ElementsAre(1, 2, 3, 4, 5));
}

TEST(SelectPruned, EqualsTheLargestCountThatAnOracleAllows) {
  for (int seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const int count = 1 + random() % 12;
    const std::vector<double> loads = Draw(random, count);
    PruneOptions options;
    options.beta = 0.01 * (random() % 100);
    if (random() % 2 == 0) options.alpha = 0.1 * (random() % 15);
    const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
    std::vector<int> order = Ids(count);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return loads[a] < loads[b]; });
    int best = 0;
    for (int k = 1; k < count; ++k) {
      double sum = 0;
      bool fits = true;
      for (int i = 0; i < k; ++i) {
        sum += loads[order[i]];
        fits =
            fits && loads[order[i]] <= options.alpha * total / count && sum < options.beta * total;
      }
      if (fits) best = k;
    }
    std::vector<int> expected(order.begin(), order.begin() + best);
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(SelectPruned(Ids(count), loads, options), expected);
  }
}

TEST(SelectPruned, GrowsWithBetaAndIgnoresTheOrderOfDistinctLoads) {
  for (int seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<double> loads = Draw(random, 40);
    for (size_t i = 0; i < loads.size(); ++i) loads[i] += 1e-3 * static_cast<double>(i);
    std::vector<int> previous;
    for (double beta = 0; beta < 1; beta += 0.05) {
      const auto pruned = SelectPruned(Ids(40), loads, {.beta = beta, .keep_multiple_of = 4});
      EXPECT_TRUE(std::includes(pruned.begin(), pruned.end(), previous.begin(), previous.end()));
      EXPECT_EQ(pruned.size() % 4, 0u);
      previous = pruned;
      std::vector<int> order = Ids(40);
      std::shuffle(order.begin(), order.end(), random);
      std::vector<double> mixed;
      for (const int id : order) mixed.push_back(loads[id]);
      EXPECT_EQ(SelectPruned(order, mixed, {.beta = beta, .keep_multiple_of = 4}), pruned);
    }
  }
}

TEST(SelectPruned, KeepsAboutTwoThirdsOfTheRecordedRunAtItsPublishedSetting) {
  double kept = 0, all = 0;
  for (const auto& [layer, windows] : ReadRecorded()) {
    for (const Window& window : windows) {
      if (window.last_step != 900) continue;  // 40% of the run
      all += window.loads.size();
      kept += window.loads.size() -
              SelectPruned(Ids(window.loads.size()), window.loads, {.beta = 0.006}).size();
    }
  }
  ASSERT_GT(all, 0);
  EXPECT_NEAR(kept / all, 0.66, 0.08);
}

}  // namespace
}  // namespace espalier::planner
