// Going back: every piece that reaches beyond the step is taken back; what stays of its block waits
// again, and the open sums of coarser levels come from finer pieces. Where those have expired, the
// cut moves down to where no sum has to be taken apart.
#include <algorithm>
#include <map>

#include "libs/base/status_macros.h"
#include "libs/history/load_block.h"
#include "libs/history/run_changes.h"
#include "libs/observe/log.h"

namespace espalier::history {
namespace {

// First step that is lost when everything from `end` on is to go: at most `end`.
uint64_t CutFor(const RunState& state, uint64_t end) {
  uint64_t cut = end;
  // A block taken apart needs its fine rows.
  const uint64_t block = Floor(cut, kBlockSteps);
  if (cut != block && state.first_kept[0] > block) cut = block;
  // A sum of level 2 or 3 that is open again needs the level below it from its beginning.
  for (int level = 2; level < kLevelCount; ++level) {
    const uint64_t open = Floor(cut, kPieceSteps[level]);
    const bool needed = Floor(cut, kPieceSteps[level - 1]) != open;
    if (needed && state.first_kept[level - 1] > open) cut = open;
  }
  return cut;
}

absl::Status KeepFineRows(const Store& store, const std::string& run_id, uint64_t block,
                          uint64_t cut, const RunState& state,
                          std::map<uint64_t, std::vector<LoadRow>>* kept) {
  if (block == cut) return absl::OkStatus();
  for (const auto& [layer, width] : state.widths) {
    LoadMatrix rows{width, {}, {}};
    RETURN_IF_ERROR(ReadPacked(ViewOf(store, run_id, state, layer), block, cut - 1, 0, &rows));
    for (size_t i = 0; i < rows.first_steps.size(); ++i) {
      const auto first = rows.tokens.begin() + static_cast<ptrdiff_t>(i * width);
      (*kept)[rows.first_steps[i]].push_back(
          {layer, rows.first_steps[i], {first, first + static_cast<ptrdiff_t>(width)}});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Store::Write>> PlanTruncate(const Store& store,
                                                       const std::string& run_id, uint64_t step,
                                                       RunState state) {
  std::vector<Store::Write> writes;
  for (const auto& [waiting, rows] : state.steps) {
    if (waiting > step) writes.push_back({Table::kLoads, StepKey(run_id, waiting), std::nullopt});
  }
  if (state.packed_end <= step + 1) return writes;
  const uint64_t cut = CutFor(state, step + 1);
  if (cut != step + 1) {
    LOG(WARNING) << "history_loads_lost run=" << run_id << " first_step=" << cut
                 << " last_step=" << step << " cause=the rows that tell them apart have expired";
  }
  const uint64_t block = Floor(cut, kBlockSteps);
  std::map<uint64_t, std::vector<LoadRow>> kept;
  RETURN_IF_ERROR(KeepFineRows(store, run_id, block, cut, state, &kept));
  for (int level = 0; level < kLevelCount; ++level) {
    const uint64_t first = Floor(cut, kPieceSteps[level]);
    for (const auto& [layer, width] : state.widths) {
      writes.push_back({Table::kLoads, PieceKey(run_id, level, layer, first), std::nullopt,
                        PieceKey(run_id, level, layer, UINT64_MAX)});
    }
    state.first_kept[level] = std::min(state.first_kept[level], first);
  }
  for (const auto& [kept_step, rows] : kept) {
    writes.push_back({Table::kLoads, StepKey(run_id, kept_step), EncodeStep(rows)});
  }
  state.packed_end = block;
  writes.push_back(StateWrite(run_id, state));
  return writes;
}

}  // namespace espalier::history
