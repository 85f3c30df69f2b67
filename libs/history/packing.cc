// Steps wait as small rows until their block is full, then become packed pieces at every level.
#include <map>
#include <set>
#include <span>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/history/load_block.h"
#include "libs/history/run_changes.h"

namespace espalier::history {
namespace {

// Beyond it the ends of spans would not be numbers any more.
constexpr uint64_t kStepMax = uint64_t{1} << 62;

absl::Status CheckRows(const std::string& run_id, uint64_t step, const std::vector<LoadRow>& rows) {
  if (step > kStepMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("run ", run_id, ": step ", step, "; at most 2^62 is allowed"));
  }
  std::set<uint32_t> layers;
  for (const LoadRow& row : rows) {
    if (layers.insert(row.layer).second) continue;
    return absl::InvalidArgumentError(absl::StrCat("run ", run_id, ": layer ", row.layer,
                                                   " twice in step ", step, "; send it once"));
  }
  return absl::OkStatus();
}

// Plans the batch of one append. Lives for one call.
class Appender {
 public:
  Appender(const Store& store, const std::string& run_id, RunState* state)
      : store_(store), run_id_(run_id), state_(*state) {
    for (const auto& [step, rows] : state_.steps) stored_.insert(step);
  }

  absl::Status Add(uint64_t step, std::vector<LoadRow> rows) {
    if (state_.newest.has_value() && step <= *state_.newest) return CheckRepeated(step, rows);
    RETURN_IF_ERROR(CheckRows(run_id_, step, rows));
    if (!state_.steps.empty() &&
        step >= Floor(state_.steps.begin()->first, kBlockSteps) + kBlockSteps) {
      RETURN_IF_ERROR(Pack(Floor(step, kBlockSteps)));
    }
    for (const LoadRow& row : rows) state_.Widen(row);
    state_.newest = step;
    state_.steps[step] = std::move(rows);
    if (step % kBlockSteps == kBlockSteps - 1) return Pack(step + 1);
    return absl::OkStatus();
  }

  std::vector<Store::Write> Finish() {
    for (const auto& [step, rows] : state_.steps) {
      if (stored_.contains(step)) continue;
      writes_.push_back({Table::kLoads, StepKey(run_id_, step), EncodeStep(rows)});
    }
    return std::move(writes_);
  }

 private:
  // OK when the step is recorded; one that is old but new to us came too late. What expired cannot
  // be told from what was never there.
  absl::Status CheckRepeated(uint64_t step, const std::vector<LoadRow>& rows) const {
    if (state_.steps.contains(step) || step < state_.first_kept[0]) return absl::OkStatus();
    if (step < state_.packed_end) {
      const LayerView view = ViewOf(store_, run_id_, state_, rows.front().layer);
      LoadMatrix known{view.width, {}, {}};
      RETURN_IF_ERROR(ReadPacked(view, step, step, 0, &known));
      if (!known.first_steps.empty()) return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat("run ", run_id_, ": step ", step, " comes after step ", *state_.newest,
                     " was recorded; append steps in order, or truncate first"));
  }

  // Turns the waiting steps into pieces at all levels; `end` becomes packed_end.
  absl::Status Pack(uint64_t end) {
    const uint64_t block = Floor(state_.steps.begin()->first, kBlockSteps);
    const size_t earlier = writes_.size();  // pieces of blocks before, in the same batch
    std::map<uint32_t, LoadMatrix> fine;
    for (const auto& [layer, width] : state_.widths) fine[layer].width = width;
    for (const auto& [step, rows] : state_.steps) {
      for (const LoadRow& row : rows) FoldRow(step, row.tokens, 1, &fine[row.layer]);
      if (stored_.erase(step) > 0) {
        writes_.push_back({Table::kLoads, StepKey(run_id_, step), std::nullopt});
      }
    }
    state_.steps.clear();
    for (const auto& [layer, rows] : fine) {
      RETURN_IF_ERROR(PackLayer(layer, block, end, rows, earlier));
    }
    state_.packed_end = end;
    writes_.push_back(StateWrite(run_id_, state_));
    return absl::OkStatus();
  }

  absl::Status PackLayer(uint32_t layer, uint64_t block, uint64_t end, const LoadMatrix& fine,
                         size_t earlier) {
    LoadMatrix sums{fine.width, {}, {}};
    if (!fine.first_steps.empty()) {
      Put(0, layer, block, fine);
      Fold(fine, LoadHistory::kResolutions[1], &sums);
      Put(1, layer, block, sums);
    }
    for (int level = 2; level < kLevelCount; ++level) {
      const uint64_t span = kPieceSteps[level];
      // The span that was open and the one of this block; with steps left out they may differ.
      std::set<uint64_t> spans = {Floor(block, span)};
      if (state_.packed_end > 0) spans.insert(Floor(state_.packed_end - 1, span));
      for (const uint64_t first : spans) {
        if (first + span > end || first + span <= state_.packed_end) continue;
        LoadMatrix whole{fine.width, {}, {}};
        RETURN_IF_ERROR(SumBefore(layer, first, level, earlier, &whole));
        if (Floor(block, span) == first) Fold(sums, span, &whole);
        if (!whole.first_steps.empty()) Put(level, layer, first, whole);
      }
    }
    return absl::OkStatus();
  }

  // What the span from `first` holds of blocks before this one.
  absl::Status SumBefore(uint32_t layer, uint64_t first, int level, size_t earlier,
                         LoadMatrix* whole) const {
    if (state_.packed_end <= first) return absl::OkStatus();
    LayerView view = ViewOf(store_, run_id_, state_, layer);
    view.pending = std::span(writes_).first(earlier);
    LoadMatrix before{view.width, {}, {}};
    RETURN_IF_ERROR(ReadPacked(view, first, state_.packed_end - 1, level - 1, &before));
    Fold(before, kPieceSteps[level], whole);
    return absl::OkStatus();
  }

  void Put(int level, uint32_t layer, uint64_t first, const LoadMatrix& rows) {
    writes_.push_back({Table::kLoads, PieceKey(run_id_, level, layer, first), EncodeBlock(rows)});
  }

  const Store& store_;
  const std::string& run_id_;
  RunState& state_;
  std::set<uint64_t> stored_;  // waiting steps that the store holds already
  std::vector<Store::Write> writes_;
};

}  // namespace

absl::StatusOr<std::vector<Store::Write>> PlanAppend(const Store& store, const std::string& run_id,
                                                     const std::vector<LoadRow>& rows,
                                                     RunState* state) {
  std::map<uint64_t, std::vector<LoadRow>> by_step;
  for (const LoadRow& row : rows) by_step[row.step].push_back(row);
  Appender appender(store, run_id, state);
  for (auto& [step, of_step] : by_step) {
    RETURN_IF_ERROR(appender.Add(step, std::move(of_step)));
  }
  return appender.Finish();
}

}  // namespace espalier::history
