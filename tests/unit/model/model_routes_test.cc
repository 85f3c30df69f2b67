// Goal: what a rollout records of its routing is what an update replays. Method: routes of one
// model are given to itself and to another one; counts, log-probabilities and gradients compared,
// in double precision where differences matter.
#include <cmath>
#include <random>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

constexpr int kEnd = 0;

// A prompt and its continuation as fed: all tokens but the last, each predicting the next.
Batch Fed(const std::vector<int32_t>& prompt, const Sample& sample) {
  std::vector<int32_t> tokens = prompt;
  tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
  Batch batch;
  batch.tokens.assign(tokens.begin(), tokens.end() - 1);
  batch.targets.assign(tokens.begin() + 1, tokens.end());
  batch.starts = {0, static_cast<int64_t>(batch.tokens.size())};
  batch.routes = sample.routes;
  return batch;
}

std::vector<std::vector<int32_t>> Prompts(int vocabulary) {
  std::vector<std::vector<int32_t>> prompts;
  for (const int length : {5, 1, 9}) {
    prompts.push_back(RandomBatch({length}, vocabulary, static_cast<uint32_t>(length)).tokens);
  }
  return prompts;
}

std::vector<Sample> Record(Model<double>& model, const std::vector<std::vector<int32_t>>& prompts) {
  const std::vector<uint64_t> streams = {3, 1, 4};
  auto samples = model.Generate(prompts, streams,
                                {.max_new_tokens = 20, .end_token = kEnd, .record_routes = true});
  EXPECT_TRUE(samples.ok()) << samples.status();
  return *std::move(samples);
}

// Routes drawn at random: two different experts of five for each token and MoE layer.
Batch RandomlyRouted(const ModelConfig& config, const std::vector<int>& lengths) {
  Batch batch = RandomBatch(lengths, config.vocabulary, 3);
  std::mt19937 random(9);
  const size_t choices = batch.tokens.size() * (config.layers - config.dense_layers);
  for (size_t i = 0; i < choices; ++i) {
    const auto first = static_cast<int32_t>(random() % config.experts);
    batch.routes.push_back(first);
    batch.routes.push_back((first + 1 + static_cast<int32_t>(random() % (config.experts - 1))) %
                           config.experts);
  }
  return batch;
}

class ModelRoutes : public testing::TestWithParam<RouterKind> {};

TEST_P(ModelRoutes, RecordedOnesAreThoseOfAPassOverTheSameText) {
  const ModelConfig config = TinyConfig(GetParam());
  const auto prompts = Prompts(config.vocabulary);
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    const std::vector<Sample> samples = Record(*model, prompts);
    for (size_t i = 0; i < prompts.size(); ++i) {
      Batch batch = Fed(prompts[i], samples[i]);
      // Two MoE layers, two choices.
      ASSERT_EQ(batch.routes.size(), batch.tokens.size() * 4);
      std::vector<double> replayed, chosen;
      ASSERT_TRUE(model->Forward(batch, &replayed, nullptr).ok());
      const auto counts = model->route_counts();
      batch.routes.clear();
      ASSERT_TRUE(model->Forward(batch, &chosen, nullptr).ok());
      EXPECT_EQ(counts, model->route_counts());
      for (size_t at = 0; at < chosen.size(); ++at) EXPECT_NEAR(replayed[at], chosen[at], 1e-9);
    }
  });
}

TEST_P(ModelRoutes, NothingIsRecordedUnasked) {
  const ModelConfig config = TinyConfig(GetParam());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    const std::vector<std::vector<int32_t>> prompts = {{4, 8}};
    const std::vector<uint64_t> streams = {0};
    const auto samples = model->Generate(prompts, streams, {.end_token = kEnd});
    ASSERT_TRUE(samples.ok());
    EXPECT_TRUE(samples->front().routes.empty());
  });
}

