// Goal: a column of counts loses nothing in its code and costs about its entropy. Method: columns
// of every kind and size of number from a seed; Gaussian counts beside the bound.
#include "libs/history/rice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace espalier::history {
namespace {

std::string Write(const ColumnCode& code, const std::vector<uint64_t>& values) {
  std::string bytes;
  BitWriter bits(&bytes);
  WriteColumn(code, values, &bits);
  bits.Finish();
  return bytes;
}

TEST(Rice, ReturnsEveryColumnWhateverItsCode) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<uint64_t> values(1 + random() % 100);
    const int shift = static_cast<int>(random() % 64);
    for (uint64_t& value : values) {
      value = random() >> (random() % 8 == 0 ? random() % 64 : shift);
      if (random() % 50 == 0) value = UINT64_MAX;
    }
    ColumnCode code = ChooseCode(values);
    if (seed % 2 == 1) {  // not the best one: it must still be right
      ASSERT_TRUE(
          ColumnCode::FromByte(static_cast<uint8_t>(random() % 4 << 6 | random() % 49), &code));
    }
    const std::string bytes = Write(code, values);
    std::vector<uint64_t> read(values.size() * 3);
    read[0] = values[0];
    BitReader reader(bytes);
    reader.Column(code, read.data(), values.size(), 3);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(read[3 * i], values[i]) << seed;
    ASSERT_TRUE(reader.Exhausted()) << seed;
    if (bytes.empty()) continue;
    BitReader cut(std::string_view(bytes).substr(0, bytes.size() - 1));
    cut.Column(code, read.data(), values.size(), 3);
    ASSERT_FALSE(cut.Exhausted()) << seed;
    const std::string longer = bytes + '\0';
    BitReader beyond(longer);
    beyond.Column(code, read.data(), values.size(), 3);
    ASSERT_FALSE(beyond.Exhausted()) << seed;
  }
}

TEST(Rice, CostsLittleMoreThanTheEntropyOfNoisyCounts) {
  std::mt19937_64 random(1);
  for (const double mean : {20.0, 1000.0, 100000.0}) {
    std::normal_distribution<double> noise(mean, std::sqrt(mean));
    size_t bytes = 0, count = 0;
    for (int column = 0; column < 200; ++column) {
      std::vector<uint64_t> values(64);
      for (uint64_t& value : values) value = static_cast<uint64_t>(std::max(0.0, noise(random)));
      bytes += Write(ChooseCode(values), values).size();
      count += values.size() - 1;
    }
    const double entropy_bits = 0.5 * std::log2(2 * M_PI * M_E * mean);
    const double bits = 8.0 * static_cast<double>(bytes) / static_cast<double>(count);
    EXPECT_LT(bits, entropy_bits + 0.4) << mean;
    EXPECT_GT(bits, entropy_bits - 0.2) << mean << ": too good to be true";
  }
}

TEST(Rice, RefusesCodesThatNoEncoderWrites) {
  ColumnCode code;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(ColumnCode::FromByte(static_cast<uint8_t>(byte), &code), byte % 64 <= 48) << byte;
  }
}

}  // namespace
}  // namespace espalier::history
