// Goal: load history equals what was appended, at every resolution, through reopening, truncation
// and faults. Method: a plain map as oracle beside the real store; children that die by SIGKILL or
// meet a full disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <random>
#include <thread>

#include "tests/unit/history/oracle.h"
#include "tests/unit/history/scratch.h"

namespace espalier::history {
namespace {

using ::testing::HasSubstr;

TEST(LoadHistory, EqualsAPlainMapThroughAppendsGapsTruncationsAndReopening) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    Scratch scratch;
    auto at = std::make_unique<Fixture>(scratch.db());
    std::vector<uint64_t> steps;
    uint64_t next = 1;
    for (int round = 0; round < 25; ++round) {
      switch (random() % 6) {
        case 0:
          at.reset();
          at = std::make_unique<Fixture>(scratch.db());
          break;
        case 1: {
          const uint64_t back = random() % (random() % 4 == 0 ? 6000 : 200);
          const uint64_t to = next > back ? next - back : 0;
          ASSERT_TRUE(at->loads->TruncateAfter("run", to).ok());
          std::erase_if(steps, [&](uint64_t step) { return step > to; });
          next = std::min(next, to + 1);
          break;
        }
        case 2:
          if (seed % 2 == 1) next += random() % 700;
          break;
        default: {
          std::vector<LoadRow> rows;
          const uint64_t count = random() % (random() % 3 == 0 ? 2500 : 90);
          for (uint64_t i = 0; i < count; ++i, ++next) {
            for (LoadRow& row : RowsAt(next)) rows.push_back(std::move(row));
            steps.push_back(next);
          }
          const auto status = at->loads->Append("run", rows);
          ASSERT_TRUE(status.ok()) << status;
        }
      }
      ExpectHolds(*at->loads, steps, 0, next + 10);
      const uint64_t first = random() % (next + 1);
      ExpectHolds(*at->loads, steps, first, first + random() % 300);
    }
  }
}

TEST(LoadHistory, IgnoresARepeatedStepAndRefusesALateOne) {
  Scratch scratch;
  Fixture at(scratch.db());
  std::vector<uint64_t> steps;
  for (uint64_t step = 1; step <= 100; ++step) {
    if (step == 20 || step == 90) continue;
    ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
    steps.push_back(step);
  }
  for (const uint64_t repeated : {1, 63, 64, 99, 100}) {
    auto rows = RowsAt(repeated);
    rows[0].tokens[0] += 1;  // the first word counts
    EXPECT_TRUE(at.loads->Append("run", rows).ok()) << repeated;
  }
  for (const uint64_t late : {20, 90}) {
    const auto status = at.loads->Append("run", RowsAt(late));
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << late;
    EXPECT_THAT(std::string(status.message()), HasSubstr("in order"));
  }
  ExpectHolds(*at.loads, steps, 0, 200);
}

TEST(LoadHistory, NeverWritesAPackedBlockAgainForAStepLeftOutAtItsEnd) {
  Scratch scratch;
  Fixture at(scratch.db());
  std::vector<uint64_t> steps;
  for (const uint64_t step : {70, 100, 130}) {  // 101 to 127 are left out
    ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
    if (step < 130) steps.push_back(step);
  }
  ASSERT_TRUE(at.loads->TruncateAfter("run", 127).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(at.loads->Append("run", RowsAt(110))));
  ExpectHolds(*at.loads, steps, 0, 200);
  ASSERT_TRUE(at.loads->TruncateAfter("run", 105).ok());
  ASSERT_TRUE(at.loads->Append("run", RowsAt(110)).ok());
  steps.push_back(110);
  ExpectHolds(*at.loads, steps, 0, 200);
}

TEST(LoadHistory, RefusesTheSameLayerTwiceInAStepAndUnknownResolutions) {
  Scratch scratch;
  Fixture at(scratch.db());
  EXPECT_TRUE(absl::IsInvalidArgument(at.loads->Append("run", {{0, 1, {1}}, {0, 1, {2}}})));
  EXPECT_TRUE(absl::IsInvalidArgument(at.loads->Read("run", 0, 1, 2, 3).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(at.loads->Read("run", 0, 3, 2, 1).status()));
  EXPECT_TRUE(at.loads->Read("run", 0, 1, 9, 16)->empty());
}

TEST(LoadHistory, KeepsRunsWithConfusingIdsApart) {
  Scratch scratch;
  const std::vector<std::string> ids = {
      "", "a", std::string("a\0b", 3), "ab", std::string("a\0", 2), std::string("a\0\xff", 3)};
  Fixture at(scratch.db());
  for (size_t i = 0; i < ids.size(); ++i) {
    for (uint64_t step = 1; step <= 70 + i; ++step) {
      ASSERT_TRUE(at.loads->Append(ids[i], RowsAt(step)).ok());
    }
  }
  ASSERT_TRUE(at.loads->TruncateAfter("a", 3).ok());
  for (size_t i = 0; i < ids.size(); ++i) {
    std::vector<uint64_t> steps;
    for (uint64_t step = 1; step <= (ids[i] == "a" ? 3 : 70 + i); ++step) steps.push_back(step);
    ExpectHolds(*at.loads, steps, 0, 1000, {0, 0, 0, 0}, ids[i]);
  }
}

TEST(LoadHistory, ServesMoreRunsThanItKeepsInMemory) {
  Scratch scratch;
  Fixture at(scratch.db());
  for (uint64_t step = 1; step <= 70; ++step) {
    for (int run = 0; run < 40; ++run) {
      ASSERT_TRUE(at.loads->Append(std::to_string(run), RowsAt(step)).ok());
    }
    if (step == 10) step = 60;
  }
  for (int run = 0; run < 40; ++run) {
    ExpectHolds(*at.loads, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70},
                0, 99, {0, 0, 0, 0}, std::to_string(run));
  }
}

