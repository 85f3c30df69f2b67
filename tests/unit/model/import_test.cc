// Goal: a checkpoint of each family computes here what its definition says, on any number of ranks;
// pruned and exported again it still does, and what would be another function is refused by name.
// Method: tests/e2e/softmax_moe_reference.py writes tiny random checkpoints and reads ours, in fp64
// numpy; logps of order 1 to 10 through three layers in fp32 keep about 1e-6, and 1e-4 leaves room.
#include "libs/model/import.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/model/export.h"
#include "libs/text/tokenizer.h"
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

class Import : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        ("import_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path In() const { return folder_ / "in"; }
  fs::path Out() const { return folder_ / "out"; }

  static void Script(const std::string& arguments) {
    const std::string command =
        "OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/e2e/" + arguments;
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  void Make(const std::string& arguments) {
    Script("softmax_moe_reference.py make " + In().string() + " " + arguments);
  }

  // Logps of the batch by numpy, from a checkpoint alone; -1 targets are skipped.
  std::vector<double> Reference(const fs::path& checkpoint, const Batch& batch,
                                const std::string& script = "softmax_moe_reference.py logps") {
    json sequences = json::array();
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      sequences.push_back(std::vector<int32_t>(batch.tokens.begin() + batch.starts[i],
                                               batch.tokens.begin() + batch.starts[i + 1]));
    }
    const fs::path tokens = folder_ / "tokens.json", result = folder_ / "result.json";
    std::ofstream(tokens) << json{{"sequences", sequences}};
    Script(script + " " + checkpoint.string() + " " + tokens.string() + " > " + result.string());
    std::vector<double> logps;
    for (const json& sequence : ReadJson(result).value("logps", json::array())) {
      for (const json& logp : sequence) logps.push_back(logp.get<double>());
    }
    return logps;
  }

  static void ExpectSame(const Batch& batch, const std::vector<float>& ours,
                         const std::vector<double>& theirs) {
    ASSERT_EQ(ours.size(), batch.tokens.size());
    size_t next = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      if (batch.targets[i] < 0) continue;
      ASSERT_LT(next, theirs.size());
      EXPECT_NEAR(ours[i], theirs[next++], 1e-4) << "position " << i;
    }
    EXPECT_EQ(next, theirs.size());
  }

  static std::unique_ptr<Model<float>> ImportOn(collective::Communicator& communicator,
                                                const fs::path& checkpoint) {
    const auto imported = ReadImportedConfig(checkpoint);
    EXPECT_TRUE(imported.ok()) << imported.status();
    if (!imported.ok()) return nullptr;
    auto model = MakeModel<float>(
        imported->config, InitialLayout(imported->config, communicator.size()), communicator);
    const absl::Status read = ImportWeights(*model, checkpoint);
    EXPECT_TRUE(read.ok()) << read;
    return model;
  }

  // Imports over 1, 2 and 3 ranks; on 2 then drops an expert, masks another in every layer and
  // exports. All must compute what numpy does.
  void ExpectTheReferencesFunction(ModelFamily family) {
    const auto imported = ReadImportedConfig(In());
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_EQ(imported->family, family);
    const Batch batch = RandomBatch({17, 5, 30}, imported->config.vocabulary, 3);
    const std::vector<double> theirs = Reference(In(), batch);
    for (const int ranks : {1, 2, 3}) {
      std::vector<float> logps, pruned;
      OnRanks(ranks, [&](int rank, collective::Communicator& communicator) {
        const auto model = ImportOn(communicator, In());
        ASSERT_NE(model, nullptr);
        const Batch mine = rank == 0 ? batch : Batch{.starts = {0}};
        std::vector<float> found;
        ASSERT_TRUE(model->Forward(mine, &found, nullptr).ok());
        if (rank == 0) logps = found;
        if (ranks != 2) return;
        ExpertLayout layout = model->layout();
        for (LayerLayout& layer : layout.layers) {
          if (layer.ids.empty()) continue;
          layer.ids.erase(layer.ids.begin() + 2);
          layer.ranks.erase(layer.ranks.begin() + 2);
          layer.masked.erase(layer.masked.begin() + 2);
          layer.masked[0] = 1;
        }
        ASSERT_TRUE(model->ApplyLayout(layout).ok());
        ASSERT_TRUE(model->Forward(mine, &found, nullptr).ok());
        if (rank == 0) pruned = found;
        const absl::Status status = ExportHuggingFace(*model, TinyTokenizer(), Out(), family);
        ASSERT_TRUE(status.ok()) << status;
      });
      SCOPED_TRACE(ranks);
      ExpectSame(batch, logps, theirs);
      if (ranks == 2) ExpectSame(batch, pruned, Reference(Out(), batch));
    }
    const auto again = ReadImportedConfig(Out());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->config.experts, imported->config.experts - 2);
    EXPECT_EQ(again->config.rms_eps, imported->config.rms_eps);
    EXPECT_EQ(again->config.rope_theta, imported->config.rope_theta);
  }

  // The error of a config.json in which `change` was made.
  std::string Refusal(const json& change) {
    json config = ReadJson(In() / "config.json");
    config.update(change);
    const fs::path other = folder_ / "other";
    fs::create_directories(other);
    std::ofstream(other / "config.json") << config;
    const auto imported = ReadImportedConfig(other);
    EXPECT_EQ(imported.status().code(), absl::StatusCode::kInvalidArgument) << change;
    return std::string(imported.status().message());
  }

  fs::path folder_;
};

