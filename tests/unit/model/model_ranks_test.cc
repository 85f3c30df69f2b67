// Goal: how a batch is spread over ranks and threads shows in no result. Method: ranks as threads
// of this process, the same global batch cut at sequence borders, results put together and compared
// with one rank's.
#include <cmath>
#include <map>
#include <mutex>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

const std::vector<int> kLengths = {17, 3, 40, 1, 9, 22, 5, 31};

struct Result {
  std::vector<float> logps;                             // of the global batch
  std::map<std::string, std::vector<float>> gradients;  // summed over ranks for dense parameters
  std::vector<LayerRouteCounts> route_counts;           // summed over ranks
  std::string errors;
};

void AddTo(std::vector<float>& sum, const std::vector<float>& part) {
  if (sum.empty()) sum.assign(part.size(), 0.0f);
  for (size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
}

// Sequences [cuts[r], cuts[r+1]) go to rank r.
Result RunRanks(const ModelConfig& config, const ExpertLayout& layout, const std::vector<int>& cuts,
                int threads = 1) {
  const Batch batch = RandomBatch(kLengths, config.vocabulary, 11);
  Result result;
  result.logps.resize(batch.tokens.size());
  std::mutex mutex;
  const int size = static_cast<int>(cuts.size()) - 1;
  OnRanks(size, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, layout, communicator, threads);
    const Batch mine = Slice(batch, cuts[rank], cuts[rank + 1]);
    std::vector<float> logps;
    const auto loss = [&](std::span<const float> values, std::span<float> dlogps) {
      logps.assign(values.begin(), values.end());
      CrossEntropy<float>(batch.tokens.size())(values, dlogps);
    };
    const absl::Status status = model->ForwardBackward(mine, loss, 1.0f);
    std::lock_guard<std::mutex> lock(mutex);
    if (!status.ok()) result.errors += status.ToString();
    std::copy(logps.begin(), logps.end(), result.logps.begin() + batch.starts[cuts[rank]]);
    for (const Parameter<float>* parameter : model->parameters()) {
      AddTo(result.gradients[parameter->name], parameter->grad);
    }
    result.route_counts.resize(config.layers);
    for (int layer = 0; layer < config.layers; ++layer) {
      LayerRouteCounts& sum = result.route_counts[layer];
      sum.resize(model->route_counts()[layer].size());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += model->route_counts()[layer][i];
    }
  });
  return result;
}

double Norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// |a - b| <= tolerance * |b| in the Euclidean norm; gradients that cancel to nothing are rounding.
void ExpectClose(const std::vector<float>& a, const std::vector<float>& b, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  std::vector<float> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  EXPECT_LE(Norm(difference), tolerance * Norm(b) + 1e-8) << what;
}

void ExpectSameResults(const Result& a, const Result& b, double tolerance) {
  EXPECT_EQ(a.errors, "");
  EXPECT_EQ(b.errors, "");
  ExpectClose(a.logps, b.logps, tolerance, "logps");
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, gradient] : b.gradients)
    ExpectClose(a.gradients.at(name), gradient, tolerance, name);
  EXPECT_EQ(a.route_counts, b.route_counts);
}

class ModelRanks : public testing::TestWithParam<RouterKind> {};

TEST_P(ModelRanks, LossAndGradientsAreThoseOfOneRank) {
  const ModelConfig config = TinyConfig(GetParam());
  const Result one = RunRanks(config, InitialLayout(config, 1), {0, 8});
  EXPECT_GT(Norm(one.gradients.at("lm_head.weight")), 0);
  ExpectSameResults(RunRanks(config, InitialLayout(config, 2), {0, 3, 8}), one, 1e-5);
  ExpectSameResults(RunRanks(config, InitialLayout(config, 4), {0, 2, 4, 6, 8}), one, 1e-5);
}

TEST_P(ModelRanks, ARankWithoutTokensTakesPart) {
  const ModelConfig config = TinyConfig(GetParam());
  const Result one = RunRanks(config, InitialLayout(config, 1), {0, 8});
  ExpectSameResults(RunRanks(config, InitialLayout(config, 2), {0, 8, 8}), one, 1e-5);
  ExpectSameResults(RunRanks(config, InitialLayout(config, 3), {0, 0, 8, 8}), one, 1e-5);
}

TEST_P(ModelRanks, MovingExpertsChangesNoBitOfTheForwardPass) {
  const ModelConfig config = TinyConfig(GetParam());
  ExpertLayout all_on_first = InitialLayout(config, 2), mixed = all_on_first;
  for (LayerLayout& layer : all_on_first.layers) layer.ranks.assign(layer.ranks.size(), 0);
  for (size_t layer = 0; layer < mixed.layers.size(); ++layer) {
    for (size_t i = 0; i < mixed.layers[layer].ranks.size(); ++i)
      mixed.layers[layer].ranks[i] = (i + layer) % 2;
  }
  const Result initial = RunRanks(config, InitialLayout(config, 2), {0, 3, 8});
  EXPECT_EQ(RunRanks(config, all_on_first, {0, 3, 8}).logps, initial.logps);
  EXPECT_EQ(RunRanks(config, mixed, {0, 3, 8}).logps, initial.logps);
  ExpectSameResults(RunRanks(config, mixed, {0, 3, 8}), initial, 1e-6);
}

