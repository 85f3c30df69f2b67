// Goal: what expires is gone, everything else reads as before, and a run may still go back. Method:
// a plain map as oracle beside the real store, every resolution read after every change, the size
// of the directory before and after.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "tests/unit/history/oracle.h"
#include "tests/unit/history/scratch.h"

namespace espalier::history {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kPieces[] = {64, 64, 256, 4096};

uint64_t Cut(uint64_t step, uint64_t span) { return step / span * span; }

// Appends steps 0..count-1 of run "run", some at a time.
void Fill(LoadHistory& loads, uint64_t count, std::vector<uint64_t>* steps) {
  std::vector<LoadRow> rows;
  for (uint64_t step = 0; step < count; ++step) {
    for (LoadRow& row : RowsAt(step)) rows.push_back(std::move(row));
    steps->push_back(step);
    if (step % 997 != 0 && step + 1 != count) continue;
    const auto status = loads.Append("run", rows);
    ASSERT_TRUE(status.ok()) << status;
    rows.clear();
  }
}

TEST(Retention, DropsWholePiecesThatACoarserResolutionHoldsAndNoOtherRow) {
  Scratch scratch;
  auto at = std::make_unique<Fixture>(scratch.db());
  std::vector<uint64_t> steps;
  Fill(*at->loads, 10000, &steps);  // packed to 9984
  for (const uint32_t resolution : LoadHistory::kResolutions) {
    EXPECT_EQ(*at->loads->FirstKept("run", resolution), 0u);
  }
  ASSERT_TRUE(at->loads->Expire("run", 1, 5000).ok());
  EXPECT_EQ(*at->loads->FirstKept("run", 1), 4992u);
  ExpectHolds(*at->loads, steps, 0, 20000, {4992, 0, 0, 0});
  for (const uint64_t none : {uint64_t{5000}, uint64_t{5055}, uint64_t{100}, uint64_t{0}}) {
    ASSERT_TRUE(at->loads->Expire("run", 1, none).ok());
    EXPECT_EQ(*at->loads->FirstKept("run", 1), 4992u);
  }
  // Beyond the last whole sum of 256 steps (9984) and of 4096 (8192) the finer rows are needed.
  ASSERT_TRUE(at->loads->Expire("run", 1, UINT64_MAX).ok());
  ASSERT_TRUE(at->loads->Expire("run", 16, UINT64_MAX).ok());
  ASSERT_TRUE(at->loads->Expire("run", 256, UINT64_MAX).ok());
  const std::vector<uint64_t> kept = {9984, 9984, 8192, 0};
  at = std::make_unique<Fixture>((at.reset(), scratch.db()));
  ExpectHolds(*at->loads, steps, 0, 20000, kept);
  ASSERT_TRUE(at->loads->Expire("run", 4096, 5000).ok());
  ExpectHolds(*at->loads, steps, 0, 20000, {9984, 9984, 8192, 4096});
  EXPECT_TRUE(absl::IsInvalidArgument(at->loads->Expire("run", 2, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(at->loads->FirstKept("run", 2).status()));
  EXPECT_TRUE(at->loads->Expire("unknown", 1, 100).ok());
  EXPECT_EQ(*at->loads->FirstKept("unknown", 1), 0u);
}

TEST(Retention, TakesAStepThatExpiredForARepeatedOne) {
  Scratch scratch;
  Fixture at(scratch.db());
  std::vector<uint64_t> steps;
  Fill(*at.loads, 700, &steps);
  ASSERT_TRUE(at.loads->Expire("run", 1, 640).ok());
  for (const uint64_t step : {0, 100, 639, 640, 699}) {
    EXPECT_TRUE(at.loads->Append("run", RowsAt(step)).ok()) << step;
  }
  ExpectHolds(*at.loads, steps, 0, 1000, {640, 0, 0, 0});
}

TEST(Retention, EqualsAPlainMapThroughAppendsExpiryTruncationAndReopening) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    Scratch scratch;
    auto at = std::make_unique<Fixture>(scratch.db());
    std::vector<uint64_t> steps, kept(4);
    uint64_t next = 1;
    for (int round = 0; round < 30; ++round) {
      switch (random() % 6) {
        case 0:
          at.reset();
          at = std::make_unique<Fixture>(scratch.db());
          break;
        case 1: {
          // Not before what the finest resolutions keep: everything stays exact there.
          const uint64_t low = Cut(*std::max_element(kept.begin(), kept.end()) + 4095, 4096);
          if (low >= next) break;
          const uint64_t to = low + random() % (next - low);
          ASSERT_TRUE(at->loads->TruncateAfter("run", to).ok());
          std::erase_if(steps, [&](uint64_t step) { return step > to; });
          next = std::min(next, to + 1);
          break;
        }
        case 2:
        case 3: {
          const size_t level = random() % 4;
          const uint64_t step = random() % (next + 2000);
          ASSERT_TRUE(at->loads->Expire("run", LoadHistory::kResolutions[level], step).ok());
          const uint64_t first = *at->loads->FirstKept("run", LoadHistory::kResolutions[level]);
          EXPECT_EQ(first % kPieces[level], 0u);
          EXPECT_GE(first, kept[level]) << "never less than before";
          EXPECT_LE(first, std::max(kept[level], step));
          kept[level] = first;
          break;
        }
        default: {
          std::vector<LoadRow> rows;
          const uint64_t count = random() % (random() % 3 == 0 ? 4500 : 90);
          for (uint64_t i = 0; i < count; ++i, ++next) {
            for (LoadRow& row : RowsAt(next)) rows.push_back(std::move(row));
            steps.push_back(next);
          }
          const auto status = at->loads->Append("run", rows);
          ASSERT_TRUE(status.ok()) << status;
        }
      }
      ExpectHolds(*at->loads, steps, 0, next + 10, kept);
      const uint64_t first = random() % (next + 1);
      ExpectHolds(*at->loads, steps, first, first + random() % 300, kept);
    }
  }
}

// A run that goes back before what is kept loses the steps of the sum that cannot be taken apart,
// and no others; it goes on as if they had never been reported.
TEST(Retention, GoingBackIntoTheExpiredLosesAtMostTheSumThatCannotBeTakenApart) {
  struct Case {
    std::vector<uint32_t> expired;  // resolutions
    uint64_t to;                    // the step gone back to
    uint64_t lost_from;
  };
  const std::vector<Case> cases = {{{1}, 5000, 4992},      // its block of 64
                                   {{1}, 4991, 4992},      // the end of a block: nothing
                                   {{1, 16}, 5000, 4864},  // its sum of 256
                                   {{1, 16}, 4863, 4864},  // nothing
                                   {{1, 16, 256}, 5000, 4096}, {{1, 16, 256}, 4095, 4096},
                                   {{16}, 5000, 4864},         {{256}, 5000, 4096}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::PrintToString(c.expired) + " back to " + std::to_string(c.to));
    Scratch scratch;
    Fixture at(scratch.db());
    std::vector<uint64_t> steps;
    Fill(*at.loads, 9000, &steps);
    for (const uint32_t resolution : c.expired) {
      ASSERT_TRUE(at.loads->Expire("run", resolution, 8192).ok());
    }
    ASSERT_TRUE(at.loads->TruncateAfter("run", c.to).ok());
    std::erase_if(steps, [&](uint64_t step) { return step >= std::min(c.lost_from, c.to + 1); });
    const auto kept = [&] {
      std::vector<uint64_t> first;
      for (const uint32_t resolution : LoadHistory::kResolutions) {
        first.push_back(*at.loads->FirstKept("run", resolution));
        EXPECT_LE(first.back(), c.to + 1);
      }
      return first;
    };
    ExpectHolds(*at.loads, steps, 0, 20000, kept());
    std::vector<LoadRow> rows;
    for (uint64_t step = c.to + 1; step < c.to + 6000; ++step) {
      for (LoadRow& row : RowsAt(step)) rows.push_back(std::move(row));
      steps.push_back(step);
    }
    ASSERT_TRUE(at.loads->Append("run", rows).ok());
    ExpectHolds(*at.loads, steps, 0, 20000, kept());
  }
}

