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
  v1::StepReport deep = Report(0, 1);
  deep.mutable_loads(0)->set_layer(LoadBook::kLayersMax);
  EXPECT_FALSE(book.Add(deep).ok());
  v1::StepReport norms = Report(0, 1);
  norms.mutable_loads(0)->add_output_norms(1);
  norms.mutable_loads(0)->add_output_norms(2);
  EXPECT_FALSE(book.Add(norms).ok());
  EXPECT_EQ(book.pending(), 0u) << "a refused report leaves nothing behind";
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

TEST(LoadBook, EnergyIsTheRanksTogetherOrNothing) {
  LoadBook book(2, 4);
  v1::StepReport one = Report(0, 1), two = Report(1, 1);
  one.set_joules(30);
  two.set_joules(12);
  ASSERT_TRUE(book.Add(one).ok());
  const auto both = book.Add(two);
  ASSERT_EQ(both->size(), 1u);
  EXPECT_EQ((*both)[0].joules, 42);
  one = Report(0, 2);
  one.set_joules(30);
  ASSERT_TRUE(book.Add(one).ok());
  const auto half = book.Add(Report(1, 2));
  ASSERT_EQ(half->size(), 1u);
  EXPECT_FALSE((*half)[0].joules.has_value());
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
  EXPECT_EQ(book.TakeLost(), (std::vector<StepSpan>{{1, 1}}));
  EXPECT_TRUE(book.TakeLost().empty()) << "told once";
}

TEST(LoadBook, JoinsOutputNormsWhereSomeRankSendsThem) {
  LoadBook book(2, 4);
  v1::StepReport with = Report(1, 1);
  with.mutable_loads(0)->add_output_norms(77000);
  ASSERT_TRUE(book.Add(with).ok());
  const auto complete = book.Add(Report(0, 1));
  ASSERT_EQ(complete->size(), 1u);
  EXPECT_EQ((*complete)[0].layers[0].output_norms, (std::vector<uint64_t>{0, 77000, 0, 0}));
  LoadBook without(1, 4);
  EXPECT_TRUE((*without.Add(Report(0, 1)))[0].layers[0].output_norms.empty());
}

TEST(LoadBook, GivesTheSameStepWhicheverRankSpeaksFirst) {
  // Ranks report different layers, in different orders, and two claim the same expert.
  std::vector<v1::StepReport> reports;
  for (uint32_t rank = 0; rank < 3; ++rank) {
    v1::StepReport report = Report(rank, 1);
    report.mutable_loads(0)->set_layer(rank == 1 ? 5 : 3);
    report.set_stage(rank == 0 ? v1::STAGE_KIND_PRETRAIN : v1::STAGE_KIND_FINETUNE);
    if (rank > 0) report.mutable_metrics()->set_loss(rank);
    v1::LayerLoads* extra = report.add_loads();
    extra->set_layer(1 + rank % 2);
    extra->add_experts(2);
    extra->add_tokens(100);
    report.add_loads()->set_layer(0);  // dense
    reports.push_back(report);
  }
  std::vector<int> order = {0, 1, 2};
  do {
    LoadBook book(3, 4);
    std::vector<CompleteStep> complete;
    for (const int rank : order) complete = *book.Add(reports[rank]);
    ASSERT_EQ(complete.size(), 1u);
    const CompleteStep& step = complete[0];
    ASSERT_EQ(step.layers.size(), 4u);
    EXPECT_EQ(step.layers[0].layer, 1u);
    EXPECT_EQ(step.layers[0].tokens, (std::vector<uint64_t>{0, 0, 200, 0}));
    EXPECT_EQ(step.layers[0].ranks, (std::vector<int>{-1, -1, 2, -1}));
    EXPECT_EQ(step.layers[0].rank_tokens, (std::vector<uint64_t>{100, 0, 100}));
    EXPECT_EQ(step.layers[1].layer, 2u);
    EXPECT_EQ(step.layers[2].tokens, (std::vector<uint64_t>{10, 0, 30, 0}));
    EXPECT_EQ(step.layers[3].layer, 5u);
    EXPECT_EQ(step.metrics->loss(), 1) << "of the lowest rank that has any";
    EXPECT_EQ(step.stage, v1::STAGE_KIND_FINETUNE);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(LoadBook, WaitsForAStepThatNobodyReportedYetAndThenNamesTheGap) {
  LoadBook late(1, 4);
  EXPECT_TRUE(late.Add(Report(0, 2))->empty()) << "step 1 may still come";
  EXPECT_EQ(late.Add(Report(0, 1))->size(), 2u);
  EXPECT_TRUE(late.TakeLost().empty());

  LoadBook never(1, 4);
  size_t complete = 0;
  for (uint64_t step = 4; step < 4 + LoadBook::kPatience; ++step)
    complete += never.Add(Report(0, step))->size();
  EXPECT_EQ(complete, LoadBook::kPatience);
  EXPECT_EQ(never.TakeLost(), (std::vector<StepSpan>{{1, 3}}));
  EXPECT_EQ(never.lost_steps(), 3u);
}

TEST(LoadBook, NeverCountsAStepTwiceWhenRangesOverlap) {
  LoadBook book(1, 4);
  v1::StepReport range = Report(0, 1);
  range.set_last_step(4);
  ASSERT_TRUE(book.Add(Report(0, 3))->empty());
  const auto complete = book.Add(range);
  ASSERT_EQ(complete->size(), 1u);
  EXPECT_EQ((*complete)[0].last_step, 4u);
  EXPECT_EQ(book.pending(), 0u);
  EXPECT_EQ(book.Add(Report(0, 5))->size(), 1u);
  EXPECT_EQ(book.lost_steps(), 0u);
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
