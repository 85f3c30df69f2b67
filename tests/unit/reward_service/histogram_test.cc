// Goal: quantiles are within a bucket of the truth, never below it, and no count is lost between
// threads. Method: a sorted list as the oracle.
#include "services/reward/histogram.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace espalier::reward {
namespace {

TEST(Histogram, EmptyOneHasNoTimes) {
  const Histogram histogram;
  EXPECT_EQ(0u, histogram.Read().count);
  EXPECT_EQ(absl::ZeroDuration(), histogram.Read().Quantile(0.99));
}

TEST(Histogram, QuantilesAreWithinABucketAboveTheTruth) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> nanoseconds(11, 3);  // from nanoseconds to seconds
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 50'000; ++i) {
    values.push_back(std::min<int64_t>(static_cast<int64_t>(nanoseconds(random)), 30'000'000'000));
    histogram.Record(absl::Nanoseconds(values.back()));
  }
  std::sort(values.begin(), values.end());
  const Histogram::Snapshot snapshot = histogram.Read();
  EXPECT_EQ(values.size(), snapshot.count);
  EXPECT_EQ(values.back(), absl::ToInt64Nanoseconds(snapshot.max));
  for (const double share : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const size_t rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    const double truth = static_cast<double>(values[rank - 1]);
    const double found = absl::ToDoubleNanoseconds(snapshot.Quantile(share));
    EXPECT_GE(found, truth) << share;
    EXPECT_LE(found, truth * (1 + 1 / 32.0) + 1) << share;
  }
}

TEST(Histogram, EdgesOfTheRangeAreCounted) {
  Histogram histogram;
  histogram.Record(absl::Seconds(-1));  // a clock that was set back
  histogram.Record(absl::ZeroDuration());
  histogram.Record(absl::Hours(1));
  const Histogram::Snapshot snapshot = histogram.Read();
  EXPECT_EQ(3u, snapshot.count);
  EXPECT_EQ(absl::ZeroDuration(), snapshot.Quantile(0.5));
  EXPECT_EQ(absl::Hours(1), snapshot.max);
}

TEST(Histogram, LosesNothingBetweenThreads) {
  Histogram histogram;
  Counter counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < 12; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 5'000; ++k) {
        histogram.Record(absl::Microseconds(i + 1));
        counter.Add();
        if (k % 1000 == 0) (void)histogram.Read();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(60'000u, histogram.Read().count);
  EXPECT_EQ(60'000u, counter.Read());
  EXPECT_EQ(absl::Microseconds(5'000 * 78), histogram.Read().sum);
  EXPECT_EQ(absl::Microseconds(12), histogram.Read().max);
}

}  // namespace
}  // namespace espalier::reward
