// Goal: no text breaks the tokenizer's round trip, and no file its reader. Method: seeded mutations
// of a tokenizer.json and texts made of every kind of byte.
#include <random>

#include "gtest/gtest.h"
#include "libs/text/corpus.h"
#include "libs/text/tokenizer.h"

namespace espalier::text {
namespace {

std::string RandomText(std::mt19937* random, size_t size) {
  static const std::vector<std::string> kParts = {"the",
                                                  " the",
                                                  "king",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\r\n",
                                                  "\t",
                                                  "7",
                                                  "1234",
                                                  "é",
                                                  "日",
                                                  "😀",
                                                  ".",
                                                  "...",
                                                  "!?",
                                                  "\xff",
                                                  "\xc3",
                                                  std::string(1, '\0'),
                                                  "<|end|>",
                                                  "aaaaaaaaaaaaaaaa"};
  std::string text;
  while (text.size() < size) text += kParts[(*random)() % kParts.size()];
  return text;
}

TEST(TextFuzz, TrainedTokenizersRoundTrip) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto tokenizer =
        TrainBpe(RandomText(&random, 20000), 264 + static_cast<int>(random() % 10));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto read = TokenizerFromJson((*tokenizer)->ToJson());
    ASSERT_TRUE(read.ok()) << read.status();
    for (int k = 0; k < 10; ++k) {
      const std::string text = RandomText(&random, random() % 3000);
      const std::vector<int32_t> ids = (*tokenizer)->Encode(text);
      EXPECT_EQ(text, (*tokenizer)->Decode(ids));
      EXPECT_EQ(ids, (*read)->Encode(text));
      for (const int32_t id : ids)
        ASSERT_TRUE(id > Tokenizer::kPad && id < (*tokenizer)->vocabulary());
    }
  }
}

TEST(TextFuzz, MutatedFilesAreReadOrRefused) {
  std::mt19937 first(1);
  const auto tokenizer = TrainBpe(RandomText(&first, 20000), 270);
  ASSERT_TRUE(tokenizer.ok());
  const std::string json = (*tokenizer)->ToJson();
  const std::string alphabet = "{}[]:,\"\\ 0123456789aelnrtu.-";
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string bad = json;
    for (int k = 1 + static_cast<int>(random() % 4); k > 0; --k) {
      const size_t at = random() % bad.size();
      switch (random() % 4) {
        case 0:
          bad[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          bad.erase(at, 1 + random() % 30);
          break;
        case 2:
          bad.insert(at, bad.substr(random() % bad.size(), random() % 30));
          break;
        default:
          bad[at] = static_cast<char>(random());
      }
    }
    const auto read = TokenizerFromJson(bad);
    if (!read.ok()) {
      EXPECT_EQ(absl::StatusCode::kInvalidArgument, read.status().code());
      continue;
    }
    const std::string text = RandomText(&random, 200);
    EXPECT_EQ(text, (*read)->Decode((*read)->Encode(text)));
  }
}

TEST(TextFuzz, SplitsAndOffsetsHoldForAnySizes) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const std::string text = RandomText(&random, random() % 4000);
    const CorpusSplit split =
        SplitCorpus(text, 0.5 * static_cast<double>(random() % 1000 + 1) / 1000);
    EXPECT_EQ(text.size(), split.train.size() + split.heldout.size());
    const int length = 1 + static_cast<int>(random() % 50);
    const int64_t tokens = length + 1 + random() % 500;
    for (const int64_t offset : SequenceOffsets(tokens, length, 7, seed, random())) {
      ASSERT_GE(offset, 0);
      ASSERT_LE(offset + length + 1, tokens);
    }
  }
}

}  // namespace
}  // namespace espalier::text
