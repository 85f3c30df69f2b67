// ScoreEngine: requests of any door in, answers out: the pool, the parts, the deadlines, the
// statistics and the gate that a drain closes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "espalier/v1/reward_service.pb.h"
#include "services/reward/reward_stats.h"
#include "services/reward/score_pool.h"
#include "services/reward/slow_log.h"

namespace espalier::reward {

// Counts what is open, and lets nothing in once closed. Thread-safe.
class Gate {
 public:
  bool Enter();  // false once closed
  void Leave();
  void Close();
  bool closed() const;
  // Whether all that entered had left by `deadline`.
  bool WaitEmpty(absl::Time deadline);

 private:
  mutable std::mutex mutex_;
  std::condition_variable empty_;
  size_t open_ = 0;      // guarded by mutex_
  bool closed_ = false;  // guarded by mutex_
};

// When to give up work that nobody waits for. Shared by a call and by the jobs that serve it.
struct CallControl {
  absl::Time deadline = absl::InfiniteFuture();
  std::atomic<bool> cancelled{false};
  // OK, kCancelled or kDeadlineExceeded.
  absl::Status Check() const;
};

struct EngineOptions {
  int threads = 1;
  absl::Duration slow = absl::InfiniteDuration();  // traces above are logged
};

// Thread-safe. Destruction answers what was accepted.
class ScoreEngine {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  explicit ScoreEngine(const EngineOptions& options);

  // `done` is called once: here when the request cannot be queued (kResourceExhausted), else on a
  // thread of the pool. `request` must live until then. A call that is cancelled or late when its
  // turn comes is not computed. `line` is the caller's turn.
  void Answer(const v1::ScoreBatchRequest& request, std::shared_ptr<const CallControl> control,
              ScorePool::Line* line, Done<v1::ScoreBatchResponse> done);
  void Answer(const v1::ScoreTraceRequest& request, std::shared_ptr<const CallControl> control,
              ScorePool::Line* line, Done<v1::ScoreTraceResponse> done);
  void Answer(const v1::VerifyAnswerRequest& request, std::shared_ptr<const CallControl> control,
              ScorePool::Line* line, Done<v1::VerifyAnswerResponse> done);

  RewardStats& stats() { return stats_; }
  Gate& gate() { return gate_; }
  ScorePool& pool() { return pool_; }

 private:
  struct BatchWork;
  void ScorePart(BatchWork* work, size_t part);
  void Single(size_t cost, std::shared_ptr<const CallControl> control, ScorePool::Line* line,
              std::function<absl::Status()> work, std::function<void(absl::Status)> done);
  void CountEnd(const absl::Status& status);

  RewardStats stats_;
  Gate gate_;
  SlowLog slow_log_;
  ScorePool pool_;  // goes first: its jobs use the rest
};

absl::Status DrainingError();

}  // namespace espalier::reward
