// Goal: the small parts of the trainer (schedule, shares, batches, layouts, loads, saved progress)
// do as they promise.
#include <set>

#include "gtest/gtest.h"
#include "libs/train/checkpointer.h"
#include "libs/train/data.h"
#include "libs/train/layout.h"
#include "libs/train/loads.h"
#include "libs/train/schedule.h"
#include "tests/unit/train/ranks.h"

namespace espalier::train {
namespace {

v1::OptimizerSpec Schedule(double peak, double last, uint32_t warmup) {
  v1::OptimizerSpec spec;
  spec.set_learning_rate(peak);
  spec.set_final_learning_rate(last);
  spec.set_warmup_steps(warmup);
  return spec;
}

TEST(LearningRate, WarmsUpThenFallsToTheEnd) {
  const v1::OptimizerSpec spec = Schedule(1.0, 0.1, 10);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 1, 110), 0.1);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 10, 110), 1.0);
  EXPECT_NEAR(LearningRate(spec, 60, 110), 0.55, 1e-12);
  EXPECT_NEAR(LearningRate(spec, 110, 110), 0.1, 1e-12);
  for (uint64_t step = 11; step <= 110; ++step) {
    EXPECT_LE(LearningRate(spec, step, 110), LearningRate(spec, step - 1, 110));
  }
}

TEST(LearningRate, WarmupLongerThanTheStageNeverReachesThePeak) {
  const v1::OptimizerSpec spec = Schedule(1.0, 0.0, 100);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 50, 50), 0.5);
}

TEST(LearningRate, NoWarmupStartsBelowThePeakAlready) {
  const v1::OptimizerSpec spec = Schedule(1.0, 0.0, 0);
  EXPECT_LT(LearningRate(spec, 1, 4), 1.0);
  EXPECT_NEAR(LearningRate(spec, 4, 4), 0.0, 1e-12);
  EXPECT_NEAR(LearningRate(spec, 1, 1), 0.0, 1e-12);
}

TEST(ShareOf, CoversEverythingOnceAndEvenly) {
  for (const int64_t total : {0, 1, 5, 12, 97}) {
    for (int ranks = 1; ranks <= 7; ++ranks) {
      int64_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Share share = ShareOf(total, rank, ranks);
        EXPECT_EQ(share.begin, next);
        EXPECT_LE(share.count(), (total + ranks - 1) / ranks);
        EXPECT_GE(share.count(), total / ranks);
        next = share.end;
      }
      EXPECT_EQ(next, total);
    }
  }
}

TEST(Batch, WindowsPredictTheNextTokenAndTracesOnlyThemselves) {
  const std::vector<int32_t> tokens = {5, 6, 7, 8, 9};
  model::Batch batch = EmptyBatch();
  AppendWindow(tokens, 1, 3, &batch);
  AppendTrained({1, 20, 21, 30, 0}, 3, &batch);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{6, 7, 8, 1, 20, 21, 30}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{7, 8, 9, -1, -1, 30, 0}));
  EXPECT_EQ(batch.starts, (std::vector<int64_t>{0, 3, 7}));
  EXPECT_EQ(CountTargets(batch), 5);
}

TEST(ProblemIndex, NeverRepeatsBetweenStepsAndStages) {
  std::set<uint64_t> seen;
  for (uint32_t stage = 0; stage < 3; ++stage) {
    for (uint64_t step = 1; step <= 5; ++step) {
      for (uint64_t i = 0; i < 4; ++i) {
        EXPECT_TRUE(seen.insert(ProblemIndex(stage, step, 4, i)).second);
      }
    }
  }
}

TEST(MixSeed, SeparatesPurposes) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (uint64_t a = 0; a < 20; ++a) {
      for (uint64_t b = 0; b < 20; ++b) EXPECT_TRUE(seen.insert(MixSeed(seed, a, b)).second);
    }
  }
}