TEST(LoadHistory, ServesWritersOfManyRunsAndReadersAtOnce) {
  Scratch scratch;
  Fixture at(scratch.db());
  constexpr uint64_t kSteps = 140;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t step = 1; step <= kSteps; ++step) {
        // Two threads a run: what one wrote is a repeat to the other, never counted twice.
        const auto status = at.loads->Append(std::to_string(t / 2), RowsAt(step));
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_TRUE(at.loads->Read(std::to_string(1 - t / 2), 0, 0, step, 16).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<uint64_t> steps;
  for (uint64_t step = 1; step <= kSteps; ++step) steps.push_back(step);
  ExpectHolds(*at.loads, steps, 0, 1000, {0, 0, 0, 0}, "0");
  ExpectHolds(*at.loads, steps, 0, 1000, {0, 0, 0, 0}, "1");
}

TEST(LoadHistory, ReportsGarbageInABlockAsDataLossNamingRunAndStep) {
  Scratch scratch;
  {
    Fixture at(scratch.db());
    for (uint64_t step = 0; step < 64; ++step) {
      ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
    }
    std::vector<Store::Write> garbage;
    ASSERT_TRUE(at.store
                    ->Scan(Table::kLoads, Key("run") + 'p', Key("run") + 'q', false,
                           [&](const std::string& key, const std::string&) {
                             garbage.push_back({Table::kLoads, key, "\1\377\377\377garbage"});
                             return true;
                           })
                    .ok());
    ASSERT_EQ(garbage.size(), 4u);
    ASSERT_TRUE(at.store->Commit(garbage).ok());
  }
  Fixture at(scratch.db());
  const auto status = at.loads->Read("run", 1, 0, 63, 1).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("run run, layer 1, step 0"));
}

// Runs `body` in a child with a pipe on which it says which step was acknowledged; returns the last
// one.
template <typename Body>
uint64_t LastAcknowledged(Body body, uint64_t kill_after) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    body([&](uint64_t step) {
      if (write(ends[1], &step, sizeof step) != sizeof step) _exit(3);
    });
    _exit(0);
  }
  close(ends[1]);
  uint64_t step = 0, last = 0;
  while (read(ends[0], &step, sizeof step) == sizeof step) {
    last = step;
    if (kill_after != 0 && step >= kill_after) kill(child, SIGKILL);
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return last;
}

TEST(LoadHistory, LosesNothingAcknowledgedWhenKilled) {
  for (const uint64_t kill_after : {1, 40, 63, 64, 130, 257}) {
    SCOPED_TRACE(kill_after);
    Scratch scratch;
    const uint64_t last = LastAcknowledged(
        [&](const auto& acknowledge) {
          Fixture at(scratch.db());
          for (uint64_t step = 1;; ++step) {
            if (!at.loads->Append("run", RowsAt(step)).ok()) _exit(2);
            acknowledge(step);
          }
        },
        kill_after);
    ASSERT_GE(last, kill_after);
    Fixture at(scratch.db());
    const auto blocks = at.loads->Read("run", 0, 0, UINT64_MAX - 5000, 1);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    // One more may be durable whose word did not get out.
    ASSERT_GE(blocks->size(), last);
    ASSERT_LE(blocks->size(), last + 1);
    std::vector<uint64_t> steps;
    for (uint64_t step = 1; step <= blocks->size(); ++step) steps.push_back(step);
    ExpectHolds(*at.loads, steps, 0, 10000);
    EXPECT_TRUE(at.loads->Append("run", RowsAt(blocks->size() + 1)).ok());
  }
}

TEST(LoadHistory, SaysThatTheDiskIsFullAndKeepsWhatWasAcknowledged) {
  Scratch scratch;
  ASSERT_TRUE(Fixture(scratch.db()).store->health().ok());
  const uint64_t last = LastAcknowledged(
      [&](const auto& acknowledge) {
        signal(SIGXFSZ, SIG_IGN);
        Fixture at(scratch.db());
        const rlimit limit{64 << 10, 64 << 10};
        setrlimit(RLIMIT_FSIZE, &limit);
        for (uint64_t step = 1; step < 100000; ++step) {
          const absl::Status status = at.loads->Append("run", RowsAt(step));
          if (status.ok()) {
            acknowledge(step);
            continue;
          }
          std::vector<Store::Write> other(1);
          other[0] = {Table::kRuns, "x", std::nullopt};
          const bool sticky = !at.loads->Append("run", RowsAt(step)).ok() &&
                              !at.store->Commit(other).ok() && !at.store->health().ok();
          // The step after the last acknowledged one carries the verdict.
          acknowledge(absl::IsResourceExhausted(status) && sticky ? 1000000 + step : 2000000);
          _exit(0);
        }
      },
      0);
  ASSERT_GT(last, 1000002u);
  ASSERT_LT(last, 2000000u) << "neither ResourceExhausted nor sticky";
  const uint64_t acknowledged = last - 1000000 - 1;
  Fixture at(scratch.db());
  const auto blocks = at.loads->Read("run", 0, 0, 1000000, 1);
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  ASSERT_GE(blocks->size(), acknowledged);
  ASSERT_LE(blocks->size(), acknowledged + 1);
  for (size_t i = 0; i < blocks->size(); ++i) {
    EXPECT_EQ((*blocks)[i].tokens, TokensAt(i + 1, 0));
  }
}

}  // namespace
}  // namespace espalier::history
