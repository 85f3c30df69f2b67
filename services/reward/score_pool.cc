// A job's turn begins where its line's last one ends, or now for a line that was idle, and lasts as
// long as the job costs; the turn that ends first runs first. Time is the work that was begun, so
// that every waiting turn is reached.
#include "services/reward/score_pool.h"

#include <algorithm>
#include <utility>

namespace espalier::reward {
namespace {

// What a job costs besides its text: a reference to parse, a message to answer.
constexpr size_t kJobCost = 512;

}  // namespace

ScorePool::ScorePool(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

ScorePool::~ScorePool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ScorePool::Submit(Line* line, std::vector<Job> jobs) {
  size_t cost = 0;
  for (const Job& job : jobs) cost += job.cost;
  {
    std::lock_guard lock(mutex_);
    if (heap_.size() + jobs.size() > kPendingMax) return false;
    // A single large request must pass when nothing else waits.
    if (!heap_.empty() && waiting_cost_ + cost > kPendingCostMax) return false;
    for (Job& job : jobs) Push(line, std::move(job));
  }
  if (jobs.size() == 1) {
    wake_.notify_one();
  } else {
    wake_.notify_all();
  }
  return true;
}

bool ScorePool::Submit(Line* line, size_t cost, std::function<void()> run) {
  std::vector<Job> jobs(1);
  jobs[0] = {cost, std::move(run)};
  return Submit(line, std::move(jobs));
}

size_t ScorePool::waiting() const {
  std::lock_guard lock(mutex_);
  return heap_.size();
}

bool ScorePool::RunsLater(const Waiting& one, const Waiting& other) {
  return one.finish != other.finish ? one.finish > other.finish : one.sequence > other.sequence;
}

void ScorePool::Push(Line* line, Job job) {
  line->finish_ = std::max(now_, line->finish_) + kJobCost + job.cost;
  waiting_cost_ += job.cost;
  heap_.push_back({line->finish_, sequence_++, job.cost, std::move(job.run)});
  std::push_heap(heap_.begin(), heap_.end(), RunsLater);
}

void ScorePool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return closing_ || !heap_.empty(); });
    if (heap_.empty()) return;
    std::pop_heap(heap_.begin(), heap_.end(), RunsLater);
    Waiting next = std::move(heap_.back());
    heap_.pop_back();
    waiting_cost_ -= next.cost;
    now_ = next.finish;
    lock.unlock();
    next.run();
    next.run = nullptr;  // what it holds goes before the lock is taken again
    lock.lock();
  }
}

}  // namespace espalier::reward