model::ModelConfig FourExperts() {
  model::ModelConfig config;
  config.layers = 3;
  config.dense_layers = 1;
  config.experts = 4;
  config.top_k = 2;
  return config;
}

model::ExpertLayout Layout() {
  model::ExpertLayout layout;
  layout.layers.resize(3);
  for (int layer : {1, 2}) layout.layers[layer] = {{0, 1, 2, 3}, {0, 0, 1, 1}, {0, 0, 0, 0}};
  return layout;
}

v1::LayerLayout* AddLayer(v1::ExpertLayout* order, uint32_t layer, std::vector<uint32_t> experts,
                          std::vector<uint32_t> ranks) {
  v1::LayerLayout* added = order->add_layers();
  added->set_layer(layer);
  added->mutable_experts()->Add(experts.begin(), experts.end());
  added->mutable_ranks()->Add(ranks.begin(), ranks.end());
  return added;
}

TEST(ResolveLayout, RefusesWhatIsNotThere) {
  const auto refused = [](const v1::ExpertLayout& order, const std::string& word) {
    const auto layout = ResolveLayout(FourExperts(), Layout(), order, 2);
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(layout.status().message()).find(word), std::string::npos)
        << layout.status();
  };
  v1::ExpertLayout dense_layer, unknown_layer, twice, unknown_expert, lengths, mask, rank, too_few;
  AddLayer(&dense_layer, 0, {0, 1}, {0, 0});
  refused(dense_layer, "layer 0");
  AddLayer(&unknown_layer, 3, {0, 1}, {0, 0});
  refused(unknown_layer, "layer 3");
  AddLayer(&twice, 1, {0, 1}, {0, 0});
  AddLayer(&twice, 1, {0, 1}, {0, 0});
  refused(twice, "twice");
  AddLayer(&unknown_expert, 1, {0, 4}, {0, 0});
  refused(unknown_expert, "expert 4");
  AddLayer(&lengths, 1, {0, 1}, {0});
  refused(lengths, "ranks");
  AddLayer(&mask, 1, {0, 1}, {0, 0})->add_masked(3);
  refused(mask, "masked expert 3");
  AddLayer(&rank, 1, {0, 1}, {0, 2});
  refused(rank, "");
  AddLayer(&too_few, 1, {0}, {0});
  refused(too_few, "");
}

TEST(ResolveLayout, AnExpertOncePrunedStaysGone) {
  v1::ExpertLayout first, second;
  AddLayer(&first, 1, {0, 2, 3}, {0, 1, 1});
  const auto pruned = ResolveLayout(FourExperts(), Layout(), first, 2);
  ASSERT_TRUE(pruned.ok()) << pruned.status();
  AddLayer(&second, 1, {0, 1, 2, 3}, {0, 0, 1, 1});
  EXPECT_FALSE(ResolveLayout(FourExperts(), *pruned, second, 2).ok());
}

TEST(ResolveLayout, LeavesLayersAloneThatItDoesNotList) {
  v1::ExpertLayout order;
  AddLayer(&order, 2, {1, 2, 3}, {1, 0, 0})->add_masked(3);
  const auto layout = ResolveLayout(FourExperts(), Layout(), order, 2);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->layers[1], Layout().layers[1]);
  EXPECT_EQ(layout->layers[2].ids, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(layout->layers[2].ranks, (std::vector<int>{1, 0, 0}));
  EXPECT_EQ(layout->layers[2].masked, (std::vector<uint8_t>{0, 0, 1}));
  EXPECT_TRUE(ChoiceDiffers(Layout(), *layout));
}

TEST(ChoiceDiffers, MovingAloneIsNoChange) {
  model::ExpertLayout moved = Layout(), masked = Layout();
  moved.layers[1].ranks = {1, 1, 0, 0};
  masked.layers[2].masked[1] = 1;
  EXPECT_FALSE(ChoiceDiffers(Layout(), moved));
  EXPECT_TRUE(ChoiceDiffers(Layout(), masked));
}

