// Goal: the coding of load rows loses nothing and takes any bytes without crashing. Method: round
// trips of extreme values, and damage from a seed.
#include "libs/history/load_block.h"

#include <gtest/gtest.h>

#include <random>

namespace espalier::history {
namespace {

std::vector<LoadBlock> DrawRows(std::mt19937_64& random) {
  std::vector<LoadBlock> rows(random() % 70);
  const size_t width = random() % 20;
  uint64_t step = random() % 1000;
  for (LoadBlock& row : rows) {
    row.first_step = step;
    step += 1 + random() % 3;
    for (size_t i = 0; i < width; ++i) row.tokens.push_back(random() >> (random() % 64));
  }
  return rows;
}

TEST(LoadBlock, ReturnsWhatWasPackedWhateverTheValues) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<LoadBlock> rows = DrawRows(random);
    if (!rows.empty() && !rows[0].tokens.empty()) rows[0].tokens[0] = UINT64_MAX;
    const auto decoded = DecodeBlock(EncodeBlock(rows));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(decoded->size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ((*decoded)[i].first_step, rows[i].first_step);
      EXPECT_EQ((*decoded)[i].tokens, rows[i].tokens);
    }
  }
}

TEST(LoadBlock, AnswersEveryTruncationWithDataLoss) {
  std::mt19937_64 random(3);
  std::vector<LoadBlock> rows;
  while (rows.size() < 2 || rows[0].tokens.empty()) rows = DrawRows(random);
  const std::string bytes = EncodeBlock(rows);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeBlock(bytes.substr(0, length)).status())) << length;
  }
  EXPECT_TRUE(absl::IsDataLoss(DecodeBlock(bytes + "x").status()));
}

TEST(LoadBlock, SurvivesGarbage) {
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (!bytes.empty()) bytes[0] = 1;  // past the format check
    const auto block = DecodeBlock(bytes);
    EXPECT_TRUE(block.ok() || absl::IsDataLoss(block.status())) << seed;
    const auto step = DecodeStep(7, bytes);
    EXPECT_TRUE(step.ok() || absl::IsDataLoss(step.status())) << seed;
  }
}

}  // namespace
}  // namespace espalier::history