TEST_F(Import, Olmoe) {
  Make("olmoe");
  ExpectTheReferencesFunction(ModelFamily::kOlmoe);
}

TEST_F(Import, OlmoeInShardsOfHalves) {
  Make("olmoe --normalize --dtype F16 --shards 3");
  ExpectTheReferencesFunction(ModelFamily::kOlmoe);
}

TEST_F(Import, Qwen3MoeWithADenseLayer) {
  Make("qwen3_moe --normalize --dtype BF16 --shards 2");
  ExpectTheReferencesFunction(ModelFamily::kQwen3Moe);
}

TEST_F(Import, Qwen3MoeFusedAndTied) {
  Make("qwen3_moe --fused --tied");
  ExpectTheReferencesFunction(ModelFamily::kQwen3Moe);
}

TEST_F(Import, Mixtral) {
  Make("mixtral");
  ExpectTheReferencesFunction(ModelFamily::kMixtral);
}

TEST_F(Import, MixtralFused) {
  Make("mixtral --fused --dtype BF16");
  ExpectTheReferencesFunction(ModelFamily::kMixtral);
}

// Padding keeps its selection bias, so that what was exported comes back as the same function.
TEST_F(Import, Glm4MoeAsWeExportIt) {
  ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  config.shared_expert_width = config.expert_width;
  config.qk_norm = QkNorm::kHead;
  const Batch batch = RandomBatch({9, 20}, config.vocabulary, 3);
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    ExpertLayout layout = InitialLayout(config, 1);
    layout.layers[2] = {.ids = {0, 3, 4}, .ranks = {0, 0, 0}, .masked = {0, 0, 0}};
    auto model = MakeModel<float>(config, layout, communicator);
    model->selection_bias(1)[3] = 0.2f;
    std::vector<float> want, got;
    ASSERT_TRUE(model->Forward(batch, &want, nullptr).ok());
    ASSERT_TRUE(ExportHuggingFace(*model, TinyTokenizer(), Out(), ModelFamily::kGlm4Moe).ok());
    EXPECT_EQ(ReadJson(Out() / "config.json")["use_qk_norm"], true);
    const auto again = ImportOn(communicator, Out());
    ASSERT_NE(again, nullptr);
    ASSERT_TRUE(again->Forward(batch, &got, nullptr).ok());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(want[i], got[i], 1e-5);
  });
}

