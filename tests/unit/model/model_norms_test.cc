// Goal: output norms are the gate times the norm of each expert's output over the tokens routed to
// it, on any number of ranks, and measuring them changes nothing else. Method: experts whose output
// is known; the same batch on one rank and on several.
#include <mutex>

#include "kernels/output_norm.h"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

using Norms = std::vector<LayerOutputNorms>;

// A batch of all ranks' sequences; rank r of n gets its share of them.
constexpr int kSequences = 6;
Batch WholeBatch(const ModelConfig& config) {
  return RandomBatch({9, 14, 3, 20, 11, 7}, config.vocabulary, 3);
}

// Sums over ranks of one ForwardBackward and one Forward each.
Norms MeasuredOn(int ranks, const ModelConfig& config, const ExpertLayout& layout) {
  Norms total(config.layers);
  std::mutex mutex;
  OnRanks(ranks, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, layout, communicator);
    model->MeasureOutputNorms(true);
    const Batch batch =
        Slice(WholeBatch(config), rank * kSequences / ranks, (rank + 1) * kSequences / ranks);
    EXPECT_TRUE(model->ForwardBackward(batch, CrossEntropy<double>(64), 1.0).ok());
    const Norms trained = model->output_norms();
    std::vector<double> logps;
    EXPECT_TRUE(model->Forward(batch, &logps, nullptr).ok());
    EXPECT_EQ(model->output_norms(), trained);  // of the same pass, not added up
    std::lock_guard<std::mutex> lock(mutex);
    for (int layer = 0; layer < config.layers; ++layer) {
      EXPECT_EQ(trained[layer].size(), model->route_counts()[layer].size());
      total[layer].resize(trained[layer].size());
      for (size_t i = 0; i < trained[layer].size(); ++i) total[layer][i] += trained[layer][i];
    }
  });
  return total;
}

TEST(OutputNorms, AreTheSameOnAnyNumberOfRanks) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  const Norms one = MeasuredOn(1, config, InitialLayout(config, 1));
  EXPECT_TRUE(one[0].empty());  // a dense layer
  for (const int ranks : {2, 3}) {
    const Norms several = MeasuredOn(ranks, config, InitialLayout(config, ranks));
    for (int layer = 1; layer < config.layers; ++layer) {
      ASSERT_EQ(several[layer].size(), one[layer].size());
      // Sums of whole numbers: only a product that a BLAS blocks otherwise may differ, by a unit.
      for (size_t i = 0; i < one[layer].size(); ++i) {
        EXPECT_GT(one[layer][i], 0);
        EXPECT_NEAR(several[layer][i], one[layer][i], 2) << "layer " << layer << " expert " << i;
      }
    }
  }
}

TEST(OutputNorms, AnExpertThatPutsOutNothingOrTwiceAsMuchIsSeen) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  const auto communicator = collective::MakeSingleCommunicator();
  auto model = MakeModel<double>(config, InitialLayout(config, 1), *communicator);
  model->MeasureOutputNorms(true);
  const Batch batch = WholeBatch(config);
  std::vector<double> logps;
  ASSERT_TRUE(model->Forward(batch, &logps, nullptr).ok());
  const Norms before = model->output_norms();
  const auto counts = model->route_counts();
  // Of the last layer, so that no router sees the change.
  for (Parameter<double>* parameter : model->parameters()) {
    if (parameter->name == "model.layers.2.mlp.experts.1.down_proj.weight") {
      for (double& w : parameter->value) w = 0;
    }
    if (parameter->name == "model.layers.2.mlp.experts.3.down_proj.weight") {
      for (double& w : parameter->value) w *= 2;
    }
  }
  ASSERT_TRUE(model->Forward(batch, &logps, nullptr).ok());
  const Norms after = model->output_norms();
  EXPECT_EQ(model->route_counts(), counts);
  EXPECT_EQ(after[1], before[1]);
  EXPECT_EQ(after[2][0], before[2][0]);
  EXPECT_EQ(after[2][1], 0);
  EXPECT_GT(before[2][1], 0);
  // Each term is rounded by itself.
  EXPECT_NEAR(after[2][3], 2 * before[2][3], static_cast<double>(counts[2][3]));
}

TEST(OutputNorms, MeasuringChangesNothingElse) {
  for (const RouterKind router : {RouterKind::kSigmoid, RouterKind::kSoftmax}) {
    const ModelConfig config = TinyConfig(router);
    OnRanks(2, [&](int rank, collective::Communicator& communicator) {
      auto plain = MakeModel<float>(config, InitialLayout(config, 2), communicator);
      auto measured = MakeModel<float>(config, InitialLayout(config, 2), communicator);
      measured->MeasureOutputNorms(true);
      const Batch batch = RandomBatch({30, 12}, config.vocabulary, rank);
      ASSERT_TRUE(plain->ForwardBackward(batch, CrossEntropy<float>(84), 1.0f).ok());
      ASSERT_TRUE(measured->ForwardBackward(batch, CrossEntropy<float>(84), 1.0f).ok());
      EXPECT_TRUE(plain->output_norms().empty());
      EXPECT_EQ(plain->route_counts(), measured->route_counts());
      const auto a = plain->parameters(), b = measured->parameters();
      for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i]->grad, b[i]->grad) << a[i]->name;
    });
  }
}

TEST(OutputNorms, FollowTheLayoutAndCountSampling) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
    model->MeasureOutputNorms(true);
    ExpertLayout less = model->layout();
    less.layers[1] = {.ids = {0, 2, 3, 4}, .ranks = {0, 0, 1, 1}, .masked = {0, 1, 0, 0}};
    ASSERT_TRUE(model->ApplyLayout(less).ok());
    const std::vector<std::vector<int32_t>> prompts = {{1, 2, 3}, {4, 5}};
    const std::vector<uint64_t> streams = {uint64_t(2 * rank), uint64_t(2 * rank + 1)};
    ASSERT_TRUE(model->Generate(prompts, streams, {.max_new_tokens = 9, .end_token = -1}).ok());
    ASSERT_EQ(model->output_norms()[1].size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(model->output_norms()[1][i] > 0, model->route_counts()[1][i] > 0) << i;
    }
    EXPECT_EQ(model->output_norms()[1][1], 0);  // masked
    model->MeasureOutputNorms(false);
    EXPECT_TRUE(model->output_norms().empty());
  });
}

}  // namespace
}  // namespace espalier::model
