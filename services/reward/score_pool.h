// ScorePool: the threads that score, and the bounded, fair queue before them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::reward {

// Callers take turns by the work that they bring, not by the number of their jobs (self-clocked
// fair queueing): a small job of a caller that was idle comes before the large ones that wait
// already, and none waits forever. A caller's own jobs begin in order. Any thread may submit.
// Destruction runs what was accepted, then joins.
class ScorePool {
 public:
  static constexpr size_t kPendingMax = 32768;
  static constexpr size_t kPendingCostMax = 512 << 20;

  // The turn of one caller: a stream has one for all its batches, a unary call one of its own. Use
  // with one pool; it may go before its jobs do.
  class Line {
    friend class ScorePool;
    uint64_t finish_ = 0;  // guarded by the pool's mutex
  };

  struct Job {
    size_t cost = 0;  // in bytes of text, about 40 ns each
    std::function<void()> run;
  };

  explicit ScorePool(int threads);
  ~ScorePool();
  ScorePool(const ScorePool&) = delete;
  ScorePool& operator=(const ScorePool&) = delete;

  // All of the jobs or none: false when there would wait more than kPendingMax, or jobs of more
  // than kPendingCostMax. Nothing of them will run then.
  bool Submit(Line* line, std::vector<Job> jobs);
  bool Submit(Line* line, size_t cost, std::function<void()> run);

  size_t thread_count() const { return threads_.size(); }
  size_t waiting() const;

 private:
  struct Waiting {
    uint64_t finish = 0;  // of its turn, in costs served
    uint64_t sequence = 0;
    size_t cost = 0;
    std::function<void()> run;
  };
  static bool RunsLater(const Waiting& one, const Waiting& other);
  void Push(Line* line, Job job);  // with mutex_ held
  void Work();

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Waiting> heap_;  // guarded by mutex_, as all below; the next job is in front
  size_t waiting_cost_ = 0;
  uint64_t now_ = 0;  // finish of the job that began last
  uint64_t sequence_ = 0;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace espalier::reward