TEST_P(ModelRoutes, AnotherModelSendsTokensWhereItIsTold) {
  const ModelConfig config = TinyConfig(GetParam());
  const Batch batch = RandomlyRouted(config, {7, 2, 12});
  std::vector<LayerRouteCounts> expected(config.layers);
  for (int layer = config.dense_layers; layer < config.layers; ++layer) {
    expected[layer].assign(config.experts, 0);
    for (size_t token = 0; token < batch.tokens.size(); ++token) {
      for (int k = 0; k < 2; ++k) {
        ++expected[layer][batch.routes[token * 4 + (layer - config.dense_layers) * 2 + k]];
      }
    }
  }
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    std::vector<double> told, free;
    ASSERT_TRUE(model->Forward(batch, &told, nullptr).ok());
    EXPECT_EQ(model->route_counts(), expected);
    // The next pass chooses for itself again.
    Batch unrouted = batch;
    unrouted.routes.clear();
    ASSERT_TRUE(model->Forward(unrouted, &free, nullptr).ok());
    EXPECT_NE(model->route_counts(), expected);
    EXPECT_NE(told, free);
  });
}

TEST_P(ModelRoutes, GradientsAreThoseOfTheReplayedPass) {
  const ModelConfig config = TinyConfig(GetParam());
  const Batch batch = RandomlyRouted(config, {7, 12});
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    double value = 0;
    const auto loss = [&](std::span<const double> logps, std::span<double> dlogps) {
      value = 0;
      for (size_t i = 0; i < logps.size(); ++i) {
        dlogps[i] = std::sin(1.0 + static_cast<double>(i));
        value += dlogps[i] * logps[i];
      }
    };
    model->ZeroGradients();
    ASSERT_TRUE(model->ForwardBackward(batch, loss, 0).ok());
    std::vector<std::vector<double>> gradients;
    for (const auto* parameter : model->parameters()) gradients.push_back(parameter->grad);
    for (size_t i = 0; i < gradients.size(); ++i) {
      Parameter<double>& parameter = *model->parameters()[i];
      const int64_t at = parameter.size() / 2;
      const double before = parameter.value[at], step = 1e-5;
      double side[2];
      for (const int sign : {0, 1}) {
        parameter.value[at] = before + (sign == 0 ? step : -step);
        ASSERT_TRUE(model->ForwardBackward(batch, loss, 0).ok());
        side[sign] = value;
      }
      parameter.value[at] = before;
      EXPECT_NEAR(gradients[i][at], (side[0] - side[1]) / (2 * step), 1e-6) << parameter.name;
    }
  });
}

TEST_P(ModelRoutes, RanksAgree) {
  const ModelConfig config = TinyConfig(GetParam());
  const auto prompts = Prompts(config.vocabulary);
  std::vector<Sample> alone;
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    alone = Record(*model, prompts);
  });
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 2), communicator);
    // All prompts on rank 1; rank 0 only serves its experts.
    const std::vector<std::vector<int32_t>> mine =
        rank == 1 ? prompts : std::vector<std::vector<int32_t>>();
    const std::vector<uint64_t> streams =
        rank == 1 ? std::vector<uint64_t>{3, 1, 4} : std::vector<uint64_t>();
    const auto samples = model->Generate(
        mine, streams, {.max_new_tokens = 20, .end_token = kEnd, .record_routes = true});
    ASSERT_TRUE(samples.ok()) << samples.status();
    for (size_t i = 0; i < samples->size(); ++i) {
      EXPECT_EQ((*samples)[i].tokens, alone[i].tokens);
      EXPECT_EQ((*samples)[i].routes, alone[i].routes);
    }
  });
}

TEST_P(ModelRoutes, BadOnesAreRefusedOnEveryRank) {
  const ModelConfig config = TinyConfig(GetParam());
  const Batch good = RandomlyRouted(config, {4});
  Batch few = good, strange = good, twice = good;
  few.routes.pop_back();
  strange.routes[5] = config.experts;
  twice.routes[3] = twice.routes[2];
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 2), communicator);
    std::vector<double> logps;
    for (const Batch* bad : {&few, &strange, &twice}) {
      const absl::Status status = model->Forward(rank == 0 ? *bad : good, &logps, nullptr);
      ASSERT_FALSE(status.ok());
      if (rank == 0) {
        EXPECT_NE(std::string(status.message()).find("batch.routes"), std::string::npos) << status;
      }
    }
    EXPECT_TRUE(model->Forward(good, &logps, nullptr).ok());
  });
}

INSTANTIATE_TEST_SUITE_P(Routers, ModelRoutes,
                         testing::Values(RouterKind::kSigmoid, RouterKind::kSoftmax));

}  // namespace
}  // namespace espalier::model
