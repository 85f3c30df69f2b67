// TrainController and TraceScorer: what a trainer needs from the world outside. The worker service
// implements them over gRPC, tests in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"
#include "espalier/v1/reward_service.pb.h"

namespace espalier::train {

// How the coordinator's clock is read from this machine's.
struct TraceClockFacts {
  int64_t correction_nanos = 0;  // to be added
  int64_t error_nanos = 0;       // give or take
};

// The slow loop as the fast loop sees it: nothing here blocks on the network. Implementations are
// thread-safe.
class TrainController {
 public:
  virtual ~TrainController() = default;
  // Highest sequence number up to which this rank holds every command of the run.
  virtual uint64_t HighestContiguousSequence() const = 0;
  // The command with this number; it was received (sequence <= HighestContiguousSequence()).
  virtual v1::Command GetCommand(uint64_t sequence) const = 0;
  // Queue words for the coordinator. run_id, epoch and rank are filled in by the implementation.
  virtual void Report(v1::StepReport report) = 0;
  virtual void Ack(v1::CommandAck ack) = 0;
  virtual void Event(v1::RunEvent event) = 0;
  // True once the run must be left at once (released, fenced); the trainer returns kAborted.
  virtual bool Cancelled() const = 0;
  // Spans of a step, which may be dropped: signed like other words. Must return at once.
  virtual void Trace(v1::RankTrace trace) { (void)trace; }
  virtual TraceClockFacts Clock() const { return {}; }
};

class TraceScorer {
 public:
  virtual ~TraceScorer() = default;
  // Scores the traces of several groups (one request each). Waits, retries when the service is
  // away, and fails with kUnavailable only after its deadline.
  virtual absl::StatusOr<std::vector<v1::ScoreBatchResponse>> Score(
      const std::vector<v1::ScoreBatchRequest>& groups) = 0;
};

}  // namespace espalier::train
