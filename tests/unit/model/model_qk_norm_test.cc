// Goal: norms of queries and keys are what the two families define, and hold on every way through
// attention. Method: a pass over one layer's own numbers by plain loops, decoding against the
// packed pass, ranks against one rank.
#include <cmath>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

constexpr int32_t kNoEnd = -1;

ModelConfig NormConfig(QkNorm norm) {
  ModelConfig config = TinyConfig(RouterKind::kSoftmax);
  config.qk_norm = norm;
  return config;
}

template <typename T>
void SpreadNormWeights(Model<T>& model) {
  for (Parameter<T>* parameter : model.parameters()) {
    if (parameter->name.find("q_norm") == std::string::npos &&
        parameter->name.find("k_norm") == std::string::npos) {
      continue;
    }
    for (int64_t i = 0; i < parameter->size(); ++i) {
      parameter->value[i] = static_cast<T>(1 + 0.4 * std::sin(3.0 * static_cast<double>(i)));
    }
  }
}

class ModelQkNorm : public testing::TestWithParam<QkNorm> {};

TEST_P(ModelQkNorm, HasAWeightOfItsWidthInEveryLayer) {
  const ModelConfig config = NormConfig(GetParam());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    int found = 0;
    for (const Parameter<float>* parameter : model->parameters()) {
      const bool q = parameter->name.find("self_attn.q_norm.weight") != std::string::npos;
      const bool k = parameter->name.find("self_attn.k_norm.weight") != std::string::npos;
      if (!q && !k) continue;
      ++found;
      EXPECT_FALSE(parameter->decay);
      const int heads = config.qk_norm == QkNorm::kHead ? 1 : q ? config.heads : config.kv_heads;
      EXPECT_EQ(parameter->shape, std::vector<int64_t>{heads * config.head_dim});
    }
    EXPECT_EQ(found, 2 * config.layers);
  });
}

// A scaled projection gives the same queries, which without the norm it would not.
TEST_P(ModelQkNorm, TakesTheScaleOutOfQueriesAndKeys) {
  for (const QkNorm norm : {QkNorm::kNone, GetParam()}) {
    ModelConfig config = NormConfig(norm);
    config.rms_eps = 1e-12;
    OnRanks(1, [&](int, collective::Communicator& communicator) {
      auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
      SpreadNormWeights(*model);
      const Batch batch = RandomBatch({9, 4}, config.vocabulary, 3);
      std::vector<double> before, after;
      ASSERT_TRUE(model->Forward(batch, &before, nullptr).ok());
      for (Parameter<double>* parameter : model->parameters()) {
        if (parameter->name.find("q_proj") == std::string::npos) continue;
        for (double& value : parameter->value) value *= 5;
      }
      ASSERT_TRUE(model->Forward(batch, &after, nullptr).ok());
      double worst = 0;
      for (size_t i = 0; i < before.size(); ++i)
        worst = std::max(worst, std::abs(before[i] - after[i]));
      if (norm == QkNorm::kNone) {
        EXPECT_GT(worst, 1e-3);
      } else {
        EXPECT_LT(worst, 1e-9);
      }
    });
  }
}

TEST_P(ModelQkNorm, DecodingIsTheForwardPass) {
  const ModelConfig config = NormConfig(GetParam());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    SpreadNormWeights(*model);
    const std::vector<std::vector<int32_t>> prompts = {{4, 8, 15, 16}, {2}};
    const std::vector<uint64_t> streams = {0, 1};
    const auto samples = model->Generate(
        prompts, streams, {.temperature = 1, .max_new_tokens = 12, .end_token = kNoEnd, .seed = 5});
    ASSERT_TRUE(samples.ok()) << samples.status();
    for (size_t i = 0; i < prompts.size(); ++i) {
      Batch batch;
      batch.tokens = prompts[i];
      const std::vector<int32_t>& drawn = (*samples)[i].tokens;
      batch.tokens.insert(batch.tokens.end(), drawn.begin(), drawn.end() - 1);
      batch.targets.assign(prompts[i].size() - 1, -1);
      batch.targets.insert(batch.targets.end(), drawn.begin(), drawn.end());
      batch.starts = {0, static_cast<int64_t>(batch.tokens.size())};
      std::vector<float> logps;
      ASSERT_TRUE(model->Forward(batch, &logps, nullptr).ok());
      for (size_t j = 0; j < drawn.size(); ++j) {
        EXPECT_NEAR((*samples)[i].logps[j], logps[prompts[i].size() - 1 + j], 1e-4);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Norms, ModelQkNorm, testing::Values(QkNorm::kHead, QkNorm::kFull),
                         [](const auto& info) {
                           return info.param == QkNorm::kHead ? "Head" : "Full";
                         });

}  // namespace
}  // namespace espalier::model
