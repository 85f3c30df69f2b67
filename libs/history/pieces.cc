// Reads pieces straight into one array; where a coarse piece is not whole yet, the finer level is
// summed.
#include "libs/history/pieces.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/history/keys.h"
#include "libs/history/load_block.h"

namespace espalier::history {

std::string StateKey(const std::string& run_id) { return Key(run_id) + 'm'; }

std::string StepKey(const std::string& run_id, uint64_t step) {
  std::string key = Key(run_id) + 's';
  AppendBigEndian(&key, step, 8);
  return key;
}

std::string StepKeysEnd(const std::string& run_id) { return Key(run_id) + 't'; }

std::string PieceKey(const std::string& run_id, int level, uint32_t layer, uint64_t first_step) {
  std::string key = Key(run_id) + 'p';
  AppendBigEndian(&key, static_cast<uint64_t>(level), 1);
  AppendBigEndian(&key, layer, 4);
  AppendBigEndian(&key, first_step, 8);
  return key;
}

uint64_t StepOfKey(std::string_view key) { return ReadBigEndian(key.substr(key.size() - 8)); }

void FoldRow(uint64_t first_step, std::span<const uint64_t> tokens, uint64_t resolution,
             LoadMatrix* sums) {
  const uint64_t first = Floor(first_step, resolution);
  if (sums->first_steps.empty() || sums->first_steps.back() != first) {
    sums->first_steps.push_back(first);
    sums->tokens.resize(sums->tokens.size() + sums->width);
  }
  uint64_t* const row = sums->tokens.data() + sums->tokens.size() - sums->width;
  for (size_t i = 0; i < tokens.size(); ++i) row[i] += tokens[i];
}

void Fold(const LoadMatrix& rows, uint64_t resolution, LoadMatrix* sums) {
  for (size_t i = 0; i < rows.first_steps.size(); ++i) {
    FoldRow(rows.first_steps[i], std::span(rows.tokens).subspan(i * rows.width, rows.width),
            resolution, sums);
  }
}

absl::Status ReadPacked(const LayerView& view, uint64_t first, uint64_t last, int level,
                        LoadMatrix* rows) {
  const uint64_t resolution = LoadHistory::kResolutions[level], span = kPieceSteps[level];
  const uint64_t begin = Floor(first, resolution);
  // A piece that became whole after the view was taken is not in it: its steps come from below.
  const uint64_t whole_end = Floor(view.packed_end, span);
  const std::string low = PieceKey(view.run_id, level, view.layer, Floor(begin, span));
  const std::string high =
      PieceKey(view.run_id, level, view.layer, std::min(Floor(last, span) + span, whole_end));
  absl::Status damage;
  const auto visit = [&](const std::string& key, const std::string& value) {
    const absl::Status status = DecodeBlock(value, begin, last, rows);
    if (status.ok()) return true;
    damage = absl::DataLossError(absl::StrCat("run ", view.run_id, ", layer ", view.layer,
                                              ", step ", StepOfKey(key), ": ", status.message()));
    return false;
  };
  if (low < high) {
    RETURN_IF_ERROR(view.store->Scan(Table::kLoads, low, high, false, visit));
    for (const Store::Write& write : view.pending) {
      if (!damage.ok()) break;
      if (write.value.has_value() && write.key >= low && write.key < high) {
        visit(write.key, *write.value);
      }
    }
    RETURN_IF_ERROR(damage);
  }
  // Beyond the last whole piece the finer level knows more.
  const uint64_t open = std::max(begin, whole_end);
  if (level < 2 || open > last || open >= view.packed_end) return absl::OkStatus();
  LoadMatrix finer{view.width, {}, {}};
  const uint64_t end = std::min(Floor(last, resolution) + resolution, view.packed_end);
  RETURN_IF_ERROR(ReadPacked(view, open, end - 1, level - 1, &finer));
  Fold(finer, resolution, rows);
  return absl::OkStatus();
}

}  // namespace espalier::history
