// EventLoop: one thread that runs tasks in order and timers when they are due; the simulated fleet
// lives on it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace espalier::fleetsim {

// Thread-safe. Tasks are unbounded: every one answers a word on a stream or a timer, of which each
// worker has a few. The destructor drops what still waits.
class EventLoop {
 public:
  using Task = std::function<void()>;

  EventLoop() : thread_([this] { Loop(); }) {}
  ~EventLoop() { Stop(); }
  void Post(Task task);
  void At(absl::Time time, Task task);
  // Runs the task on the loop and waits for it. Not from the loop itself.
  void Call(const Task& task);
  void Stop();

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Task> tasks_;                                 // guarded by mutex_
  std::map<std::pair<absl::Time, uint64_t>, Task> timers_;  // guarded; ties in order of At
  uint64_t timer_count_ = 0;                                // guarded
  bool stopping_ = false;                                   // guarded
  std::thread thread_;
};

}  // namespace espalier::fleetsim
