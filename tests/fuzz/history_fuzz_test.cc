// Goal: no bytes in a stored row crash the reader or make it take memory without bound. Method:
// valid rows, damaged from a seed (flips, cuts, splices); what still decodes must encode to
// something that decodes alike.
#include <gtest/gtest.h>

#include <random>

#include "libs/history/load_block.h"

namespace espalier::history {
namespace {

std::string Damage(std::string bytes, const std::string& other, std::mt19937_64& random) {
  for (int i = 1 + static_cast<int>(random() % 4); i > 0 && !bytes.empty(); --i) {
    const size_t at = random() % bytes.size();
    switch (random() % 4) {
      case 0:
        bytes[at] ^= static_cast<char>(1 << random() % 8);
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:
        bytes.insert(at, other.substr(random() % other.size()));
        break;
      default:
        bytes[at] = '\xff';
    }
  }
  return bytes;
}

TEST(HistoryFuzz, DamagedRowsAreRefusedOrStayConsistent) {
  for (uint64_t seed = 0; seed < 60000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<LoadBlock> rows(1 + random() % 6);
    std::vector<LoadRow> step(1 + random() % 3);
    const size_t width = 1 + random() % 6;
    for (LoadBlock& row : rows) {
      row.first_step = random() % 100;
      for (size_t i = 0; i < width; ++i) row.tokens.push_back(random() >> random() % 64);
    }
    for (LoadRow& row : step) row.tokens = rows[0].tokens;
    const std::string block = EncodeBlock(rows), waiting = EncodeStep(step);
    const auto damaged = DecodeBlock(Damage(block, waiting, random));
    if (damaged.ok()) {
      const auto again = DecodeBlock(EncodeBlock(*damaged));
      ASSERT_TRUE(again.ok());
      ASSERT_EQ(again->size(), damaged->size());
      for (size_t i = 0; i < again->size(); ++i) {
        ASSERT_EQ((*again)[i].tokens, (*damaged)[i].tokens);
      }
    } else {
      ASSERT_TRUE(absl::IsDataLoss(damaged.status()));
    }
    const auto damaged_step = DecodeStep(1, Damage(waiting, block, random));
    ASSERT_TRUE(damaged_step.ok() || absl::IsDataLoss(damaged_step.status()));
  }
}

}  // namespace
}  // namespace espalier::history
