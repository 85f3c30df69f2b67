// Retention: whole pieces go by one range deletion a layer, with the state that says so in the same
// batch. What a coarser level still has to sum stays, so reads and later packing never miss it.
#include <algorithm>

#include "libs/history/run_changes.h"

namespace espalier::history {

std::vector<Store::Write> PlanExpire(const std::string& run_id, int level, uint64_t step,
                                     RunState* state) {
  // The coarser level's pieces are whole up to here; it reads the finer level only beyond.
  const uint64_t span = kPieceSteps[std::min(level + 1, kLevelCount - 1)];
  const uint64_t end = Floor(std::min(step, Floor(state->packed_end, span)), kPieceSteps[level]);
  if (end <= state->first_kept[level]) return {};
  state->first_kept[level] = end;
  std::vector<Store::Write> writes;
  for (const auto& [layer, width] : state->widths) {
    // From 0: what an earlier expiry deleted may still take space, which is judged by the range.
    writes.push_back({Table::kLoads, PieceKey(run_id, level, layer, 0), std::nullopt,
                      PieceKey(run_id, level, layer, end)});
  }
  writes.push_back(StateWrite(run_id, *state));
  return writes;
}

}  // namespace espalier::history
