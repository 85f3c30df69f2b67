// Goal: what a model samples can always travel in a proto string. Method: known bad sequences, and
// every pair of bytes.
#include "libs/text/utf8.h"

#include <string>

#include "gtest/gtest.h"

namespace espalier::text {
namespace {

bool IsValid(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = CharacterLength(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

TEST(ValidUtf8, LeavesTextAsItIs) {
  const std::string text = "plain, größe, 数学, \U0001F333\n";
  EXPECT_EQ(ValidUtf8(text), text);
}

TEST(ValidUtf8, ReplacesEachByteThatIsNoCharacter) {
  EXPECT_EQ(ValidUtf8("a\xff"
                      "b"),
            "a\uFFFD"
            "b");
  EXPECT_EQ(ValidUtf8("\xe2\x82"), "\uFFFD\uFFFD");            // cut short
  EXPECT_EQ(ValidUtf8("\xc0\xaf"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");  // surrogate
}

TEST(ValidUtf8, MakesAnyTwoBytesValid) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string bytes = {static_cast<char>(a), static_cast<char>(b)};
      ASSERT_TRUE(IsValid(ValidUtf8(bytes))) << a << " " << b;
    }
  }
}

}  // namespace
}  // namespace espalier::text
