// The state is stored as a "step" of its own: a row a layer with {packed end, last packed step,
// width, first kept step of each level}. Rows from before retention have the first three only.
#include "libs/history/run_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/history/load_block.h"

namespace espalier::history {
namespace {

constexpr size_t kFieldsBeforeRetention = 3;

absl::Status ReadStateRow(const std::string& run_id, const LoadRow& row, RunState* state) {
  const std::vector<uint64_t>& fields = row.tokens;
  bool sound = fields.size() == kFieldsBeforeRetention ||
               fields.size() == kFieldsBeforeRetention + kLevelCount;
  sound = sound && fields[0] % kBlockSteps == 0;
  for (size_t i = kFieldsBeforeRetention; sound && i < fields.size(); ++i) {
    const size_t level = i - kFieldsBeforeRetention;
    sound = fields[i] % kPieceSteps[level] == 0 && fields[i] <= fields[0];
    state->first_kept[level] = fields[i];
  }
  if (!sound) {
    return absl::DataLossError(absl::StrCat("run ", run_id, ", layer ", row.layer,
                                            ": the record of its loads is damaged; restore the "
                                            "directory from a backup"));
  }
  state->packed_end = fields[0];
  // A step left out at the end of a packed block cannot come any more: its piece is written.
  if (state->packed_end > 0) state->newest = state->packed_end - 1;
  state->widths[row.layer] = fields[2];
  return absl::OkStatus();
}

absl::Status ReadState(const Store& store, const std::string& run_id, RunState* state) {
  const absl::StatusOr<std::string> stored = store.Get(Table::kLoads, StateKey(run_id));
  if (absl::IsNotFound(stored.status())) return absl::OkStatus();
  RETURN_IF_ERROR(stored.status());
  const absl::StatusOr<std::vector<LoadRow>> rows = DecodeStep(0, *stored);
  if (!rows.ok()) {
    return absl::DataLossError(
        absl::StrCat("run ", run_id, ", record of its loads: ", rows.status().message()));
  }
  for (const LoadRow& row : *rows) RETURN_IF_ERROR(ReadStateRow(run_id, row, state));
  return absl::OkStatus();
}

}  // namespace

void RunState::Widen(const LoadRow& row) {
  size_t& width = widths[row.layer];
  width = std::max(width, row.tokens.size());
}

absl::StatusOr<RunState> LoadRunState(const Store& store, const std::string& run_id) {
  RunState state;
  RETURN_IF_ERROR(ReadState(store, run_id, &state));
  absl::Status damage;
  RETURN_IF_ERROR(store.Scan(Table::kLoads, StepKey(run_id, 0), StepKeysEnd(run_id), false,
                             [&](const std::string& key, const std::string& value) {
                               const uint64_t step = StepOfKey(key);
                               auto rows = DecodeStep(step, value);
                               if (!rows.ok()) {
                                 damage = absl::DataLossError(
                                     absl::StrCat("run ", run_id, ", step ", step, ": ",
                                                  rows.status().message()));
                                 return false;
                               }
                               state.newest = std::max(state.newest.value_or(0), step);
                               for (const LoadRow& row : *rows) state.Widen(row);
                               state.steps[step] = *std::move(rows);
                               return true;
                             }));
  RETURN_IF_ERROR(damage);
  return state;
}

Store::Write StateWrite(const std::string& run_id, const RunState& state) {
  std::vector<LoadRow> rows;
  for (const auto& [layer, width] : state.widths) {
    LoadRow row{
        layer,
        0,
        {state.packed_end, state.packed_end - std::min<uint64_t>(1, state.packed_end), width}};
    row.tokens.insert(row.tokens.end(), state.first_kept.begin(), state.first_kept.end());
    rows.push_back(std::move(row));
  }
  return {Table::kLoads, StateKey(run_id), EncodeStep(rows)};
}

LayerView ViewOf(const Store& store, const std::string& run_id, const RunState& state,
                 uint32_t layer) {
  const auto width = state.widths.find(layer);
  return {&store,           run_id, layer, width == state.widths.end() ? 0 : width->second,
          state.packed_end, {}};
}

}  // namespace espalier::history
