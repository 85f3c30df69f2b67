// Goal: a tokenizer loses no byte, trains the same way twice, and reads back what it wrote. Method:
// known texts, random bytes, and broken files.
#include "libs/text/tokenizer.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::text {
namespace {

using ::testing::HasSubstr;

std::string Story() {
  std::string text;
  for (int i = 0; i < 200; ++i) {
    text += "And the king said unto the people, Go up " + std::to_string(i * 37) +
            " times; and they went up.\n";
  }
  return text;
}

std::unique_ptr<Tokenizer> Trained(int vocabulary = 300) {
  auto tokenizer = TrainBpe(Story(), vocabulary);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string RandomBytes(uint32_t seed, size_t size) {
  std::mt19937 random(seed);
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes.push_back(static_cast<char>(random() & 0xFF));
  return bytes;
}

TEST(TrainBpe, RefusesTextTooSmallForTheVocabulary) {
  const auto tokenizer = TrainBpe("abc abc", 1000);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, tokenizer.status().code());
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("1000"));
}

TEST(TrainBpe, RefusesVocabularyWithoutRoomForBytes) {
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, TrainBpe(Story(), 258).status().code());
}

TEST(TrainBpe, ReachesTheVocabularyAskedFor) { EXPECT_EQ(300, Trained(300)->vocabulary()); }

TEST(TrainBpe, IsDeterministic) { EXPECT_EQ(Trained()->ToJson(), Trained()->ToJson()); }

TEST(TrainBpe, MergesTheMostFrequentPairFirst) {
  const auto tokenizer = TrainBpe("xyxyxyxy xyxy ab", 260);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ("xy", (*tokenizer)->Decode({259}));
}

TEST(Tokenizer, RoundTripsEveryByteSequence) {
  const auto tokenizer = Trained();
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::string bytes = RandomBytes(seed, 300 + seed * 7);
    EXPECT_EQ(bytes, tokenizer->Decode(tokenizer->Encode(bytes))) << "seed " << seed;
  }
  EXPECT_EQ("", tokenizer->Decode(tokenizer->Encode("")));
}

TEST(Tokenizer, NeverMergesDigits) {
  std::string numbers;
  for (int i = 0; i < 1000; ++i) numbers += "a 12 12 1212 said\n";
  const auto tokenizer = TrainBpe(numbers, 264);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(4, (*tokenizer)->Encode("1212").size());
  EXPECT_EQ(2, (*tokenizer)->Encode(" 12").size());
}

TEST(Tokenizer, EncodesLongPiecesAsItDoesShortOnes) {
  const auto tokenizer = Trained();
  // Cut at a seam that no merge crosses, the long piece must be the sum of its parts.
  std::string part;
  for (int i = 0; i < 20; ++i) part += "kingsaid";
  const auto once = tokenizer->Encode(part + "Q");
  std::string text;
  std::vector<int32_t> expected;
  for (int i = 0; i < 10; ++i) {
    text += part + "Q";
    expected.insert(expected.end(), once.begin(), once.end());
  }
  EXPECT_EQ(expected, tokenizer->Encode(text));
}

TEST(Tokenizer, SpecialTokensComeFirstAndDecodeToNothing) {
  const auto tokenizer = Trained();
  EXPECT_EQ("", tokenizer->Decode({Tokenizer::kEnd, Tokenizer::kBegin, Tokenizer::kPad}));
  for (const int32_t id : tokenizer->Encode("<|end|><|begin|>")) EXPECT_GT(id, Tokenizer::kPad);
}

TEST(Tokenizer, ReadsBackWhatItWrote) {
  const auto tokenizer = Trained();
  const auto read = TokenizerFromJson(tokenizer->ToJson());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(tokenizer->Encode(Story()), (*read)->Encode(Story()));
  EXPECT_EQ(tokenizer->ToJson(), (*read)->ToJson());
}

TEST(Tokenizer, BytesAreATokenizerWithoutMerges) {
  const auto tokenizer = MakeByteTokenizer();
  EXPECT_EQ(259, tokenizer->vocabulary());
  EXPECT_EQ((std::vector<int32_t>{3 + 'h', 3 + 'i'}), tokenizer->Encode("hi"));
  const auto read = TokenizerFromJson(tokenizer->ToJson());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ("hé", (*read)->Decode((*read)->Encode("hé")));
}

TEST(TokenizerFromJson, RefusesWhatItCannotReproduce) {
  const std::string json = Trained()->ToJson();
  const auto replaced = [&json](const std::string& from, const std::string& to) {
    std::string changed = json;
    const size_t at = changed.find(from);
    EXPECT_NE(std::string::npos, at) << from;
    return changed.replace(at, from.size(), to);
  };
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), std::string("{\"model\":3}"), json.substr(0, 500),
        replaced("\"BPE\"", "\"Unigram\""), replaced("| ?[0-9]", "| ?[0-9]+"),
        replaced("\"<|end|>\":0", "\"<|end|>\":5"), replaced("\"A\":", "\"AAA\":"),
        replaced("\"merges\":[", "\"merges\":[\"zz qq\","),
        replaced("\"merges\":[", "\"merges\":[7,")}) {
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, TokenizerFromJson(bad).status().code());
  }
}

}  // namespace
}  // namespace espalier::text
