// Goal: no bytes make the readers of safetensors files and of checkpoint manifests crash, hang,
// over-read or accept what cannot be. Method: thousands of seeded mutations of good files (bytes
// flipped, cut, repeated, numbers replaced by extreme ones), and random bytes. What is accepted
// must keep its promises: every tensor readable at its size, every layout valid. A failure prints
// its round.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libs/model/batch.h"
#include "libs/model/checkpoint_manifest.h"
#include "libs/model/import.h"
#include "libs/model/safetensors.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kRounds = 4000;

std::string Slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Spill(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A number that code tends to trip over, as JSON text.
std::string ExtremeNumber(std::mt19937_64& random) {
  static const char* const kNumbers[] = {"-1",
                                         "0",
                                         "1",
                                         "2147483647",
                                         "2147483648",
                                         "4294967296",
                                         "9223372036854775807",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "1e308",
                                         "-0.5",
                                         "null",
                                         "\"x\"",
                                         "[]",
                                         "{}",
                                         "true"};
  return kNumbers[random() % std::size(kNumbers)];
}

std::string Mutate(std::string bytes, std::mt19937_64& random) {
  const int edits = 1 + static_cast<int>(random() % 4);
  for (int edit = 0; edit < edits && !bytes.empty(); ++edit) {
    const size_t at = random() % bytes.size();
    const size_t length = std::min<size_t>(1 + random() % 16, bytes.size() - at);
    switch (random() % 6) {
      case 0:
        bytes[at] ^= static_cast<char>(1 << (random() % 8));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(random() % bytes.size(), length));
        break;
      case 4:
        bytes.resize(at);
        break;
      default: {  // a number of the text
        size_t digit = bytes.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        size_t end = bytes.find_first_not_of("0123456789", digit);
        if (end == std::string::npos) end = bytes.size();
        bytes.replace(digit, end - digit, ExtremeNumber(random));
      }
    }
  }
  return bytes;
}

class ReaderFuzz : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ("reader_fuzz_" +
               std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string GoodTensors() {
    const fs::path path = folder_ / "good";
    auto writer = SafetensorsWriter::Create(path,
                                            {{"model.embed", TensorType::kF32, {4, 3}},
                                             {"counts", TensorType::kI64, {2}},
                                             {"mask", TensorType::kU8, {5}}},
                                            {{"format", "pt"}});
    EXPECT_TRUE(writer.ok());
    EXPECT_TRUE((*writer)->Append(std::vector<std::byte>(48 + 16 + 5)).ok());
    EXPECT_TRUE((*writer)->Finish().ok());
    return Slurp(path);
  }

  // Opens the bytes as a file; whatever opens must be readable in full.
  bool ReadTensors(const std::string& bytes) {
    const fs::path path = folder_ / "bad";
    Spill(path, bytes);
    const auto reader = SafetensorsReader::Open(path);
    if (!reader.ok()) {
      EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << reader.status();
      EXPECT_NE(reader.status().message().find(path.string().c_str()), absl::string_view::npos);
      return false;
    }
    uint64_t read = 0;
    for (const std::string& name : (*reader)->names()) {
      const auto data = (*reader)->ReadBytes(name);
      EXPECT_TRUE(data.ok()) << data.status();
      if (data.ok()) read += data->size();
    }
    EXPECT_LE(read, bytes.size());
    return true;
  }

  fs::path folder_;
};

TEST_F(ReaderFuzz, SafetensorsSurviveMutations) {
  const std::string good = GoodTensors();
  ASSERT_TRUE(ReadTensors(good));
  int opened = 0;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(round);
    std::mt19937_64 random(round);
    // Half of them get the right header length again, so that the mutation reaches the JSON and the
    // offsets.
    std::string bad = Mutate(good, random);
    if (round % 2 == 0 && bad.size() > 8) {
      const size_t end = bad.find("}}", 8);
      const uint64_t length = end == std::string::npos ? bad.size() - 8 : end + 2 - 8;
      std::memcpy(bad.data(), &length, sizeof(length));
    }
    opened += ReadTensors(bad);
    if (HasFailure()) FAIL() << "round " << round;
  }
  EXPECT_LT(opened, kRounds);
}

TEST_F(ReaderFuzz, SafetensorsSurviveRandomBytes) {
  for (int round = 0; round < kRounds; ++round) {
    std::mt19937_64 random(round);
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (bytes.size() > 8 && round % 2 == 0) {
      const uint64_t length = random() % bytes.size();
      std::memcpy(bytes.data(), &length, sizeof(length));
    }
    ReadTensors(bytes);
    if (HasFailure()) FAIL() << "round " << round;
  }
}

