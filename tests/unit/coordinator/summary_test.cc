// Goal: the summary's figures are medians and means over exactly the steps that they claim.
#include "services/coordinator/summary.h"

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

StepFigure Figure(uint64_t step, double speed, double imbalance,
                  v1::StageKind stage = v1::STAGE_KIND_PRETRAIN) {
  StepFigure figure;
  figure.step = step;
  figure.stage = stage;
  figure.tokens_per_second = speed;
  figure.step_seconds = 1 / speed;
  figure.imbalance = imbalance;
  return figure;
}

TEST(FigureBook, LeavesOutWarmupEvaluationsAndDisturbedSteps) {
  FigureBook book;
  for (uint64_t step = 1; step <= 40; ++step) {
    double speed = step <= 20 ? 100 : 150;
    if (step <= FigureBook::kWarmupSteps) speed = 1;
    StepFigure figure = Figure(step, speed, step <= 20 ? 2.0 : 1.1);
    if (step % 3 == 0) {
      figure.evaluated = true;
      figure.tokens_per_second = 2;
    }
    book.Add(figure);
  }
  book.Disturb(20);
  Cuts cuts;
  cuts.first = 20;
  cuts.last = 20;
  cuts.window_steps = 10;
  v1::RunSummary summary;
  book.Summarise(cuts, &summary);
  EXPECT_EQ(summary.tokens_per_second_before_prune(), 100);
  EXPECT_EQ(summary.tokens_per_second_after(), 150);
  EXPECT_DOUBLE_EQ(summary.imbalance_before(), 2.0);
  EXPECT_DOUBLE_EQ(summary.imbalance_after(), 1.1);
}

TEST(FigureBook, CountsOnlyPretrainingAfterTheLastLayout) {
  FigureBook book;
  for (uint64_t step = 1; step <= 30; ++step) book.Add(Figure(step, 100, 1.5));
  for (uint64_t step = 31; step <= 60; ++step)
    book.Add(Figure(step, 5, 3, v1::STAGE_KIND_FINETUNE));
  Cuts cuts;
  cuts.first = 10;
  cuts.last = 20;
  v1::RunSummary summary;
  book.Summarise(cuts, &summary);
  EXPECT_EQ(summary.tokens_per_second_after(), 100);
  EXPECT_EQ(summary.imbalance_after(), 1.5);
}

TEST(FigureBook, SaysNothingOfAnAfterThatHasNotBegun) {
  FigureBook book;
  for (uint64_t step = 1; step <= 10; ++step) book.Add(Figure(step, 100, 1.5));
  v1::RunSummary summary;
  book.Summarise(Cuts(), &summary);
  EXPECT_TRUE(summary.has_tokens_per_second_before_prune());
  EXPECT_FALSE(summary.has_tokens_per_second_after());
  EXPECT_FALSE(summary.has_imbalance_after());
  v1::RunSummary none;
  FigureBook().Summarise(Cuts(), &none);
  EXPECT_FALSE(none.has_tokens_per_second_before_prune());
}

TEST(FigureBook, MemoryIsBoundedAndTheMedianStays) {
  FigureBook book;
  for (uint64_t step = 1; step <= 5 * FigureBook::kFiguresMax; ++step)
    book.Add(Figure(step, 100, 1.5));
  EXPECT_LE(book.figures().size(), FigureBook::kFiguresMax);
  EXPECT_EQ(book.figures().back().step, 5 * FigureBook::kFiguresMax);
  const auto median =
      book.Median(1, 5 * FigureBook::kFiguresMax, v1::STAGE_KIND_PRETRAIN,
                  [](const StepFigure& figure) { return figure.tokens_per_second; });
  EXPECT_EQ(median.value_or(0), 100);
}

TEST(FigureBook, GoesBackWithTheRun) {
  FigureBook book;
  for (uint64_t step = 1; step <= 10; ++step) book.Add(Figure(step, 100, 1.5));
  book.TruncateAfter(4);
  EXPECT_EQ(book.figures().size(), 4u);
  book.Add(Figure(5, 50, 1));
  EXPECT_EQ(book.figures().back().tokens_per_second, 50);
}

TEST(DescribePlace, FindsTheStageOfAStep) {
  v1::RunSpec spec;
  spec.add_stages()->mutable_pretrain()->set_steps(10);
  spec.add_stages()->mutable_finetune()->set_steps(5);
  spec.add_stages()->mutable_export_();
  v1::RunProgress progress;
  DescribePlace(spec, 10, &progress);
  EXPECT_EQ(progress.stage_index(), 0u);
  EXPECT_EQ(progress.stage_step(), 10u);
  EXPECT_EQ(progress.steps_total(), 15u);
  DescribePlace(spec, 11, &progress);
  EXPECT_EQ(progress.stage_index(), 1u);
  EXPECT_EQ(progress.stage_step(), 1u);
  EXPECT_EQ(progress.stage_steps(), 5u);
  EXPECT_EQ(progress.stage(), v1::STAGE_KIND_FINETUNE);
  EXPECT_EQ(StageEnd(spec, 10), 10u);
  EXPECT_EQ(StageEnd(spec, 11), 15u);
}

}  // namespace
}  // namespace espalier::coordinator