TEST_F(Import, RefusesWhatComputesSomethingElse) {
  Make("olmoe");
  EXPECT_THAT(Refusal({{"model_type", "llama"}}), HasSubstr("model_type is \"llama\""));
  EXPECT_THAT(Refusal({{"attention_bias", true}}), HasSubstr("attention_bias is true"));
  EXPECT_THAT(Refusal({{"clip_qkv", 8.0}}), HasSubstr("clip_qkv is 8.0"));
  EXPECT_THAT(Refusal({{"sliding_window", 32}}), HasSubstr("sliding_window is 32"));
  EXPECT_THAT(Refusal({{"hidden_act", "gelu"}}), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(Refusal({{"rope_scaling", {{"rope_type", "yarn"}}}}), HasSubstr("yarn"));
  EXPECT_THAT(Refusal({{"rope_parameters", {{"rope_type", "linear"}, {"rope_theta", 1.0}}}}),
              HasSubstr("linear"));
  EXPECT_THAT(Refusal({{"num_hidden_layers", "three"}}), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(Refusal({{"num_experts", nullptr}}), HasSubstr("num_experts is missing"));
  EXPECT_THAT(Refusal({{"num_experts_per_tok", 7}}), HasSubstr("experts"));
  EXPECT_THAT(Refusal({{"quantization_config", {{"bits", 4}}}}), HasSubstr("quantization_config"));
  EXPECT_TRUE(ReadImportedConfig(In()).ok());
  // A window as long as the context is none.
  json config = ReadJson(In() / "config.json");
  config["sliding_window"] = 128;
  std::ofstream(In() / "config.json") << config;
  EXPECT_TRUE(ReadImportedConfig(In()).ok());
}

TEST_F(Import, NamesTheTensorThatIsMissingOrOfAnotherShape) {
  Make("qwen3_moe");
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    json config = ReadJson(In() / "config.json");
    const auto error_of = [&](const json& change) {
      json changed = config;
      changed.update(change);
      std::ofstream(In() / "config.json") << changed;
      const auto imported = ReadImportedConfig(In());
      EXPECT_TRUE(imported.ok()) << imported.status();
      auto model =
          MakeModel<float>(imported->config, InitialLayout(imported->config, 1), communicator);
      return std::string(ImportWeights(*model, In()).message());
    };
    EXPECT_THAT(error_of({{"num_hidden_layers", 4}}), HasSubstr("no tensor model.layers.3."));
    EXPECT_THAT(error_of({{"num_hidden_layers", 2}}), HasSubstr("tensor model.layers.2."));
    EXPECT_THAT(error_of({{"moe_intermediate_size", 12}}),
                HasSubstr("expected F32, F16 or BF16 [12"));
    EXPECT_THAT(error_of({{"num_experts", 8}}), HasSubstr("expected F32, F16 or BF16 [8"));
    EXPECT_THAT(error_of({{"num_experts", 4}}), HasSubstr("experts.4."));
    std::ofstream(In() / "config.json") << config;
    auto other = MakeModel<float>(TinyConfig(RouterKind::kSoftmax),
                                  InitialLayout(TinyConfig(RouterKind::kSoftmax), 1), communicator);
    EXPECT_THAT(std::string(ImportWeights(*other, In()).message()),
                HasSubstr("another configuration"));
    fs::remove(In() / "model.safetensors");
    const auto imported = ReadImportedConfig(In());
    auto model =
        MakeModel<float>(imported->config, InitialLayout(imported->config, 1), communicator);
    EXPECT_THAT(std::string(ImportWeights(*model, In()).message()), HasSubstr("model.safetensors"));
  });
}

TEST_F(Import, AnIndexCannotLeadOutsideItsFolder) {
  Make("olmoe --shards 2");
  json index = ReadJson(In() / "model.safetensors.index.json");
  index["weight_map"]["lm_head.weight"] = "../in/model-00001-of-00002.safetensors";
  std::ofstream(In() / "model.safetensors.index.json") << index;
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    const auto imported = ReadImportedConfig(In());
    auto model =
        MakeModel<float>(imported->config, InitialLayout(imported->config, 1), communicator);
    EXPECT_THAT(std::string(ImportWeights(*model, In()).message()),
                HasSubstr("lm_head.weight lies in no file of the folder"));
  });
}

TEST_F(Import, ExportOfUnequalLayersNamesTheFormatThatHasThem) {
  Make("mixtral");
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    const auto model = ImportOn(communicator, In());
    ExpertLayout layout = model->layout();
    layout.layers[1].masked[0] = 1;
    ASSERT_TRUE(model->ApplyLayout(layout).ok());
    const absl::Status status =
        ExportHuggingFace(*model, TinyTokenizer(), Out(), ModelFamily::kMixtral);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("6 experts in layer 0 and 5 in layer 1"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("glm4_moe"));
    for (const ModelFamily other :
         {ModelFamily::kOlmoe, ModelFamily::kQwen3Moe, ModelFamily::kGlm4Moe}) {
      EXPECT_FALSE(ExportHuggingFace(*model, TinyTokenizer(), Out(), other).ok());
    }
  });
  EXPECT_FALSE(fs::exists(Out()));
}

}  // namespace
}  // namespace espalier::model
