// Goal: quantiles of a bounded histogram lie within a bucket of the exact ones.
#include "services/fleetsim/stats.h"

#include "gtest/gtest.h"

namespace espalier::fleetsim {
namespace {

TEST(Latencies, GivesQuantilesWithinTwoPercent) {
  Latencies latencies;
  EXPECT_EQ(latencies.Quantile(0.5), 0);
  for (int i = 1; i <= 10000; ++i) latencies.Add(1e-4 * i);
  EXPECT_NEAR(latencies.Quantile(0.5), 0.5, 0.5 * 0.021);
  EXPECT_NEAR(latencies.Quantile(0.99), 0.99, 0.99 * 0.021);
  EXPECT_DOUBLE_EQ(latencies.max(), 1);
  EXPECT_DOUBLE_EQ(latencies.Quantile(1), 1);
}

TEST(Latencies, TakesTheExtremes) {
  Latencies latencies;
  latencies.Add(0);
  latencies.Add(1e9);
  EXPECT_EQ(latencies.count(), 2u);
  EXPECT_DOUBLE_EQ(latencies.Quantile(1), 1e9);
}

}  // namespace
}  // namespace espalier::fleetsim
