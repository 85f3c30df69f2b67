// What is known of a run's loads beside its packed pieces: its newest block and where its rows begin and end. For the sources
// of this folder.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/history/pieces.h"
#include "libs/history/store.h"

namespace espalier::history {

struct RunState {
  uint64_t packed_end = 0;                          // steps below are in pieces; a multiple of kBlockSteps
  std::optional<uint64_t> newest;                   // step
  std::array<uint64_t, kLevelCount> first_kept{};   // by level; a multiple of its kPieceSteps
  std::map<uint32_t, size_t> widths;                // by layer: experts
  std::map<uint64_t, std::vector<LoadRow>> steps;   // not packed yet

  void Widen(const LoadRow& row);
};

// An unknown run is an empty one. DataLoss names the run and the step.
absl::StatusOr<RunState> LoadRunState(const Store& store, const std::string& run_id);

// The write that makes the state durable, except for the steps that wait: they are found by themselves.
Store::Write StateWrite(const std::string& run_id, const RunState& state);

LayerView ViewOf(const Store& store, const std::string& run_id, const RunState& state, uint32_t layer);

}  // namespace espalier::history