Manifest GoodManifest() {
  Manifest manifest;
  manifest.state.config = {.vocabulary = 64,
                           .layers = 3,
                           .width = 16,
                           .heads = 2,
                           .kv_heads = 1,
                           .head_dim = 8,
                           .experts = 4,
                           .top_k = 2,
                           .expert_width = 8,
                           .dense_layers = 1,
                           .dense_width = 16};
  manifest.state.layout = InitialLayout(manifest.state.config, 2);
  manifest.state.step = 41;
  manifest.state.tokenizer_json = "{\"a\": \"\\n\"}";
  manifest.state.trainer_json = "{}";
  for (int rank = 0; rank < 2; ++rank)
    manifest.files.push_back({RankFileName(rank, 2), 100, "abc"});
  return manifest;
}

// What a parsed manifest promises to those who use it.
void ExpectConsistent(const Manifest& manifest) {
  EXPECT_TRUE(ValidateLayout(manifest.state.config, manifest.state.layout,
                             static_cast<int>(manifest.files.size()))
                  .ok());
  for (const FileDigest& file : manifest.files) EXPECT_EQ(file.name.find('/'), std::string::npos);
}

TEST_F(ReaderFuzz, ManifestTextSurvivesMutations) {
  const auto good = PrintManifest(GoodManifest());
  ASSERT_TRUE(good.ok());
  ASSERT_TRUE(ParseManifest(*good, "manifest.json").ok());
  for (int round = 0; round < kRounds; ++round) {
    std::mt19937_64 random(round);
    const auto parsed = ParseManifest(Mutate(*good, random), "manifest.json");
    if (parsed.ok()) {
      ExpectConsistent(*parsed);
      EXPECT_EQ(parsed->state.step, 41) << "round " << round;  // the digest lets nothing through
    } else {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << parsed.status();
    }
    if (HasFailure()) FAIL() << "round " << round;
  }
}

// Replaces or removes one value anywhere in the tree.
void MutateValue(json& value, std::mt19937_64& random) {
  if (value.is_structured() && !value.empty() && random() % 8 != 0) {
    auto it = value.begin();
    std::advance(it, random() % value.size());
    if (random() % 12 == 0) {
      value.erase(it);
      return;
    }
    MutateValue(*it, random);
    return;
  }
  value = json::parse(ExtremeNumber(random), nullptr, false);
}

TEST_F(ReaderFuzz, SealedManifestsWithWrongValuesAreRefusedOrConsistent) {
  const auto good = PrintManifest(GoodManifest());
  ASSERT_TRUE(good.ok());
  int refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::mt19937_64 random(round);
    json value = json::parse(*good);
    for (int edit = 0; edit < 1 + round % 3; ++edit) MutateValue(value, random);
    if (!value.is_object()) continue;
    const auto sealed =
        SealManifest(value);  // the digest is right: only the checks of the fields are left
    ASSERT_TRUE(sealed.ok());
    const auto parsed = ParseManifest(*sealed, "manifest.json");
    if (parsed.ok()) {
      ExpectConsistent(*parsed);
    } else {
      ++refused;
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << parsed.status();
    }
    if (HasFailure()) FAIL() << "round " << round << "\n" << *sealed;
  }
  EXPECT_GT(refused, kRounds / 4);
}

// Of each family: what is accepted can be a model.
TEST(CheckpointFuzz, MutatedConfigsOfOtherTrainers) {
  const fs::path folder = fs::path(::testing::TempDir()) / "config_fuzz";
  fs::create_directories(folder);
  const json common = {{"vocab_size", 29},       {"hidden_size", 16},         {"hidden_act", "silu"},
                       {"num_hidden_layers", 3}, {"num_attention_heads", 4},  {"num_key_value_heads", 2},
                       {"rms_norm_eps", 1e-6},   {"num_experts_per_tok", 2},  {"intermediate_size", 10},
                       {"head_dim", 4},          {"tie_word_embeddings", true},
                       {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000.0}, {"partial_rotary_factor", 1.0}}},
                       {"num_experts", 6},       {"num_local_experts", 6},    {"moe_intermediate_size", 8},
                       {"mlp_only_layers", {0}}, {"sliding_window", 4096},    {"max_position_embeddings", 4096},
                       {"n_routed_experts", 6},  {"n_shared_experts", 1},     {"first_k_dense_replace", 1},
                       {"routed_scaling_factor", 1.5}};
  int accepted = 0;
  for (const ModelFamily family : kFamilies) {
    json config = common;
    config["model_type"] = FamilyName(family);
    const std::string good = config.dump();
    Spill(folder / "config.json", good);
    ASSERT_TRUE(ReadImportedConfig(folder).ok()) << ReadImportedConfig(folder).status();
    for (int round = 0; round < kRounds / 8; ++round) {
      SCOPED_TRACE(::testing::Message() << FamilyName(family) << " round " << round);
      std::mt19937_64 random(round);
      Spill(folder / "config.json", Mutate(good, random));
      const auto imported = ReadImportedConfig(folder);
      if (!imported.ok()) {
        EXPECT_FALSE(imported.status().message().empty());
        continue;
      }
      ++accepted;
      EXPECT_TRUE(ValidateConfig(imported->config).ok());
      EXPECT_LT(imported->config.dense_layers, imported->config.layers + 1);
    }
  }
  EXPECT_GT(accepted, 0);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace espalier::model
