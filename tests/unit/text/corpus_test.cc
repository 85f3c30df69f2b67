// Goal: a corpus is refused plainly when it is unusable, its split loses nothing, and batches visit
// every window once an epoch.
#include "libs/text/corpus.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::text {
namespace {

using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const std::string& content) {
  const std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string Lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "line " + std::to_string(i) + " of the book\n";
  return text;
}

TEST(ReadCorpus, NamesAMissingFileAndTheRemedy) {
  const auto text = ReadCorpus("/no/such/corpus.txt");
  EXPECT_EQ(absl::StatusCode::kNotFound, text.status().code());
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("/no/such/corpus.txt"));
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("data.corpus"));
}

TEST(ReadCorpus, RefusesAFolder) {
  EXPECT_EQ(absl::StatusCode::kNotFound, ReadCorpus(testing::TempDir()).status().code());
}

TEST(ReadCorpus, RefusesEmptyAndTinyFiles) {
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, ReadCorpus(WriteFile("e", "")).status().code());
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, ReadCorpus(WriteFile("t", "hi\n")).status().code());
}

TEST(ReadCorpus, RefusesTextThatIsNotUtf8AndSaysWhere) {
  for (const std::string bad :
       {"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x28\xa1"}) {
    const auto text = ReadCorpus(WriteFile("u", Lines(10) + "x" + bad + "\n"));
    EXPECT_EQ(absl::StatusCode::kInvalidArgument, text.status().code());
    EXPECT_THAT(std::string(text.status().message()), HasSubstr("line 11"));
  }
}

TEST(ReadCorpus, ReadsUtf8) {
  const std::string text = Lines(10) + "né 日本 😀\n";
  EXPECT_EQ(text, ReadCorpus(WriteFile("ok", text)).value());
}

TEST(SplitCorpus, KeepsEveryLineOnOneSide) {
  const std::string text = Lines(20000);
  const CorpusSplit split = SplitCorpus(text, 0.05);
  EXPECT_EQ(text.size(), split.train.size() + split.heldout.size());
  EXPECT_NEAR(0.05, static_cast<double>(split.heldout.size()) / static_cast<double>(text.size()),
              0.01);
  EXPECT_EQ('\n', split.heldout.back());
  std::set<std::string> lines;
  for (const std::string& side : {split.train, split.heldout}) {
    size_t begin = 0;
    for (size_t end; (end = side.find('\n', begin)) != std::string::npos; begin = end + 1) {
      EXPECT_TRUE(lines.insert(side.substr(begin, end - begin)).second);
    }
  }
  EXPECT_EQ(20000, lines.size());
}

TEST(SplitCorpus, CutsTextWithoutLinesBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "日";
  const CorpusSplit split = SplitCorpus(text, 0.1);
  EXPECT_EQ(text.size(), split.train.size() + split.heldout.size());
  EXPECT_EQ(0, split.heldout.size() % 3);
  EXPECT_GT(split.heldout.size(), 0);
}

TEST(SequenceOffsets, VisitsEveryWindowOnceAnEpoch) {
  constexpr int kLength = 7, kBatch = 4;
  const int64_t tokens = 1000;
  const uint64_t windows = tokens / kLength - 1;
  std::map<int64_t, int> seen;
  for (uint64_t step = 0; step * kBatch < windows; ++step) {
    const auto offsets = SequenceOffsets(tokens, kLength, kBatch, 3, step);
    for (int i = 0; i < kBatch && step * kBatch + i < windows; ++i) ++seen[offsets[i]];
  }
  EXPECT_EQ(windows, seen.size());
  for (const auto& [offset, count] : seen) EXPECT_EQ(1, count) << offset;
}

TEST(SequenceOffsets, StaysInsideTheCorpus) {
  for (const int64_t tokens : {9, 10, 15, 16, 17, 100, 1001}) {
    for (uint64_t step = 0; step < 300; ++step) {
      for (const int64_t offset : SequenceOffsets(tokens, 8, 3, 11, step)) {
        ASSERT_GE(offset, 0);
        ASSERT_LE(offset + 8 + 1, tokens);
      }
    }
  }
}

TEST(SequenceOffsets, IsAPureFunctionAndDiffersBySeedAndEpoch) {
  EXPECT_EQ(SequenceOffsets(5000, 10, 8, 1, 4), SequenceOffsets(5000, 10, 8, 1, 4));
  EXPECT_NE(SequenceOffsets(5000, 10, 8, 1, 4), SequenceOffsets(5000, 10, 8, 2, 4));
  EXPECT_NE(SequenceOffsets(5000, 10, 499, 1, 0), SequenceOffsets(5000, 10, 499, 1, 1));
}

}  // namespace
}  // namespace espalier::text
