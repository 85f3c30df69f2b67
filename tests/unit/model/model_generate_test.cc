// Goal: sampling is the model's own distribution. Method: what Generate reports is compared with
// Forward on the text it made, over batch compositions, ranks and temperatures.
#include <cmath>
#include <mutex>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

constexpr int kEnd = 0;

std::vector<std::vector<int32_t>> Prompts(int vocabulary) {
  std::vector<std::vector<int32_t>> prompts;
  uint32_t seed = 1;
  for (const int length : {5, 1, 12, 3, 7})
    prompts.push_back(RandomBatch({length}, vocabulary, seed++).tokens);
  return prompts;
}

// Prompt and continuation as a batch whose targets are the continuation alone.
Batch Whole(const std::vector<int32_t>& prompt, const Sample& sample) {
  Batch batch{.tokens = prompt};
  batch.tokens.insert(batch.tokens.end(), sample.tokens.begin(), sample.tokens.end());
  batch.targets.assign(batch.tokens.size(), -1);
  for (size_t i = 0; i < sample.tokens.size(); ++i)
    batch.targets[prompt.size() - 1 + i] = sample.tokens[i];
  batch.starts = {0, static_cast<int64_t>(batch.tokens.size())};
  return batch;
}

class ModelGenerate : public testing::TestWithParam<RouterKind> {};

TEST_P(ModelGenerate, LogpsEqualForwardOnTheGeneratedText) {
  const ModelConfig config = TinyConfig(GetParam());
  const auto prompts = Prompts(config.vocabulary);
  const std::vector<uint64_t> streams = {3, 1, 4, 15, 9};
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    for (const int threads : {1, 2}) {
      auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator, threads);
      for (const double temperature : {1.0, 0.5, 0.0}) {
        const auto samples = model->Generate(
            prompts, streams,
            {.temperature = temperature, .max_new_tokens = 30, .end_token = kEnd, .seed = 5});
        ASSERT_TRUE(samples.ok()) << samples.status();
        for (size_t i = 0; i < prompts.size(); ++i) {
          const Sample& sample = (*samples)[i];
          ASSERT_EQ(sample.tokens.size(), sample.logps.size());
          std::vector<float> logps;
          ASSERT_TRUE(model->Forward(Whole(prompts[i], sample), &logps, nullptr).ok());
          for (size_t j = 0; j < sample.tokens.size(); ++j) {
            EXPECT_NEAR(sample.logps[j], logps[prompts[i].size() - 1 + j], 1e-4);
          }
          EXPECT_EQ(sample.truncated, sample.tokens.back() != kEnd);
          EXPECT_TRUE(!sample.truncated || sample.tokens.size() == 30);
          for (size_t j = 0; j + 1 < sample.tokens.size(); ++j) EXPECT_NE(sample.tokens[j], kEnd);
        }
      }
    }
  });
}

TEST_P(ModelGenerate, GreedyTakesTheLikeliestToken) {
  const ModelConfig config = TinyConfig(GetParam());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    const std::vector<std::vector<int32_t>> prompts = {{4, 8, 15}};
    const std::vector<uint64_t> streams = {0};
    const auto samples = model->Generate(
        prompts, streams, {.temperature = 0, .max_new_tokens = 6, .end_token = kEnd});
    ASSERT_TRUE(samples.ok());
    for (size_t at = 0; at < samples->front().tokens.size(); ++at) {
      for (int other = 0; other < config.vocabulary; ++other) {
        Sample variant = samples->front();
        variant.tokens.resize(at + 1);
        variant.tokens[at] = other;
        std::vector<float> logps;
        ASSERT_TRUE(model->Forward(Whole(prompts[0], variant), &logps, nullptr).ok());
        EXPECT_LE(logps[prompts[0].size() - 1 + at], samples->front().logps[at] + 1e-5);
      }
    }
  });
}