TEST_P(ModelRanks, SameSeedSameBits) {
  const ModelConfig config = TinyConfig(GetParam());
  for (const int threads : {1, 3}) {
    const Result first = RunRanks(config, InitialLayout(config, 2), {0, 3, 8}, threads);
    const Result second = RunRanks(config, InitialLayout(config, 2), {0, 3, 8}, threads);
    EXPECT_EQ(first.logps, second.logps);
    EXPECT_EQ(first.gradients, second.gradients);
  }
}

TEST_P(ModelRanks, ThreadsChangeOnlyRounding) {
  const ModelConfig config = TinyConfig(GetParam());
  const Result one = RunRanks(config, InitialLayout(config, 1), {0, 8});
  ExpectSameResults(RunRanks(config, InitialLayout(config, 1), {0, 8}, 3), one, 1e-5);
}

TEST_P(ModelRanks, AllTokensToOneExpertAndNoneToOthers) {
  ModelConfig config = TinyConfig(GetParam());
  config.top_k = 1;
  // Only expert 3 may be chosen; the others' groups are empty.
  const auto only_third = [&](int ranks) {
    ExpertLayout layout = InitialLayout(config, ranks);
    for (LayerLayout& layer : layout.layers) {
      for (size_t i = 0; i < layer.ids.size(); ++i) layer.masked[i] = layer.ids[i] != 3;
    }
    return layout;
  };
  const Result one = RunRanks(config, only_third(1), {0, 8});
  EXPECT_EQ(one.route_counts[1], (LayerRouteCounts{0, 0, 0, 128, 0}));
  EXPECT_EQ(Norm(one.gradients.at("model.layers.1.mlp.experts.2.up_proj.weight")), 0);
  EXPECT_GT(Norm(one.gradients.at("model.layers.1.mlp.experts.3.up_proj.weight")), 0);
  ExpectSameResults(RunRanks(config, only_third(2), {0, 3, 8}), one, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Routers, ModelRanks,
                         testing::Values(RouterKind::kSoftmax, RouterKind::kSigmoid));

TEST(ModelErrors, ATokenBeyondTheVocabularyFailsOnAllRanksAndHangsNone) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
    Batch batch = RandomBatch({4, 5}, config.vocabulary, rank);
    if (rank == 1) batch.tokens[6] = config.vocabulary;
    std::vector<float> logps;
    const absl::Status status = model->Forward(batch, &logps, nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().find("batch.tokens[6] is 23") != absl::string_view::npos, rank == 1)
        << status;
    // The model is usable afterwards.
    if (rank == 1) batch.tokens[6] = 0;
    EXPECT_TRUE(model->Forward(batch, &logps, nullptr).ok());
  });
}

TEST(ModelErrors, BadBatchesAreRefusedByName) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    std::vector<float> logps;
    const auto message = [&](const Batch& batch) {
      return std::string(model->Forward(batch, &logps, nullptr).message());
    };
    Batch batch = RandomBatch({4}, config.vocabulary, 1);
    batch.starts = {0, 3};
    EXPECT_NE(message(batch).find("batch.starts"), std::string::npos);
    batch.starts = {0, 5, 4};
    EXPECT_NE(message(batch).find("must not fall"), std::string::npos);
    batch.starts = {0, 4};
    batch.targets.pop_back();
    EXPECT_NE(message(batch).find("batch.targets has 3"), std::string::npos);
    batch.targets.push_back(-2);
    EXPECT_NE(message(batch).find("batch.targets[3] is -2"), std::string::npos);
  });
}

TEST(ModelErrors, BadConfigurationsAreRefusedByName) {
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    ModelConfig config = TinyConfig(RouterKind::kSigmoid);
    config.kv_heads = 3;
    auto model = Model<float>::Create(config, InitialLayout(config, 1), &communicator, 1, 1);
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.status().message(), "model.heads is 4; it must be a multiple of kv_heads, 3");
  });
}

TEST(Model, EntropiesAreThoseOfTheDistribution) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<double>(config, InitialLayout(config, 1), communicator);
    Batch batch = RandomBatch({6}, config.vocabulary, 5);
    // The last position's distribution, one target at a time.
    double entropy = 0, total = 0;
    std::vector<double> logps, entropies;
    for (int target = 0; target < config.vocabulary; ++target) {
      batch.targets[5] = target;
      ASSERT_TRUE(model->Forward(batch, &logps, &entropies).ok());
      entropy -= std::exp(logps[5]) * logps[5];
      total += std::exp(logps[5]);
    }
    EXPECT_NEAR(total, 1.0, 1e-12);
    EXPECT_NEAR(entropies[5], entropy, 1e-12);
    batch.targets[5] = -1;
    ASSERT_TRUE(model->Forward(batch, &logps, &entropies).ok());
    EXPECT_EQ(logps[5], 0.0);
    EXPECT_NEAR(entropies[5], entropy, 1e-12);
  });
}

}  // namespace
}  // namespace espalier::model
