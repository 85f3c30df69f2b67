// Executor: one thread that runs tasks in order, so that what they share needs no lock; ReadPool: a
// few threads for reads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace espalier::coordinator {

// Thread-safe. Tasks run one after another in the order posted; after each batch of tasks that was
// waiting, `after_batch` runs once on the same thread (group commit), and `tick` at least every
// `tick_interval`. The destructor runs what is queued.
class Executor {
 public:
  // Callers from outside (RPCs) are turned away beyond this many waiting tasks.
  static constexpr size_t kWaitingMax = 16384;

  Executor(std::function<void()> after_batch, std::function<void()> tick,
           absl::Duration tick_interval);
  ~Executor();

  // For words that are bounded elsewhere (a stream reads on only when its words were handled).
  void Post(std::function<void()> task);
  // False when kWaitingMax tasks wait.
  bool TryPost(std::function<void()> task);
  // Runs the remaining tasks and ends the thread; later tasks are dropped.
  void Stop();

 private:
  void Loop();

  const std::function<void()> after_batch_;
  const std::function<void()> tick_;
  const absl::Duration tick_interval_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                     // guarded by mutex_
  std::thread thread_;
};

// Thread-safe. Runs independent tasks (store scans, planning) beside the executor.
class ReadPool {
 public:
  static constexpr size_t kWaitingMax = 1024;

  explicit ReadPool(int thread_count);
  ~ReadPool();
  // False when kWaitingMax tasks wait.
  bool TryPost(std::function<void()> task);
  // Runs the remaining tasks and ends the threads.
  void Stop();

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace espalier::coordinator
