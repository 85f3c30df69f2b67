// Where a run's loads lie in the store, and how packed pieces are read. For the sources of this folder.
//
// Keys within a run: 'm' the run's state; 's' + step, a step whose block is not full; 'p' + level + layer + first step, a
// packed piece. A piece of level 0 holds the rows of 64 steps; one of level 1 the sums of the same 64 steps, so four; levels
// 2 and 3 hold one sum of 256 and 4096 steps. A piece is written once, with its block, in one batch; sums that are not
// complete yet are taken from the finer level when read.
#pragma once

#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "libs/history/store.h"

namespace espalier::history {

constexpr uint64_t kBlockSteps = 64;
constexpr int kLevelCount = std::size(LoadHistory::kResolutions);
// Steps that one piece of each level spans.
constexpr uint64_t kPieceSteps[kLevelCount] = {kBlockSteps, kBlockSteps, 256, 4096};
static_assert(kBlockSteps % LoadHistory::kResolutions[1] == 0);

constexpr uint64_t Floor(uint64_t step, uint64_t span) { return step / span * span; }

std::string StateKey(const std::string& run_id);
std::string StepKey(const std::string& run_id, uint64_t step);
std::string StepKeysEnd(const std::string& run_id);
std::string PieceKey(const std::string& run_id, int level, uint32_t layer, uint64_t first_step);
uint64_t StepOfKey(std::string_view key);  // of the keys that end with one

// Sums rows into blocks of `resolution` steps, aligned to its multiples. sums->width is the widest row's.
void FoldRow(uint64_t first_step, std::span<const uint64_t> tokens, uint64_t resolution,
             LoadMatrix* sums);
void Fold(const LoadMatrix& rows, uint64_t resolution, LoadMatrix* sums);

// One layer of a run as it was when its state said so: pieces that came later are not in it.
struct LayerView {
  const Store* store;
  std::string run_id;
  uint32_t layer;
  size_t width;                           // the widest row's
  uint64_t packed_end;                    // steps below are in pieces; a multiple of kBlockSteps
  std::span<const Store::Write> pending;  // pieces of a batch that is not written yet
};

// Appends the rows of `level` that touch first..last, of steps below packed_end. DataLoss names run, layer and step.
absl::Status ReadPacked(const LayerView& view, uint64_t first, uint64_t last, int level,
                        LoadMatrix* rows);

}  // namespace espalier::history
