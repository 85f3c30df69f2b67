// Goal: the exported folder alone, read by an independent implementation of Glm4Moe, computes what
// our model computes. Method: pruned and masked models over two ranks;
// tests/e2e/glm4_moe_reference.py (numpy, fp64) against Model::Forward in fp32. Logps of order 1 to
// 10 through three layers in fp32 keep about 1e-6; 1e-4 leaves room, and a wrong norm or gate is
// 1e-2.
#include "libs/model/export.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class TinyTokenizer : public text::Tokenizer {
 public:
  int vocabulary() const override { return 23; }
  std::vector<int32_t> Encode(absl::string_view) const override { return {}; }
  std::string Decode(const std::vector<int32_t>&) const override { return ""; }
  std::string ToJson() const override { return R"({"version":"1.0"})"; }
};

json ReadJson(const fs::path& path) {
  std::ifstream in(path);
  return json::parse(in, nullptr, false);
}

ExpertLayout PrunedLayout(int ranks) {
  ExpertLayout layout;
  layout.layers.resize(3);
  layout.layers[1] = {.ids = {0, 2, 4}, .ranks = {0, 0, 0}, .masked = {0, 0, 0}};
  layout.layers[2] = {.ids = {0, 1, 3, 4}, .ranks = {0, 0, 0, 0}, .masked = {0, 1, 0, 0}};
  int next = 0;
  for (LayerLayout& layer : layout.layers) {
    for (int& rank : layer.ranks) rank = next++ % ranks;
  }
  return layout;
}

class Export : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        ("export_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path Out() const { return folder_ / "out"; }

  // Exports from `ranks` ranks; returns the logps of the batch by our model.
  std::vector<float> ExportModel(const ModelConfig& config, const ExpertLayout& layout, int ranks,
                                 const Batch& batch) {
    std::vector<float> logps;
    OnRanks(ranks, [&](int rank, collective::Communicator& communicator) {
      auto model = MakeModel<float>(config, layout, communicator);
      for (int layer = config.dense_layers; layer < config.layers; ++layer) {
        float bias = -0.05f;  // so strong that it changes choices
        for (float& one : model->selection_bias(layer)) one = (bias += 0.03f);
      }
      const absl::Status status = ExportGlm4Moe(*model, TinyTokenizer(), Out());
      EXPECT_TRUE(status.ok()) << status;
      std::vector<float> mine;
      EXPECT_TRUE(model->Forward(rank == 0 ? batch : Batch{.starts = {0}}, &mine, nullptr).ok());
      if (rank == 0) logps = mine;
    });
    return logps;
  }

  // The same by the reference; -1 targets are skipped.
  std::vector<double> Reference(const Batch& batch) {
    json sequences = json::array();
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      sequences.push_back(std::vector<int32_t>(batch.tokens.begin() + batch.starts[i],
                                               batch.tokens.begin() + batch.starts[i + 1]));
    }
    const fs::path tokens = folder_ / "tokens.json", result = folder_ / "result.json";
    std::ofstream(tokens) << json{{"sequences", sequences}};
    const std::string command =
        "OPENBLAS_NUM_THREADS=1 /usr/bin/python3 tests/e2e/glm4_moe_reference.py " +
        Out().string() + " " + tokens.string() + " > " + result.string();
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    std::vector<double> logps;
    for (const json& sequence : ReadJson(result).value("logps", json::array())) {
      for (const json& logp : sequence) logps.push_back(logp.get<double>());
    }
    return logps;
  }

  void ExpectSameAsReference(const ModelConfig& config, const ExpertLayout& layout, int ranks) {
    const Batch batch = RandomBatch({17, 5, 30}, config.vocabulary, 3);
    const std::vector<float> ours = ExportModel(config, layout, ranks, batch);
    const std::vector<double> theirs = Reference(batch);
    ASSERT_EQ(ours.size(), batch.tokens.size());
    ASSERT_EQ(theirs.size(), 16 + 4 + 29);
    size_t next = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      if (batch.targets[i] < 0) continue;
      EXPECT_NEAR(ours[i], theirs[next++], 1e-4) << "position " << i;
    }
  }

  fs::path folder_;
};

TEST_F(Export, PrunedAndMaskedModelOverTwoRanksComputesTheSameElsewhere) {
  ExpectSameAsReference(TinyConfig(RouterKind::kSigmoid), PrunedLayout(2), 2);
  const json config = ReadJson(Out() / "config.json");
  EXPECT_EQ(config["n_routed_experts"], 4);
  EXPECT_EQ(config["n_shared_experts"], 1);  // 5 of 7 columns, padded
  const json experts = ReadJson(Out() / "espalier_experts.json");
  EXPECT_EQ(experts["layers"][0]["original_ids"], (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(experts["layers"][0]["padding_experts"], 1);
  EXPECT_EQ(experts["layers"][1]["masked_ids"], (std::vector<int>{1}));
}

TEST_F(Export, WithoutSharedExpertAndNormalizationAndWithTiedEmbeddings) {
  ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  config.shared_expert_width = 0;
  config.normalize_top_k = false;
  config.tie_embeddings = true;
  ExpectSameAsReference(config, PrunedLayout(1), 1);
  EXPECT_FALSE(
      ReadJson(Out() / "model.safetensors.index.json")["weight_map"].contains("lm_head.weight"));
}

TEST_F(Export, WideSharedExpertAndNoDenseLayers) {
  ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  config.shared_expert_width = 2 * config.expert_width;
  config.dense_layers = 0;
  ExpectSameAsReference(config, InitialLayout(config, 2), 2);
  EXPECT_EQ(ReadJson(Out() / "config.json")["n_shared_experts"], 2);
}

TEST_F(Export, OneExpertALayerIsPaddedToWhatTheLoaderNeeds) {
  ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  config.experts = config.top_k = 1;
  ExpectSameAsReference(config, InitialLayout(config, 1), 1);
  EXPECT_EQ(ReadJson(Out() / "config.json")["n_routed_experts"], 2);
}

TEST_F(Export, ReplacesAnEarlierExport) {
  fs::create_directories(Out());
  std::ofstream(Out() / "stale.safetensors") << "old";
  const Batch batch = RandomBatch({4}, 23, 1);
  ExportModel(TinyConfig(RouterKind::kSigmoid), PrunedLayout(2), 2, batch);
  EXPECT_FALSE(fs::exists(Out() / "stale.safetensors"));
  EXPECT_FALSE(fs::exists(Out().string() + ".tmp"));
  for (const char* name :
       {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json", "espalier_experts.json"}) {
    EXPECT_TRUE(fs::exists(Out() / name)) << name;
  }
}

TEST_F(Export, SoftmaxRouterIsRefusedWithTheRemedy) {
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(TinyConfig(RouterKind::kSoftmax), PrunedLayout(1), communicator);
    const absl::Status status = ExportGlm4Moe(*model, TinyTokenizer(), Out());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.router: sigmoid"));
  });
  EXPECT_FALSE(fs::exists(Out()));
}

TEST_F(Export, UnwritableFolderIsAnErrorThatNamesIt) {
  std::ofstream(folder_ / "file") << "";
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(TinyConfig(RouterKind::kSigmoid), PrunedLayout(1), communicator);
    const absl::Status status = ExportGlm4Moe(*model, TinyTokenizer(), folder_ / "file" / "out");
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("file/out"));
  });
}

}  // namespace
}  // namespace espalier::model
