// Goal: what a scrape reads of the reward service is what it counted, once, in buckets that flatter
// no quantile.
#include "services/reward/reward_metrics.h"

#include <array>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::reward {
namespace {

using ::testing::HasSubstr;

TEST(RewardMetrics, BucketsKeepEveryObservationAndFlatterNone) {
  const std::vector<double> bounds = {1e-6, 1e-3, 1};
  for (const absl::Duration value :
       {absl::ZeroDuration(), absl::Nanoseconds(990), absl::Nanoseconds(1000),
        absl::Microseconds(2), absl::Milliseconds(1), absl::Milliseconds(900), absl::Seconds(2),
        absl::Hours(2)}) {
    Histogram histogram;
    histogram.Record(value);
    const std::vector<uint64_t> coarse = Coarsen(histogram.Read().counts, bounds);
    ASSERT_EQ(coarse.size(), 4u);
    EXPECT_EQ(std::accumulate(coarse.begin(), coarse.end(), uint64_t{0}), 1u) << value;
    for (size_t i = 0; i < bounds.size(); ++i) {
      // Never below the bound that it is above; at most one fine bucket too high.
      if (coarse[i] == 1) EXPECT_LE(absl::ToDoubleSeconds(value), bounds[i]);
      if (coarse[i + 1] == 1) EXPECT_GT(absl::ToDoubleSeconds(value) * (1 + 1.0 / 16), bounds[i]);
    }
  }
}

TEST(RewardMetrics, ScrapesReadWhatWasCountedOnce) {
  const std::array<std::span<const observe::MetricSpec>, 1> tables = {RewardMetricTable()};
  observe::Metrics metrics(tables);
  ScoreEngine engine(EngineOptions{.threads = 2});
  {
    const RewardMetrics scraped(&metrics, &engine);
    engine.stats().Count(Outcome::kAnswered);
    engine.stats().CountVerdict(v1::VERDICT_CORRECT);
    engine.stats().CountVerdict(v1::VERDICT_WRONG);
    engine.stats().Record(Stage::kCall, absl::Milliseconds(3));
    metrics.Text();
    engine.stats().Count(Outcome::kAnswered);
    engine.stats().Record(Stage::kCall, absl::Milliseconds(50));
    const std::string text = metrics.Text();
    EXPECT_THAT(text, HasSubstr("espalier_reward_requests_total{outcome=\"answered\"} 2"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_requests_total{outcome=\"busy\"} 0"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_verdicts_total{verdict=\"correct\"} 1"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_verdicts_total{verdict=\"wrong\"} 1"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_stage_seconds_count{stage=\"call\"} 2"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_stage_seconds_sum{stage=\"call\"} 0.053"));
    EXPECT_THAT(text, HasSubstr("stage_seconds_bucket{stage=\"call\",le=\"0.00512\"} 1"));
    EXPECT_THAT(text, HasSubstr("espalier_reward_threads 2"));
  }
  engine.stats().Count(Outcome::kAnswered);
  EXPECT_THAT(metrics.Text(), HasSubstr("{outcome=\"answered\"} 2")) << "nothing reads it any more";
}

}  // namespace
}  // namespace espalier::reward
