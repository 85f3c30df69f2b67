// Goal: complete steps come out once, in order, whatever order, repeats or gaps the reports arrive
// in.
#include "services/coordinator/load_book.h"

#include <algorithm>
#include <random>

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

v1::StepReport Report(uint32_t rank, uint64_t step, uint64_t tokens = 10) {
  v1::StepReport report;
  report.set_rank(rank);
  report.set_first_step(step);
  report.set_last_step(step);
  report.set_stage(v1::STAGE_KIND_PRETRAIN);
  report.mutable_duration()->set_seconds(rank + 1);
  v1::LayerLoads* loads = report.add_loads();
  loads->set_layer(3);
  loads->add_experts(rank);
  loads->add_tokens(tokens * (rank + 1));
  return report;
}

TEST(LoadBook, RefusesReportsThatContradictThemselves) {
  LoadBook book(2, 4);
  EXPECT_FALSE(book.Add(Report(2, 1)).ok());
  v1::StepReport backwards = Report(0, 5);
  backwards.set_last_step(4);
  EXPECT_FALSE(book.Add(backwards).ok());
  v1::StepReport ragged = Report(0, 1);
  ragged.mutable_loads(0)->add_experts(1);
  EXPECT_FALSE(book.Add(ragged).ok());
  v1::StepReport unknown = Report(0, 1);
  unknown.mutable_loads(0)->set_experts(0, 4);
  EXPECT_FALSE(book.Add(unknown).ok());
  ASSERT_TRUE(book.Add(Report(0, 1)).ok());
  v1::StepReport longer = Report(1, 1);
  longer.set_last_step(2);
  EXPECT_FALSE(book.Add(longer).ok());
}

TEST(LoadBook, JoinsTheRanksOfAStep) {
  LoadBook book(2, 4);
  EXPECT_TRUE(book.Add(Report(1, 1))->empty());
  EXPECT_EQ(book.complete_step(), 0u);
  const auto complete = book.Add(Report(0, 1));
  ASSERT_TRUE(complete.ok());
  ASSERT_EQ(complete->size(), 1u);
  const CompleteStep& step = (*complete)[0];
  EXPECT_EQ(step.seconds, 2) << "the slowest rank";
  ASSERT_EQ(step.layers.size(), 1u);
  EXPECT_EQ(step.layers[0].layer, 3u);
  EXPECT_EQ(step.layers[0].tokens, (std::vector<uint64_t>{10, 20, 0, 0}));
  EXPECT_EQ(step.layers[0].ranks, (std::vector<int>{0, 1, -1, -1}));
  EXPECT_DOUBLE_EQ(step.Imbalance(), 20.0 / 15.0);
  EXPECT_EQ(step.ExpertsAlive(), 2u);
  EXPECT_EQ(book.complete_step(), 1u);
}

TEST(LoadBook, GivesEveryStepOnceInOrderUnderShufflesAndRepeats) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    constexpr uint32_t kRanks = 3;
    constexpr uint64_t kSteps = 40;
    // Each rank's reports stay in order, as on a stream; ranks interleave at random and repeat
    // themselves.
    std::vector<uint64_t> next(kRanks, 1);
    LoadBook book(kRanks, 4);
    std::vector<uint64_t> seen;
    while (*std::min_element(next.begin(), next.end()) <= kSteps) {
      const uint32_t rank = random() % kRanks;
      if (random() % 4 == 0 && next[rank] > 1)
        next[rank] -= 1 + random() % std::min<uint64_t>(3, next[rank] - 1);
      if (next[rank] > kSteps || next[rank] > *std::min_element(next.begin(), next.end()) + 20)
        continue;
      const auto complete = book.Add(Report(rank, next[rank]++));
      ASSERT_TRUE(complete.ok());
      for (const CompleteStep& step : *complete) seen.push_back(step.first_step);
    }
    std::vector<uint64_t> expected(kSteps);
    for (uint64_t i = 0; i < kSteps; ++i) expected[i] = i + 1;
    EXPECT_EQ(seen, expected);
    EXPECT_EQ(book.pending(), 0u);
    EXPECT_EQ(book.lost_steps(), 0u);
  }
}

TEST(LoadBook, GivesUpAStepThatARankNeverReports) {
  LoadBook book(2, 4);
  ASSERT_TRUE(book.Add(Report(0, 1)).ok());  // rank 1 lost its report of step 1
  size_t complete = 0;
  for (uint64_t step = 2; step < 2 + LoadBook::kPatience + 10; ++step) {
    ASSERT_TRUE(book.Add(Report(0, step)).ok());
    complete += book.Add(Report(1, step))->size();
  }
  EXPECT_EQ(book.lost_steps(), 1u);
  EXPECT_EQ(complete, LoadBook::kPatience + 10);
}

TEST(LoadBook, ForgetsTheOldestWhenOneRankIsSilentForLong) {
  LoadBook book(2, 4);
  for (uint64_t step = 1; step <= 3 * LoadBook::kPendingMax; ++step)
    ASSERT_TRUE(book.Add(Report(0, step)).ok());
  EXPECT_LE(book.pending(), LoadBook::kPendingMax);
}

TEST(LoadBook, StartsAgainBehindACheckpoint) {
  LoadBook book(1, 4);
  ASSERT_EQ(book.Add(Report(0, 1))->size(), 1u);
  ASSERT_EQ(book.Add(Report(0, 2))->size(), 1u);
  book.Restart(1);
  EXPECT_TRUE(book.Add(Report(0, 1))->empty()) << "step 1 is in the checkpoint";
  EXPECT_EQ(book.Add(Report(0, 2))->size(), 1u);
}

}  // namespace
}  // namespace espalier::coordinator
