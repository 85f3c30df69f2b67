// Goal: the queue is bounded, nothing accepted is lost, and a small caller is served soon beside
// large ones. Method: one thread held back while jobs gather, then the order in which they ran.
#include "services/reward/score_pool.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace espalier::reward {
namespace {

// Keeps the only thread of a pool busy until it goes.
class Held {
 public:
  explicit Held(ScorePool* pool) {
    EXPECT_TRUE(pool->Submit(&line_, 0, [this] {
      begun_ = true;
      while (!go_) std::this_thread::yield();
      done_ = true;
    }));
    while (!begun_) std::this_thread::yield();
  }
  ~Held() {
    go_ = true;
    while (!done_) std::this_thread::yield();
  }

 private:
  ScorePool::Line line_;
  std::atomic<bool> begun_{false}, go_{false}, done_{false};
};

TEST(ScorePool, RefusesBeyondItsBoundAndRunsWhatItTook) {
  std::atomic<size_t> ran{0};
  size_t taken = 0;
  {
    ScorePool pool(1);
    Held held(&pool);
    ScorePool::Line line;
    while (pool.Submit(&line, 1, [&] { ++ran; })) ++taken;
    EXPECT_EQ(ScorePool::kPendingMax, pool.waiting());
  }
  EXPECT_EQ(ScorePool::kPendingMax, taken);
  EXPECT_EQ(taken, ran);
}

TEST(ScorePool, BoundsTheTextThatWaitsButTakesOneLargeRequest) {
  ScorePool pool(1);
  Held held(&pool);
  ScorePool::Line line;
  EXPECT_TRUE(pool.Submit(&line, ScorePool::kPendingCostMax + 1, [] {}));
  EXPECT_FALSE(pool.Submit(&line, 1, [] {}));
}

TEST(ScorePool, TakesAllJobsOfARequestOrNone) {
  std::atomic<int> ran{0};
  {
    ScorePool pool(1);
    Held held(&pool);
    ScorePool::Line line;
    const auto jobs = [&](size_t count) {
      std::vector<ScorePool::Job> all(count);
      for (auto& job : all) job = {1, [&] { ++ran; }};
      return all;
    };
    ASSERT_TRUE(pool.Submit(&line, jobs(ScorePool::kPendingMax - 5)));
    EXPECT_FALSE(pool.Submit(&line, jobs(6)));
    EXPECT_EQ(ScorePool::kPendingMax - 5, pool.waiting());
    EXPECT_TRUE(pool.Submit(&line, jobs(5)));
  }
  EXPECT_EQ(ScorePool::kPendingMax, static_cast<size_t>(ran));
}

TEST(ScorePool, ASmallRequestComesBeforeLargeOnesThatWait) {
  std::vector<std::string> order;
  {
    ScorePool pool(1);
    Held held(&pool);
    std::vector<ScorePool::Line> large(20);
    for (ScorePool::Line& line : large) {
      for (int part = 0; part < 50; ++part) {
        ASSERT_TRUE(pool.Submit(&line, 8192, [&] { order.push_back("large"); }));
      }
    }
    ScorePool::Line small;
    ASSERT_TRUE(pool.Submit(&small, 1200, [&] { order.push_back("small"); }));
  }
  ASSERT_EQ(1001u, order.size());
  EXPECT_EQ("small", order[0]);
}

TEST(ScorePool, ManySmallCallersDoNotStarveALargeOne) {
  std::vector<std::string> order;
  ScorePool::Line large;
  std::atomic<bool> over{false};
  std::function<void()> again;
  {
    ScorePool pool(1);
    Held held(&pool);
    ASSERT_TRUE(pool.Submit(&large, 1 << 20, [&] {
      order.push_back("large");
      over = true;
    }));
    // Each small job brings the next one: there is always one that came later and costs less.
    again = [&] {
      order.push_back("small");
      if (over || order.size() > 10'000) return;
      ScorePool::Line line;
      ASSERT_TRUE(pool.Submit(&line, 1200, again));
    };
    ScorePool::Line line;
    ASSERT_TRUE(pool.Submit(&line, 1200, again));
  }
  const auto place = std::find(order.begin(), order.end(), "large") - order.begin();
  EXPECT_LT(place, 700) << "1 MiB is 612 times 1,712 bytes";
}

TEST(ScorePool, JobsOfOneLineBeginInOrder) {
  std::vector<int> order;
  {
    ScorePool pool(1);
    Held held(&pool);
    ScorePool::Line line, other;
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(pool.Submit(&line, static_cast<size_t>((i * 37) % 11) * 1000,
                              [&order, i] { order.push_back(i); }));
      ASSERT_TRUE(pool.Submit(&other, 10, [] {}));
    }
  }
  ASSERT_EQ(100u, order.size());
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

}  // namespace
}  // namespace espalier::reward
