// Changes of a run's loads: each plans one batch, all or nothing, and brings the state in memory up to it. For the sources of
// this folder. When the batch is not written, the state must be loaded again.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/history/run_state.h"
#include "libs/history/store.h"

namespace espalier::history {

// packing.cc: new steps; whole blocks become pieces at every level. Empty when all rows are repeated ones.
absl::StatusOr<std::vector<Store::Write>> PlanAppend(const Store& store, const std::string& run_id,
                                                     const std::vector<LoadRow>& rows,
                                                     RunState* state);

// truncation.cc: every row after `step` goes; what stays of its block waits again. Load the state again afterwards.
absl::StatusOr<std::vector<Store::Write>> PlanTruncate(const Store& store, const std::string& run_id,
                                                       uint64_t step, RunState state);

// expiry.cc: pieces of `level` before `step` go, as far as the next coarser level has their sums. Empty when there are none.
std::vector<Store::Write> PlanExpire(const std::string& run_id, int level, uint64_t step,
                                     RunState* state);

}  // namespace espalier::history
