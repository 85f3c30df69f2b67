// Executor and ReadPool: condition-variable queues; see the header for the contract.
#include "services/coordinator/executor.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"

namespace espalier::coordinator {

Executor::Executor(std::function<void()> after_batch, std::function<void()> tick,
                   absl::Duration tick_interval)
    : after_batch_(std::move(after_batch)),
      tick_(std::move(tick)),
      tick_interval_(tick_interval),
      thread_([this] { Loop(); }) {}

Executor::~Executor() { Stop(); }

void Executor::Post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

bool Executor::TryPost(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || tasks_.size() >= kWaitingMax) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void Executor::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Executor::Loop() {
  absl::Time next_tick = absl::Now() + tick_interval_;
  while (true) {
    std::vector<std::function<void()>> batch;
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      const auto wait = absl::ToChronoMicroseconds(next_tick - absl::Now());
      wake_.wait_for(lock, wait, [this] { return stopping_ || !tasks_.empty(); });
      batch.swap(tasks_);
      stopping = stopping_;
    }
    for (auto& task : batch) task();
    if (!stopping && absl::Now() >= next_tick) {
      tick_();
      next_tick = absl::Now() + tick_interval_;
    }
    after_batch_();
    if (stopping && batch.empty()) return;
  }
}

ReadPool::ReadPool(int thread_count) {
  for (int i = 0; i < thread_count; ++i) threads_.emplace_back([this] { Loop(); });
}

ReadPool::~ReadPool() { Stop(); }

void ReadPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

bool ReadPool::TryPost(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || tasks_.size() >= kWaitingMax) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void ReadPool::Loop() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace espalier::coordinator