TEST(LoadCounter, OwnersReportWhatAllRanksSent) {
  OnRanks(2, [](collective::Communicator& communicator) {
    LoadCounter counter;
    counter.Reset(Layout(), /*with_norms=*/false);
    const int64_t rank = communicator.rank();
    for (int step = 0; step < 2; ++step) {
      counter.Add({{}, {1, 2, 3, 4 + rank}, {0, 0, 10, rank}}, {});
      Exchange exchange(communicator);
      exchange.AddSum(1);
      counter.Pack(&exchange);
      ASSERT_TRUE(exchange.Run().ok());
      counter.Unpack(exchange);
    }
    v1::StepReport report, empty;
    counter.TakeLoads(communicator.rank(), &report);
    ASSERT_EQ(report.loads_size(), 2);
    const auto& first = report.loads(0);
    EXPECT_EQ(first.layer(), 1u);
    EXPECT_EQ(first.experts(0), rank == 0 ? 0u : 2u);
    EXPECT_EQ(first.tokens(0), rank == 0 ? 4u : 12u);
    EXPECT_EQ(first.tokens(1), rank == 0 ? 8u : 18u);
    EXPECT_EQ(first.output_norms_size(), 0);  // nobody measures them
    counter.TakeLoads(communicator.rank(), &empty);
    EXPECT_EQ(empty.loads(0).tokens(0), 0u);
  });
}

TEST(LoadCounter, OutputNormsAreSummedBeforeTheyAreRounded) {
  OnRanks(2, [](collective::Communicator& communicator) {
    LoadCounter counter;
    counter.Reset(Layout(), /*with_norms=*/true);
    const int64_t rank = communicator.rank();
    const std::vector<model::LayerRouteCounts> tokens = {{}, {1, 1, 1, 1}, {1, 1, 1, 1}};
    for (int step = 0; step < 2; ++step) {
      // Millionths: 100 by each rank and step is less than a thousandth, but not four times.
      counter.Add(tokens, {{}, {100, 125, 124, 5'000'000'000 + rank}, {0, 2'000'000 * rank, 0, 0}});
      Exchange exchange(communicator);
      counter.Pack(&exchange);
      ASSERT_TRUE(exchange.Run().ok());
      counter.Unpack(exchange);
    }
    v1::StepReport report, empty;
    counter.TakeLoads(communicator.rank(), &report);
    counter.TakeLoads(communicator.rank(), &empty);
    const v1::LayerLoads &first = report.loads(0), &second = report.loads(1);
    ASSERT_EQ(first.output_norms_size(), 2);
    ASSERT_EQ(second.output_norms_size(), 2);
    EXPECT_EQ(first.output_norms(0), 0u);
    EXPECT_EQ(first.output_norms(1), rank == 0 ? 1u : 20'000'000u);
    EXPECT_EQ(second.output_norms(1), rank == 0 ? 4'000u : 0u);
    EXPECT_EQ(empty.loads(0).output_norms(1), 0u);
  });
}

TEST(Progress, IsReadBackAsWritten) {
  Progress progress;
  progress.stage_index = 2;
  progress.step_in_stage = 17;
  progress.updates = 33;
  progress.skipped_steps = 1;
  Progress read;
  ASSERT_TRUE(ProgressFromJson(ProgressToJson(progress), &read).ok());
  EXPECT_EQ(ProgressToJson(read), ProgressToJson(progress));
}

TEST(Progress, DamagedTextIsDataLoss) {
  Progress progress;
  for (const char* text : {"", "{", "[]", "{\"stage_index\": 1}", "{\"stage_index\": -1}", "7"}) {
    EXPECT_EQ(ProgressFromJson(text, &progress).code(), absl::StatusCode::kDataLoss) << text;
  }
}

}  // namespace
}  // namespace espalier::train
