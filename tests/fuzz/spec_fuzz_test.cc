// Goal: no bytes make the run spec reader crash, hang or accept what cannot run. Method: seeded
// mutations of shipped specs, splices of YAML's own syntax, and random bytes; whatever is accepted
// must survive the whole pipeline and round-trip.
#include <chrono>
#include <fstream>
#include <random>
#include <sstream>

#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

constexpr int kRounds = 4000;
constexpr auto kSlowest = std::chrono::seconds(10);

std::string ReadText(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path).rdbuf();
  return std::move(content).str();
}

void Exercise(const std::string& yaml) {
  const auto start = std::chrono::steady_clock::now();
  auto spec = ParseRunSpec(yaml);
  if (spec.ok()) {
    const auto again = ParseRunSpec(ToYaml(*spec));
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << ToYaml(*spec);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*spec, *again)) << ToYaml(*spec);
    FillDefaults(&*spec);
    if (ValidateRunSpec(*spec).ok()) {
      const model::ModelConfig config = ToModelConfig(spec->model(), 300);
      EXPECT_GT(config.head_dim, 0);
      EXPECT_LE(config.top_k, config.experts);
    }
  } else {
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, spec.status().code());
    EXPECT_FALSE(spec.status().message().empty());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, kSlowest);
}

TEST(SpecFuzz, MutationsOfShippedSpecs) {
  const std::vector<std::string> seeds = {ReadText("deploy/runs/tiny.yaml"),
                                          ReadText("deploy/runs/quickstart.yaml")};
  const std::vector<std::string> parts = {"&a ",
                                          "*a",
                                          "<<: *a",
                                          "!!binary ",
                                          "!!int ",
                                          "? ",
                                          "- ",
                                          "---\n",
                                          "...\n",
                                          "{",
                                          "}",
                                          "[",
                                          "]",
                                          ": ",
                                          "|\n",
                                          ">-\n",
                                          "\"",
                                          "'",
                                          "#",
                                          "%YAML 1.2\n",
                                          "~",
                                          "null",
                                          "-0",
                                          "1e309",
                                          "18446744073709551616",
                                          "0x7f",
                                          "\xff",
                                          "\xe2\x80\xa8",
                                          std::string(1, '\0'),
                                          "\t",
                                          "\r"};
  for (uint32_t seed = 0; seed < kRounds; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string text = seeds[seed % seeds.size()];
    for (int k = 1 + static_cast<int>(random() % 6); k > 0; --k) {
      const size_t at = random() % (text.size() + 1);
      switch (random() % 4) {
        case 0:
          text.insert(at, parts[random() % parts.size()]);
          break;
        case 1:
          text.erase(at, random() % 40);
          break;
        case 2:
          text.insert(at, text.substr(random() % (text.size() + 1), random() % 200));
          break;
        default:
          if (at < text.size()) text[at] = static_cast<char>(random());
      }
    }
    Exercise(text);
  }
}

TEST(SpecFuzz, RandomBytes) {
  for (uint32_t seed = 0; seed < kRounds; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string text;
    const bool syntax = seed % 2 == 0;
    for (size_t size = random() % 400; size > 0; --size) {
      text.push_back(syntax ? "{}[]:,-&*!|>'\"%@`#? \n a0~<"[random() % 27]
                            : static_cast<char>(random()));
    }
    Exercise(text);
  }
}

TEST(SpecFuzz, DeepAndWideDocuments) {
  for (const std::string piece : {"- ", "? ", "[", "{a: ", "a: &a\n ", "!", "&", "\"\\", "|\n",
                                  "- - ", "a:\n", "{", "[[", "? - "}) {
    for (const size_t size : {100, 5000, 200000}) {
      SCOPED_TRACE(piece + " to " + std::to_string(size));
      std::string text;
      while (text.size() < size) text += piece;
      Exercise(text);
    }
  }
  std::string stairs;
  for (size_t i = 0; i < 1200; ++i) stairs += std::string(i, ' ') + "a:\n";
  Exercise(stairs);
}

TEST(SpecFuzz, PathsOfSetField) {
  const std::vector<std::string> parts = {"stages",
                                          "[0]",
                                          "[",
                                          "]",
                                          ".",
                                          "model",
                                          "layers",
                                          "pretrain",
                                          "steps",
                                          "prune",
                                          "protected_experts",
                                          "[9999999]",
                                          "optimizer",
                                          "",
                                          "=",
                                          "\xff"};
  for (uint32_t seed = 0; seed < kRounds; ++seed) {
    std::mt19937 random(seed);
    v1::RunSpec spec;
    spec.add_stages();
    std::string path;
    for (int k = static_cast<int>(random() % 7); k > 0; --k) path += parts[random() % parts.size()];
    SetField(&spec, path, parts[random() % parts.size()]).IgnoreError();
  }
}

}  // namespace
}  // namespace espalier::spec
