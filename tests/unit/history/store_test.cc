// Goal: the store keeps what it acknowledged, keeps runs apart, and says what is wrong with its
// directory. Method: a real RocksDB in a scratch folder, concurrent writers, a second process,
// damaged files.
#include "libs/history/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/unit/history/scratch.h"

namespace espalier::history {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::unique_ptr<Store> MustOpen(const std::string& directory) {
  auto store = Store::Open(directory);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

std::vector<std::string> Values(const Store& store, const std::string& begin,
                                const std::string& end, bool reverse) {
  std::vector<std::string> values;
  EXPECT_TRUE(store
                  .Scan(Table::kEvents, begin, end, reverse,
                        [&](const std::string&, const std::string& value) {
                          values.push_back(value);
                          return true;
                        })
                  .ok());
  return values;
}

TEST(Keys, SortByNumberAndKeepRunsApart) {
  EXPECT_LT(Key("a", uint64_t{255}), Key("a", uint64_t{256}));
  EXPECT_LT(Key("a", uint64_t{1} << 40), Key("a", UINT64_MAX));
  const std::vector<std::string> ids = {
      "",   "a", std::string("a\0", 2), std::string("a\0b", 3), std::string("a\0\xff", 3), "a\1",
      "ab", "b"};
  for (size_t i = 0; i < ids.size(); ++i) {
    for (const std::string& inner : {Key(ids[i]), Key(ids[i], uint64_t{0}), Key(ids[i], UINT64_MAX),
                                     Key(ids[i], "\xff\xff")}) {
      EXPECT_GE(inner, Key(ids[i]));
      EXPECT_LT(inner, KeyEnd(ids[i]));
      if (i + 1 < ids.size()) {
        EXPECT_LT(inner, Key(ids[i + 1])) << i;
      }
    }
    if (i + 1 < ids.size()) {
      EXPECT_LE(KeyEnd(ids[i]), Key(ids[i + 1])) << i;
    }
  }
  EXPECT_NE(Key("a", "bc"), Key("ab", "c"));
}

TEST(Store, ScansARangeInBothDirectionsAndStopsWhenAsked) {
  Scratch scratch;
  const auto store = MustOpen(scratch.db());
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(store
                    ->Commit({{Table::kEvents, Key("a", i), absl::StrCat("a", i)},
                              {Table::kEvents, Key("ab", i), "other"}})
                    .ok());
  }
  EXPECT_THAT(Values(*store, Key("a", uint64_t{1}), Key("a", uint64_t{4}), false),
              ElementsAre("a1", "a2", "a3"));
  EXPECT_THAT(Values(*store, Key("a", uint64_t{3}), KeyEnd("a"), true), ElementsAre("a4", "a3"));
  EXPECT_EQ(Values(*store, "", "", false).size(), 10u);
  int seen = 0;
  ASSERT_TRUE(store
                  ->Scan(Table::kEvents, "", "", false,
                         [&](const auto&, const auto&) { return ++seen < 3; })
                  .ok());
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kEvents, "nothing").status()));
}

TEST(Store, LaterWritesOfABatchWinAndDeletesDelete) {
  Scratch scratch;
  {
    const auto store = MustOpen(scratch.db());
    ASSERT_TRUE(store->Commit({{Table::kRuns, "k", std::nullopt}, {Table::kRuns, "k", "1"}}).ok());
    ASSERT_TRUE(
        store->Commit({{Table::kRuns, "gone", "1"}, {Table::kRuns, "gone", std::nullopt}}).ok());
    ASSERT_TRUE(store->Commit({}).ok());
  }
  const auto store = MustOpen(scratch.db());
  EXPECT_EQ(*store->Get(Table::kRuns, "k"), "1");
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kRuns, "gone").status()));
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kEvents, "k").status())) << "tables are apart";
}

TEST(Store, JoinsConcurrentWritersAndForgetsNone) {
  Scratch scratch;
  constexpr int kThreads = 8, kWrites = 40;
  {
    const auto store = MustOpen(scratch.db());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (uint64_t i = 0; i < kWrites; ++i) {
          EXPECT_TRUE(store->Commit({{Table::kEvents, Key(absl::StrCat("t", t), i), "v"}}).ok());
          EXPECT_TRUE(store->Get(Table::kEvents, Key(absl::StrCat("t", t), i)).ok());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(store->health().ok());
  }
  const auto store = MustOpen(scratch.db());
  EXPECT_EQ(Values(*store, "", "", false).size(), size_t{kThreads} * kWrites);
}

TEST(Store, NamesTheDirectoryThatAnotherProcessHolds) {
  Scratch scratch;
  const auto store = MustOpen(scratch.db());
  const pid_t child = fork();
  if (child == 0) {
    const auto second = Store::Open(scratch.db());
    const bool right =
        absl::IsFailedPrecondition(second.status()) &&
        std::string(second.status().message()).find(scratch.db()) != std::string::npos;
    _exit(right ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(Store::Open(scratch.db()).status()));
}

std::string FileOfKind(const std::string& directory, const std::string& extension) {
  std::string largest;
  uintmax_t size = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == extension && entry.file_size() >= size) {
      largest = entry.path();
      size = entry.file_size();
    }
  }
  return largest;
}

void Fill(const std::string& directory) {
  const auto store = MustOpen(directory);
  for (uint64_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(store->Commit({{Table::kRuns, Key("r", i), std::string(300, 'x')}}).ok());
  }
}

TEST(Store, ReportsDamageInTheMiddleOfTheLog) {
  Scratch scratch;
  Fill(scratch.db());
  std::fstream log(FileOfKind(scratch.db(), ".log"),
                   std::ios::in | std::ios::out | std::ios::binary);
  log.seekp(2000);
  log << "damage";
  log.close();
  const auto store = Store::Open(scratch.db());
  EXPECT_TRUE(absl::IsDataLoss(store.status())) << store.status();
}

TEST(Store, TakesATornLastRecordForOneThatWasNeverAcknowledged) {
  Scratch scratch;
  Fill(scratch.db());
  const std::string log = FileOfKind(scratch.db(), ".log");
  fs::resize_file(log, fs::file_size(log) - 100);
  const auto store = MustOpen(scratch.db());
  ASSERT_NE(store, nullptr);
  EXPECT_TRUE(store->Get(Table::kRuns, Key("r", uint64_t{48})).ok());
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kRuns, Key("r", uint64_t{49})).status()));
}

TEST(Store, NeverStartsEmptyBesideDataWhoseIndexIsGone) {
  Scratch scratch;
  Fill(scratch.db());
  fs::remove(scratch.db() + "/CURRENT");
  const auto store = Store::Open(scratch.db());
  EXPECT_TRUE(absl::IsDataLoss(store.status())) << store.status();
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("CURRENT"));
}

TEST(Store, SaysWhyADirectoryCannotBeMade) {
  Scratch scratch;
  std::ofstream(scratch.db()) << "a file";
  const auto store = Store::Open(scratch.db());
  ASSERT_FALSE(store.ok());
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(scratch.db()));
}

}  // namespace
}  // namespace espalier::history
