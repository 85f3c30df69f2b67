// ThreadPool: the CPU threads of one rank, and loops over them whose results do not depend on
// timing.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace espalier::base {

// `threads` - 1 helpers (threads >= 1) beside the calling thread; with one thread every loop is a
// plain call. One loop at a time: loops may be started by one thread only, and not from inside a
// loop.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls fn(begin, end) for equal contiguous shares of [0, n), at most one a thread and none
  // smaller than `grain` (but for the last). The shares depend on n, grain and threads() alone.
  template <typename Function>
  void ForRanges(int64_t n, int64_t grain, Function&& fn) {
    if (n <= 0) return;
    const int64_t shares =
        std::max<int64_t>(1, std::min<int64_t>(threads(), n / std::max<int64_t>(grain, 1)));
    if (shares == 1) {
      fn(int64_t{0}, n);
      return;
    }
    ForTasks(shares, [&](int64_t share, int) { fn(n * share / shares, n * (share + 1) / shares); });
  }

  // Calls fn(task, thread) once for every task of [0, n), in any order on any thread; 0 <= thread <
  // threads(). Tasks must write to places of their own, so that the order cannot show.
  template <typename Function>
  void ForTasks(int64_t n, Function&& fn) {
    if (n <= 0) return;
    if (helpers_.empty() || n == 1) {
      for (int64_t task = 0; task < n; ++task) fn(task, 0);
      return;
    }
    using Plain = std::remove_reference_t<Function>;
    Run(
        n,
        [](void* context, int64_t task, int thread) {
          (*static_cast<Plain*>(context))(task, thread);
        },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Call = void (*)(void* context, int64_t task, int thread);

  void Run(int64_t tasks, Call call, void* context);
  void Help(int thread);
  void TakeTasks(int thread);

  // The loop in progress: written by its owner before `round_` changes, read by helpers after they
  // saw the change.
  Call call_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_task_{0};
  std::atomic<int> busy_helpers_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> closing_{false};

  std::mutex mutex_;  // only for sleeping: helpers wait for `round_` or `closing_` to change
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
};

}  // namespace espalier::base
