// Goal: a backup holds every write acknowledged before it began, opens like any store, and is whole
// or absent. Method: writers beside the backup; targets that cannot be; a child killed while it
// backs up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/unit/history/oracle.h"
#include "tests/unit/history/scratch.h"

namespace espalier::history {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

TEST(Backup, HoldsEverythingAcknowledgedBeforeItBeganWhileWritersGoOn) {
  Scratch scratch;
  Fixture at(scratch.db());
  std::atomic<uint64_t> acknowledged = 0, events = 0;
  std::atomic<bool> done = false;
  std::thread loads([&] {
    for (uint64_t step = 1; !done; ++step) {
      ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
      acknowledged = step;
    }
  });
  std::thread pairs([&] {
    for (uint64_t i = 1; !done; ++i) {  // two tables, always together
      ASSERT_TRUE(at.store
                      ->Commit({{Table::kEvents, Key("run", i), std::string(500, 'e')},
                                {Table::kCommands, Key("run", i), std::string(500, 'c')}})
                      .ok());
      events = i;
    }
  });
  for (int i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    absl::SleepFor(absl::Milliseconds(150));
    const uint64_t steps_before = acknowledged, events_before = events;
    const std::string target = absl::StrCat(scratch.db(), "_backup", i);
    const absl::Status status = at.store->Backup(target);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_FALSE(fs::exists(target + ".unfinished"));
    Fixture copy(target);
    const auto rows = copy.loads->ReadMatrix("run", 0, 0, 1u << 30, 1);
    ASSERT_TRUE(rows.ok()) << rows.status();
    EXPECT_GE(rows->first_steps.size(), steps_before);
    std::vector<uint64_t> steps;
    for (uint64_t step = 1; step <= rows->first_steps.size(); ++step) steps.push_back(step);
    ExpectHolds(*copy.loads, steps, 0, 1u << 30);
    uint64_t found = 0;
    ASSERT_TRUE(copy.store
                    ->Scan(Table::kEvents, Key("run"), KeyEnd("run"), false,
                           [&](const std::string& key, const std::string&) {
                             EXPECT_EQ(key, Key("run", ++found));
                             EXPECT_TRUE(copy.store->Get(Table::kCommands, key).ok());
                             return true;
                           })
                    .ok());
    EXPECT_GE(found, events_before);
    EXPECT_TRUE(
        absl::IsNotFound(copy.store->Get(Table::kCommands, Key("run", found + 1)).status()));
    // The copy is a store of its own: what is written there does not show here.
    ASSERT_TRUE(copy.store->Commit({{Table::kRuns, "copy", "only"}}).ok());
    EXPECT_TRUE(absl::IsNotFound(at.store->Get(Table::kRuns, "copy").status()));
  }
  done = true;
  loads.join();
  pairs.join();
  EXPECT_TRUE(at.store->health().ok());
}

TEST(Backup, SharesTablesOnOneFilesystemAndOutlivesTheOriginal) {
  Scratch scratch;
  {
    Fixture at(scratch.db());
    for (uint64_t step = 1; step <= 300; ++step) {
      ASSERT_TRUE(at.loads->Append("run", RowsAt(step)).ok());
    }
    ASSERT_TRUE(at.store->Backup(scratch.db() + "_copy/").ok());
    int shared = 0;
    for (const auto& entry : fs::directory_iterator(scratch.db() + "_copy")) {
      shared += entry.path().extension() == ".sst" && fs::hard_link_count(entry.path()) == 2;
    }
    EXPECT_GT(shared, 0);
  }
  fs::remove_all(scratch.db());
  Fixture copy(scratch.db() + "_copy");
  EXPECT_EQ(copy.loads->Read("run", 0, 0, 1000, 1)->size(), 300u);
}

TEST(Backup, RefusesTargetsThatCannotBeAndSaysWhy) {
  Scratch scratch;
  Fixture at(scratch.db());
  const auto refused = [&](const std::string& target, absl::StatusCode code,
                           const std::string& why) {
    const absl::Status status = at.store->Backup(target);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    EXPECT_THAT(std::string(status.message()), HasSubstr(target));
  };
  fs::create_directory(scratch.db() + "_there");
  std::ofstream(scratch.db() + "_file") << "x";
  fs::create_symlink("/nowhere", scratch.db() + "_link");
  refused(scratch.db() + "_there", absl::StatusCode::kAlreadyExists, "exists already");
  refused(scratch.db() + "_file", absl::StatusCode::kAlreadyExists, "exists already");
  refused(scratch.db() + "_link", absl::StatusCode::kAlreadyExists, "exists already");
  refused(scratch.db() + "_no/such", absl::StatusCode::kFailedPrecondition, "make it first");
  refused(scratch.db() + "/inside", absl::StatusCode::kInvalidArgument, "choose one outside");
  refused("", absl::StatusCode::kInvalidArgument, "empty");
  // A folder that only looks like what a backup left is not removed.
  fs::create_directory(scratch.db() + "_new.unfinished");
  std::ofstream(scratch.db() + "_new.unfinished/thesis.txt") << "x";
  refused(scratch.db() + "_new", absl::StatusCode::kFailedPrecondition, "thesis.txt");
  EXPECT_TRUE(fs::exists(scratch.db() + "_new.unfinished/thesis.txt"));
  EXPECT_TRUE(at.store->health().ok()) << "a refused backup harms no writes";
}

TEST(Backup, KilledOnTheWayLeavesNothingThatLooksWholeAndTheNextOneSucceeds) {
  for (const int delay_us : {0, 300, 1000, 3000, 8000}) {
    SCOPED_TRACE(delay_us);
    Scratch scratch;
    const std::string target = scratch.db() + "_copy";
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      Fixture at(scratch.db());
      for (uint64_t step = 1; step <= 200; ++step) {
        if (!at.loads->Append("run", RowsAt(step)).ok()) _exit(2);
      }
      if (write(ends[1], "g", 1) != 1) _exit(3);
      const bool ok = at.store->Backup(target).ok();
      pause();
      _exit(ok ? 0 : 1);
    }
    char go;
    ASSERT_EQ(read(ends[0], &go, 1), 1);
    absl::SleepFor(absl::Microseconds(delay_us));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(ends[0]);
    close(ends[1]);
    if (fs::exists(target)) {
      Fixture copy(target);
      EXPECT_EQ(copy.loads->Read("run", 1, 0, 1000, 1)->size(), 200u);
      fs::remove_all(target);
    }
    Fixture at(scratch.db());
    ASSERT_TRUE(at.store->Backup(target).ok());
    EXPECT_FALSE(fs::exists(target + ".unfinished"));
    EXPECT_EQ(Fixture(target).loads->Read("run", 1, 0, 1000, 1)->size(), 200u);
  }
}

}  // namespace
}  // namespace espalier::history
