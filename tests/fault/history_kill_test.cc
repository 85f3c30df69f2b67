// Goal: a process that is killed in the middle of appends, expiry and going back leaves everything
// it acknowledged and nothing half done; damaged bytes are reported by run, layer and step. Method:
// a child does all of it at random and says what was acknowledged through a pipe; SIGKILL comes at
// a random moment; its directory is reopened and compared with a plain map.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <random>

#include "absl/time/clock.h"
#include "libs/history/keys.h"
#include "tests/unit/history/oracle.h"
#include "tests/unit/history/scratch.h"

namespace espalier::history {
namespace {

using ::testing::HasSubstr;

// What the child says: before an operation that it begins, after it that it is durable.
struct Word {
  uint64_t next = 1;                  // step to be appended next
  std::array<uint64_t, 4> expired{};  // the largest step of an expiry, by level
  uint64_t began = 0;                 // 1: `next` is what the operation under way aims at
};

[[noreturn]] void Work(const std::string& directory, int pipe_end, uint64_t seed, Word word) {
  std::mt19937_64 random(seed);
  Fixture at(directory);
  const auto say = [&](uint64_t began) {
    word.began = began;
    if (write(pipe_end, &word, sizeof word) != sizeof word) _exit(3);
  };
  while (true) {
    if (random() % 4 == 0) {
      const size_t level = random() % 4;
      const uint64_t step = random() % (word.next + 1);
      word.expired[level] = std::max(word.expired[level], step);
      say(1);
      if (!at.loads->Expire("run", LoadHistory::kResolutions[level], step).ok()) _exit(2);
      say(0);
      continue;
    }
    std::vector<LoadRow> rows;
    const uint64_t count = 1 + random() % (random() % 4 == 0 ? 700 : 20);
    for (uint64_t i = 0; i < count; ++i, ++word.next) {
      for (LoadRow& row : RowsAt(word.next)) rows.push_back(std::move(row));
    }
    say(1);
    if (!at.loads->Append("run", rows).ok()) _exit(2);
    say(0);
  }
}

TEST(HistoryKill, KeepsWhatWasAcknowledgedAndNothingHalfDone) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed + 100);
    Scratch scratch;
    Word durable;
    for (int life = 0; life < 8; ++life) {
      SCOPED_TRACE(life);
      int ends[2];
      ASSERT_EQ(pipe(ends), 0);
      const pid_t child = fork();
      if (child == 0) {
        close(ends[0]);
        Work(scratch.db(), ends[1], random(), durable);
      }
      close(ends[1]);
      // A killed write may still be durable: both ends of what was under way are allowed.
      Word word, begun = durable;
      const auto kill_at = absl::Now() + absl::Milliseconds(30 + random() % 150);
      bool killed = false;
      while (read(ends[0], &word, sizeof word) == sizeof word) {
        (word.began == 1 ? begun : durable) = word;
        if (killed || absl::Now() < kill_at) continue;
        kill(child, SIGKILL);
        killed = true;
      }
      close(ends[0]);
      int status = 0;
      waitpid(child, &status, 0);
      ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << status;

      Fixture at(scratch.db());
      ASSERT_NE(at.store, nullptr);
      std::vector<uint64_t> kept;
      for (size_t level = 0; level < 4; ++level) {
        kept.push_back(*at.loads->FirstKept("run", LoadHistory::kResolutions[level]));
        EXPECT_LE(kept.back(), std::max(durable.expired[level], begun.expired[level]));
      }
      const auto fine = at.loads->Read("run", 0, kept[0], 1u << 30, 1);
      ASSERT_TRUE(fine.ok()) << fine.status();
      const uint64_t next =
          std::max(durable.next, fine->empty() ? kept[0] : fine->back().first_step + 1);
      EXPECT_TRUE(next == durable.next || next == begun.next) << next;
      std::vector<uint64_t> steps;
      for (uint64_t step = 1; step < next; ++step) steps.push_back(step);
      ExpectHolds(*at.loads, steps, 0, 1u << 30, kept);
      durable.next = next;
      durable.expired = begun.expired;
    }
  }
}

// Overwrites the values of some keys of the run; reads must say where.
struct Place {
  char kind;  // of the key
  int level;  // of a piece
  uint32_t layer;
  const char* named;  // in the message
};

TEST(HistoryDamage, IsDataLossThatNamesRunLayerAndStepAndNothingElseSuffers) {
  const std::vector<Place> places = {{'p', 0, 1, "run r1, layer 1, step 128"},
                                     {'p', 1, 0, "run r1, layer 0, step 128"},
                                     {'p', 2, 1, "run r1, layer 1, step 256"},
                                     {'s', 0, 0, "run r1, step 641"},
                                     {'m', 0, 0, "run r1, record of its loads"}};
  for (const Place& place : places) {
    for (const bool truncated : {false, true}) {
      SCOPED_TRACE(std::string(place.named) + (truncated ? " truncated" : " overwritten"));
      Scratch scratch;
      {
        Fixture at(scratch.db());
        for (uint64_t step = 0; step < 645; ++step) {
          ASSERT_TRUE(at.loads->Append("r1", RowsAt(step)).ok());
          ASSERT_TRUE(at.loads->Append("r2", RowsAt(step)).ok());
        }
        std::string key = Key("r1") + place.kind;
        if (place.kind == 'p') {
          AppendBigEndian(&key, static_cast<uint64_t>(place.level), 1);
          AppendBigEndian(&key, place.layer, 4);
          AppendBigEndian(&key, place.level == 2 ? 256 : 128, 8);
        } else if (place.kind == 's') {
          AppendBigEndian(&key, 641, 8);
        }
        std::string value = *at.store->Get(Table::kLoads, key);
        value = truncated ? value.substr(0, value.size() - 1) : std::string(value.size(), '\xff');
        ASSERT_TRUE(at.store->Commit({{Table::kLoads, key, value}}).ok());
      }
      Fixture at(scratch.db());
      const uint32_t resolution = place.kind == 'p' ? LoadHistory::kResolutions[place.level] : 1;
      const auto status = at.loads->Read("r1", place.layer, 0, 644, resolution).status();
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(place.named));
      EXPECT_THAT(std::string(status.message()), HasSubstr("backup"));
      std::vector<uint64_t> steps;
      for (uint64_t step = 0; step < 645; ++step) steps.push_back(step);
      ExpectHolds(*at.loads, steps, 0, 1000, {0, 0, 0, 0}, "r2");
    }
  }
}

}  // namespace
}  // namespace espalier::history