TEST_P(ModelGenerate, ResultsDependOnSeedAndStreamAlone) {
  const ModelConfig config = TinyConfig(GetParam());
  const auto prompts = Prompts(config.vocabulary);
  const SampleOptions options{.max_new_tokens = 20, .end_token = kEnd, .seed = 77};
  std::vector<Sample> together(prompts.size());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    const std::vector<uint64_t> streams = {0, 1, 2, 3, 4};
    together = *model->Generate(prompts, streams, options);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto alone = model->Generate({&prompts[i], 1}, {&streams[i], 1}, options);
      EXPECT_EQ(alone->front().tokens, together[i].tokens);
    }
    const uint64_t other_stream = 5;
    EXPECT_NE(model->Generate({&prompts[0], 1}, {&other_stream, 1}, options)->front().tokens,
              together[0].tokens);
  });
  // Two ranks, unequal shares; then one of them with nothing to do.
  for (const size_t cut : {size_t{2}, prompts.size()}) {
    std::vector<Sample> spread(prompts.size());
    OnRanks(2, [&](int rank, collective::Communicator& communicator) {
      auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
      const size_t begin = rank == 0 ? 0 : cut, end = rank == 0 ? cut : prompts.size();
      std::vector<uint64_t> streams;
      for (size_t i = begin; i < end; ++i) streams.push_back(i);
      const std::span<const std::vector<int32_t>> mine(prompts.data() + begin, end - begin);
      const auto samples = model->Generate(mine, streams, options);
      ASSERT_TRUE(samples.ok()) << samples.status();
      std::copy(samples->begin(), samples->end(), spread.begin() + static_cast<int64_t>(begin));
    });
    for (size_t i = 0; i < prompts.size(); ++i)
      EXPECT_EQ(spread[i].tokens, together[i].tokens) << i;
  }
}

TEST_P(ModelGenerate, FrequenciesFollowTheDistribution) {
  const ModelConfig config = TinyConfig(GetParam());
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    constexpr int kDraws = 4000;
    const std::vector<std::vector<int32_t>> prompts(kDraws, {4, 8});
    std::vector<uint64_t> streams(kDraws);
    for (int i = 0; i < kDraws; ++i) streams[i] = i;
    const auto samples =
        model->Generate(prompts, streams, {.max_new_tokens = 1, .end_token = kEnd, .seed = 2});
    ASSERT_TRUE(samples.ok());
    std::vector<int> drawn(config.vocabulary);
    std::vector<double> probability(config.vocabulary);
    for (const Sample& sample : *samples) {
      ++drawn[sample.tokens[0]];
      probability[sample.tokens[0]] = std::exp(sample.logps[0]);
    }
    for (int token = 0; token < config.vocabulary; ++token) {
      const double p = probability[token], sigma = std::sqrt(kDraws * p * (1 - p));
      EXPECT_NEAR(drawn[token], kDraws * p, 5 * sigma + 1e-9) << token;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Routers, ModelGenerate,
                         testing::Values(RouterKind::kSoftmax, RouterKind::kSigmoid));

TEST(ModelGenerateErrors, BadRequestsAreRefusedByNameOnAllRanks) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
    const std::vector<std::vector<int32_t>> good = {{1, 2}}, empty = {{}}, beyond = {{1, 99}};
    const std::vector<uint64_t> streams = {0};
    const auto message = [&](const std::vector<std::vector<int32_t>>& bad, SampleOptions options) {
      const auto samples = model->Generate(rank == 0 ? bad : good, streams, options);
      EXPECT_EQ(samples.status().code(), absl::StatusCode::kInvalidArgument);
      return std::string(samples.status().message());
    };
    const std::string first = message(empty, {}), second = message(beyond, {});
    if (rank == 0) {
      EXPECT_EQ(first, "prompts[0] is empty");
      EXPECT_EQ(second, "prompts[0] has token 99; the vocabulary has 23 tokens");
    }
    EXPECT_EQ(message(good, {.temperature = -1}),
              "temperature is -1; it must be 0 (greedy) or more");
    EXPECT_EQ(message(good, {.max_new_tokens = 0}), "max_new_tokens is 0; it must be at least 1");
  });
}

}  // namespace
}  // namespace espalier::model
