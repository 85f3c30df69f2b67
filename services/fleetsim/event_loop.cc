// EventLoop: a condition variable, a list of tasks and a sorted list of timers.
#include "services/fleetsim/event_loop.h"

#include <chrono>
#include <future>

#include "absl/time/clock.h"

namespace espalier::fleetsim {

void EventLoop::Post(Task task) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  tasks_.push_back(std::move(task));
  if (tasks_.size() == 1) wake_.notify_one();
}

void EventLoop::At(absl::Time time, Task task) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  const bool first = timers_.empty() || time < timers_.begin()->first.first;
  timers_.emplace(std::pair(time, timer_count_++), std::move(task));
  if (first) wake_.notify_one();
}

void EventLoop::Call(const Task& task) {
  std::promise<void> done;
  Post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

void EventLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Loop() {
  while (true) {
    std::vector<Task> batch;
    {
      std::unique_lock lock(mutex_);
      while (!stopping_ && tasks_.empty()) {
        const absl::Time now = absl::Now();
        if (!timers_.empty() && timers_.begin()->first.first <= now) break;
        if (timers_.empty()) {
          wake_.wait(lock);
        } else {
          wake_.wait_for(lock, absl::ToChronoMicroseconds(timers_.begin()->first.first - now));
        }
      }
      if (stopping_) return;
      batch.swap(tasks_);
      const absl::Time now = absl::Now();
      while (!timers_.empty() && timers_.begin()->first.first <= now) {
        batch.push_back(std::move(timers_.begin()->second));
        timers_.erase(timers_.begin());
      }
    }
    for (Task& task : batch) task();
  }
}

}  // namespace espalier::fleetsim
