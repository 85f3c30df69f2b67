// RewardStats: what the service did, as counters and histograms of its stages.
#pragma once

#include <array>
#include <string>

#include "absl/time/time.h"
#include "espalier/v1/reward_service.pb.h"
#include "services/reward/histogram.h"

namespace espalier::reward {

// kQueue: from a request that was read to its first part on a thread. kScore: extracting, verifying
// and scoring one part. kWrite: from the scored answer to its bytes handed over. kCall: all of it.
enum class Stage { kQueue, kScore, kWrite, kCall };
inline constexpr int kStages = 4;
const char* StageName(Stage stage);

// How requests ended. A batch of a stream is a request.
enum class Outcome { kAnswered, kInvalid, kBusy, kDraining, kExpired, kCancelled };
inline constexpr int kOutcomes = 6;
const char* OutcomeName(Outcome outcome);

// Thread-safe.
class RewardStats {
 public:
  void Record(Stage stage, absl::Duration time) { Of(stage).Record(time); }
  void Count(Outcome outcome) { outcomes_[static_cast<size_t>(outcome)].Add(); }
  void CountScores(const v1::ScoreBatchResponse& batch);
  void CountVerdict(v1::Verdict verdict);
  void CountSlow() { slow_.Add(); }

  uint64_t Read(Outcome outcome) const { return outcomes_[static_cast<size_t>(outcome)].Read(); }
  uint64_t Read(v1::Verdict verdict) const { return verdicts_[Index(verdict)].Read(); }
  uint64_t ReadSlow() const { return slow_.Read(); }
  Histogram::Snapshot Read(Stage stage) const { return stages_[static_cast<size_t>(stage)].Read(); }

  // {"requests": {"answered": 3, …}, "verdicts": {…}, "slow_samples": 0, "stages": {"queue":
  // {"count": 3, "mean_ms": …, "p50_ms": …, "p90_ms", "p99_ms", "p999_ms", "max_ms"}, …}}
  std::string Json() const;
  // The same in "name=value" words, for one line of the log.
  std::string Summary() const;

 private:
  static size_t Index(v1::Verdict verdict) { return static_cast<size_t>(verdict) % 4; }
  Histogram& Of(Stage stage) { return stages_[static_cast<size_t>(stage)]; }

  std::array<Histogram, kStages> stages_;
  std::array<Counter, kOutcomes> outcomes_;
  std::array<Counter, 4> verdicts_;  // by v1::Verdict
  Counter slow_;
};

}  // namespace espalier::reward
