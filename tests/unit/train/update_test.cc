// Goal: an update happens on all ranks or on none, and clipping sees the whole gradient. Method: a
// model of plain arrays whose gradients the test sets.
#include "libs/train/update.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "tests/unit/train/fake_model.h"
#include "tests/unit/train/ranks.h"

namespace espalier::train {
namespace {

class QuietController final : public TrainController {
 public:
  uint64_t HighestContiguousSequence() const override { return held; }
  v1::Command GetCommand(uint64_t) const override { return {}; }
  void Report(v1::StepReport) override {}
  void Ack(v1::CommandAck) override {}
  void Event(v1::RunEvent event) override { events.push_back(std::move(event)); }
  bool Cancelled() const override { return false; }

  uint64_t held = 0;
  std::vector<v1::RunEvent> events;
};

class NoScorer final : public TraceScorer {
 public:
  absl::StatusOr<std::vector<v1::ScoreBatchResponse>> Score(
      const std::vector<v1::ScoreBatchRequest>&) override {
    return absl::UnimplementedError("no scorer");
  }
};

// One rank with a dense and an expert parameter of one element each.
struct OneRank {
  explicit OneRank(collective::Communicator& communicator)
      : state{assignment, assignment.spec(), options, communicator, controller, scorer} {
    auto owned = std::make_unique<FakeModel>(&communicator);
    model = owned.get();
    dense = model->Add("dense", {1.0f}, {0.0f}, true, false);
    expert = model->Add("expert", {1.0f}, {0.0f}, true, true);
    state.model = std::move(owned);
    state.optimizer = std::make_unique<Optimizer>(*model);
    state.loads.Reset(model->layout(), /*with_norms=*/false);
    spec.set_beta1(0.9);
    spec.set_beta2(0.95);
    spec.set_epsilon(1e-8);
    spec.set_clip_norm(1.0);
  }

  absl::StatusOr<UpdateResult> Update(float dense_gradient, float expert_gradient, double loss) {
    model->on_backward = [=, this] {
      dense->grad = {dense_gradient};
      expert->grad = {expert_gradient};
    };
    UpdateRequest request;
    request.batch = &batch;
    request.loss = [loss](std::span<const float>, std::span<float>) { return loss; };
    request.optimizer = &spec;
    request.learning_rate = 0.1;
    return RunUpdate(state, request);
  }

  v1::Assignment assignment;
  TrainerOptions options;
  QuietController controller;
  NoScorer scorer;
  v1::OptimizerSpec spec;
  model::Batch batch = EmptyBatch();
  RunState state;
  FakeModel* model = nullptr;
  model::Parameter<float>* dense = nullptr;
  model::Parameter<float>* expert = nullptr;
};

TEST(RunUpdate, OneRanksBadExpertGradientSkipsTheUpdateEverywhere) {
  OnRanks(3, [](collective::Communicator& communicator) {
    OneRank rank(communicator);
    const bool bad = communicator.rank() == 2;
    const auto skipped =
        rank.Update(1.0f, bad ? std::numeric_limits<float>::quiet_NaN() : 1.0f, 0.5);
    ASSERT_TRUE(skipped.ok());
    EXPECT_TRUE(skipped->skipped);
    EXPECT_EQ(rank.dense->value[0], 1.0f);
    EXPECT_EQ(rank.expert->value[0], 1.0f);
    EXPECT_EQ(rank.state.progress.skipped_steps, 1u);
    EXPECT_EQ(rank.state.progress.updates, 0u);
    EXPECT_EQ(rank.controller.events.size(), communicator.rank() == 0 ? 1u : 0u);
    // The next good update is the first of the moments' life.
    const auto applied = rank.Update(1.0f, 1.0f, 0.5);
    ASSERT_TRUE(applied.ok());
    EXPECT_FALSE(applied->skipped);
    EXPECT_NEAR(rank.dense->value[0], 0.9f, 1e-5);
    EXPECT_EQ(rank.state.progress.updates, 1u);
  });
}

TEST(RunUpdate, AnInfiniteDenseGradientOfOneRankChangesNothingOnAny) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::max()}) {
    OnRanks(3, [bad](collective::Communicator& communicator) {
      OneRank rank(communicator);
      ASSERT_TRUE(rank.Update(1.0f, 1.0f, 0.5).ok());
      const float dense = rank.dense->value[0], moment = rank.dense->moment1[0];
      const float expert = rank.expert->value[0];
      // Two of three: the largest floats overflow only in the sum over ranks.
      const auto result = rank.Update(communicator.rank() > 0 ? bad : 1.0f, 1.0f, 0.5);
      ASSERT_TRUE(result.ok());
      EXPECT_TRUE(result->skipped) << bad;
      EXPECT_EQ(rank.dense->value[0], dense);
      EXPECT_EQ(rank.dense->moment1[0], moment);
      EXPECT_EQ(rank.expert->value[0], expert);
      EXPECT_EQ(rank.state.progress.skipped_steps, 1u);
      EXPECT_EQ(rank.state.progress.updates, 1u);
    });
  }
}

TEST(RunUpdate, OneRanksBadLossSkipsTheUpdateEverywhere) {
  OnRanks(2, [](collective::Communicator& communicator) {
    OneRank rank(communicator);
    const double loss = communicator.rank() == 1 ? std::numeric_limits<double>::infinity() : 0.25;
    const auto result = rank.Update(1.0f, 1.0f, loss);
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->skipped);
    EXPECT_EQ(rank.dense->value[0], 1.0f);
  });
}

TEST(RunUpdate, ClipsByTheNormOfTheWholeModel) {
  OnRanks(2, [](collective::Communicator& communicator) {
    OneRank rank(communicator);
    // Dense 1 + 1 = 2; experts 2 and 1: the norm is 3.
    const auto result = rank.Update(1.0f, communicator.rank() == 0 ? 2.0f : 1.0f, 0.5);
    ASSERT_TRUE(result.ok());
    EXPECT_DOUBLE_EQ(result->gradient_norm, 3.0);
    EXPECT_DOUBLE_EQ(result->loss, 1.0);
    EXPECT_NEAR(rank.dense->moment1[0], 0.1 * 2.0 / 3.0, 1e-7);
  });
}

TEST(RunUpdate, AgreesOnTheCommandsThatEveryRankHolds) {
  OnRanks(3, [](collective::Communicator& communicator) {
    OneRank rank(communicator);
    rank.controller.held = 10 - communicator.rank();
    const auto result = rank.Update(0.0f, 0.0f, 0.0);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->agreed_sequence, 8u);
  });
}

TEST(RunUpdate, CrossEntropyIsTheMeanOverTheGlobalTargets) {
  OnRanks(2, [](collective::Communicator& communicator) {
    OneRank rank(communicator);
    const model::Batch batch{.tokens = {1, 2, 3}, .targets = {3, -1, 5}, .starts = {0, 3}};
    rank.model->next_logps = {-1.0f, -7.0f, -2.0f};
    UpdateRequest request{.batch = &batch,
                          .cross_entropy_targets = 8,
                          .optimizer = &rank.spec,
                          .learning_rate = 0.1};
    const auto result = RunUpdate(rank.state, request);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_DOUBLE_EQ(result->loss, 2 * 3.0 / 8);  // both ranks have the same part
    EXPECT_EQ(rank.model->last_dlogps, (std::vector<float>{-0.125f, 0.0f, -0.125f}));
  });
}

}  // namespace
}  // namespace espalier::train
