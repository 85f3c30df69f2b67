// ScorePool: the threads that score, and the bounded queue before them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::reward {

// Any thread may submit. Destruction runs what was accepted, then joins.
class ScorePool {
 public:
  static constexpr size_t kPendingMax = 4096;

  explicit ScorePool(int threads);
  ~ScorePool();
  ScorePool(const ScorePool&) = delete;
  ScorePool& operator=(const ScorePool&) = delete;

  // False when kPendingMax jobs wait already: nothing will run then.
  bool Submit(std::function<void()> job);

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool closing_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace espalier::reward
