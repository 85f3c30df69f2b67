// SlowLog: names the traces that took long, without telling what they say.
#pragma once

#include <mutex>

#include "absl/time/time.h"
#include "espalier/v1/reward_service.pb.h"
#include "services/reward/reward_stats.h"

namespace espalier::reward {

// Thread-safe.
class SlowLog {
 public:
  // Lines a second; what is beyond is counted only.
  static constexpr int kLinesMax = 10;

  SlowLog(absl::Duration threshold, RewardStats* stats) : threshold_(threshold), stats_(stats) {}

  // Traces [begin, end) of `request`, whose scores are `scored`, took `cpu` of their thread's time.
  // Of several traces that were slow together, each is timed alone, at most once a second.
  void Look(const v1::ScoreBatchRequest& request, int begin, int end,
            const v1::ScoreBatchResponse& scored, absl::Duration cpu);
  void Look(const v1::Trace& trace, const v1::Score& score, absl::Duration cpu) {
    if (cpu >= threshold_) Write(trace, score, cpu);
  }

 private:
  void Write(const v1::Trace& trace, const v1::Score& score, absl::Duration cpu);
  bool MayWrite();
  bool MayRepeat();

  const absl::Duration threshold_;
  RewardStats* const stats_;
  std::mutex mutex_;
  absl::Time second_;  // guarded by mutex_, as all below; start of the second that lines count in
  int lines_ = 0;
  int held_back_ = 0;
  absl::Time repeat_after_;
};

// Time that this thread has run; waiting does not count.
absl::Duration ThreadTime();

}  // namespace espalier::reward
