// What a step's trace shows: as events for Perfetto, and as an explanation of who was late and why.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "espalier/v1/history_service.pb.h"
#include "nlohmann/json_fwd.hpp"
#include "services/cli/terminal.h"

namespace espalier::cli {

// The Trace Event Format, which Perfetto and chrome://tracing open: a process a rank, microseconds
// since the step began.
std::string PerfettoJson(const v1::GetTraceResponse& trace);

// A stretch of the critical path: what held the step up at that time. Seconds since the step began.
struct PathPart {
  uint32_t rank = 0;
  std::string phase;      // as its span is named; "other" between phases
  std::string direction;  // forward, backward; empty elsewhere
  int64_t layer = -1, tokens = -1;
  double start = 0, end = 0;
};

// Seconds that a rank came later than the quickest, summed over the step's exchanges: for more
// tokens, for taking longer over the same, and for hearing later from the others.
struct Lateness {
  uint32_t rank = 0;
  double load = 0, device = 0, network = 0;
  double wait = 0;         // within exchanges
  int64_t tokens = 0;      // rows that its experts worked on
  double clock_error = 0;  // give or take, of what compares this rank's times with others'
  double late() const { return load + device + network; }
};

struct Explanation {
  std::string run_id, stage, reason;
  uint64_t step = 0;
  double seconds = 0;
  std::vector<Lateness> ranks;
  std::vector<PathPart> path;
  std::vector<std::string> decisions;  // whose commands were applied after the step
};

// FailedPrecondition where ranks' spans do not fit together, or one's are missing.
absl::StatusOr<Explanation> ExplainTrace(const v1::GetTraceResponse& trace);

nlohmann::ordered_json ToJson(const Explanation& explanation);
std::string Render(const Explanation& explanation, const Style& style);

}  // namespace espalier::cli
