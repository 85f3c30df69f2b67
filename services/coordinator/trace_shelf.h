// TraceShelf: which steps of a run have traces kept, and which of them lack a rank's spans still.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "espalier/v1/plan_service.pb.h"
#include "espalier/v1/trace.pb.h"
#include "libs/observe/span.h"

namespace espalier::coordinator {

// What of a step reaches from the first rank's begin to the last one's end.
struct StepRootSpan {
  uint64_t epoch = 0, step = 0;
  int64_t start_nanos = 0, end_nanos = 0;
  v1::TraceReason reason = v1::TRACE_REASON_UNSPECIFIED;
  std::set<uint32_t> ranks;

  observe::Span ToSpan(const std::string& run, uint32_t rank_count) const;
};

// Not thread-safe. Bounded in steps and in bytes.
class TraceShelf {
 public:
  static constexpr size_t kStepsMax = 64;
  static constexpr uint64_t kBytesMax = 64 << 20;
  // Steps that may wait for a rank before they are given up.
  static constexpr size_t kOpenMax = 4;

  // `bytes` more are kept of `step`. Returns the steps that must go for it, the oldest.
  std::vector<uint64_t> Keep(uint64_t step, uint64_t bytes);
  // A rank's spans have come. Returns the roots that are whole now, or will not be.
  std::vector<StepRootSpan> Join(const v1::RankTrace& trace, uint32_t rank_count);
  // All that is open: nothing more will come.
  std::vector<StepRootSpan> TakeOpen();

 private:
  std::map<uint64_t, uint64_t> bytes_;  // by step
  uint64_t total_bytes_ = 0;
  std::map<uint64_t, StepRootSpan> open_;  // by step
};

// InvalidArgument says what of a rank's trace contradicts itself.
absl::Status CheckTrace(const v1::RankTrace& trace, uint32_t rank_count);

// What happened of a decision and when, as far as this process saw it.
struct DecisionTimes {
  struct Apply {
    uint32_t rank = 0;
    int64_t start_nanos = 0, end_nanos = 0;
  };
  struct Command {
    std::string action;
    uint64_t epoch = 0, applied_step = 0;
    int64_t stored_nanos = 0, applied_nanos = 0;  // 0: not yet
    std::vector<Apply> applies;
  };
  int64_t asked_nanos = 0, made_nanos = 0;
  std::map<uint64_t, Command> commands;  // by sequence
};

// The whole trace of a decision that is over: propose, its commands with each rank's application,
// and what came of it.
std::vector<observe::Span> DecisionSpans(const v1::Decision& decision, const DecisionTimes& times,
                                         int64_t now_nanos);

}  // namespace espalier::coordinator
