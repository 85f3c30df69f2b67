// Goal: tasks run in order on one thread, batches end once, and nothing runs after Stop.
#include "services/coordinator/executor.h"

#include <atomic>

#include "gtest/gtest.h"

namespace espalier::coordinator {
namespace {

TEST(Executor, RunsTasksOfManyThreadsOneAtATimeAndInEachOnesOrder) {
  int last[4] = {-1, -1, -1, -1};  // unguarded on purpose: the executor's thread alone touches it
  {
    Executor executor([] {}, [] {}, absl::Seconds(1));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 1000; ++i) {
          executor.Post([&, t, i] {
            EXPECT_EQ(last[t], i - 1);
            last[t] = i;
          });
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (const int n : last) EXPECT_EQ(n, 999) << "what was posted before the end runs";
}

TEST(Executor, EndsBatchesAndTicks) {
  std::atomic<int> batches = 0, ticks = 0;
  Executor executor([&] { ++batches; }, [&] { ++ticks; }, absl::Milliseconds(5));
  while (ticks < 3 || batches < 3) std::this_thread::yield();
  executor.Stop();
  const int after = batches;
  executor.Post([] { FAIL() << "ran after Stop"; });
  EXPECT_FALSE(executor.TryPost([] {}));
  EXPECT_EQ(batches, after);
}

TEST(Executor, TurnsAwayWhatItCannotHold) {
  std::atomic<bool> go = false, busy = false;
  Executor executor([] {}, [] {}, absl::Seconds(10));
  executor.Post([&] {
    busy = true;
    while (!go) std::this_thread::yield();
  });
  while (!busy) std::this_thread::yield();
  size_t taken = 0;
  while (taken < 2 * Executor::kWaitingMax && executor.TryPost([] {})) ++taken;
  EXPECT_EQ(taken, Executor::kWaitingMax);
  go = true;
}

TEST(ReadPool, RunsEverythingBeforeItEnds) {
  std::atomic<int> done = 0;
  {
    ReadPool pool(2);
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(pool.TryPost([&] { ++done; }));
  }
  EXPECT_EQ(done, 100);
}

}  // namespace
}  // namespace espalier::coordinator