uint64_t TableBytes(const std::string& directory) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::error_code gone;
    const uint64_t size = entry.file_size(gone);
    if (entry.path().extension() == ".sst" && !gone) bytes += size;
  }
  return bytes;
}

TEST(Retention, GivesSpaceBackByItself) {
  Scratch scratch;
  Fixture at(scratch.db());
  constexpr uint64_t kSteps = 1 << 16;
  std::mt19937_64 random(5);
  std::vector<LoadRow> rows;
  for (uint64_t step = 0; step < kSteps; ++step) {
    LoadRow row{0, step, std::vector<uint64_t>(256)};
    for (uint64_t& count : row.tokens) count = random() % 2000;
    rows.push_back(std::move(row));
    if (step % 512 != 511) continue;
    ASSERT_TRUE(at.loads->Append("run", rows).ok());
    rows.clear();
  }
  ASSERT_TRUE(at.store->Backup(scratch.db() + "_flushed").ok());  // so that all of it is in tables
  const uint64_t before = TableBytes(scratch.db());
  ASSERT_GT(before, 16u << 20);
  const auto coarse = *at.loads->ReadMatrix("run", 0, 0, kSteps, 16);
  ASSERT_TRUE(at.loads->Expire("run", 1, kSteps - 1024).ok());
  uint64_t after = before;
  for (int i = 0; i < 300 && after > before / 4; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    after = TableBytes(scratch.db());
  }
  EXPECT_LT(after, before / 4);
  EXPECT_EQ(at.loads->Read("run", 0, 0, kSteps, 1)->size(), 1024u);
  EXPECT_EQ(at.loads->ReadMatrix("run", 0, 0, kSteps, 16)->tokens, coarse.tokens);
}

TEST(Retention, ReadersSeeAllOrNothingBesideAppendsExpiryAndTruncation) {
  Scratch scratch;
  Fixture at(scratch.db());
  std::vector<uint64_t> steps;
  Fill(*at.loads, 5000, &steps);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      while (!done) {
        const uint32_t resolution = LoadHistory::kResolutions[1 + random() % 3];
        const auto rows = at.loads->ReadMatrix("run", 1, 0, 4095, resolution);
        ASSERT_TRUE(rows.ok()) << rows.status();
        const auto expected = Expected(steps, 1, 0, 4095, resolution);
        ASSERT_EQ(rows->first_steps.size(), expected.size());
        for (size_t i = 0; i < rows->first_steps.size(); ++i) {
          const auto& sum = expected.at(rows->first_steps[i]);
          ASSERT_TRUE(std::equal(sum.begin(), sum.end(), rows->tokens.begin() + i * rows->width));
        }
      }
    });
  }
  for (uint64_t step = 5000; step < 5600; ++step) {
    ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
    if (step % 50 == 0) {
      ASSERT_TRUE(at.loads->Expire("run", 1, step - 1500).ok());
    }
    if (step % 100 == 99) {
      ASSERT_TRUE(at.loads->TruncateAfter("run", step - 10).ok());
      for (uint64_t again = step - 9; again <= step; ++again) {
        ASSERT_TRUE(at.loads->Append("run", RowsAt(again)).ok());
      }
    }
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
}

}  // namespace
}  // namespace espalier::history
