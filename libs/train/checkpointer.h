// Checkpointer: where a run's checkpoints lie, when they are written, and what the trainer keeps in
// them.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/model/checkpoint.h"
#include "libs/train/run_state.h"

namespace espalier::train {

// <checkpoints.directory or data_root/runs>/<run_id>
std::string RunDirectory(const RunState& state);

std::string ProgressToJson(const Progress& progress);
// DataLoss when `json` is not what ProgressToJson wrote.
absl::Status ProgressFromJson(const std::string& json, Progress* progress);

// Used from the trainer's thread alone.
class Checkpointer {
 public:
  explicit Checkpointer(RunState& state) : state_(state) {}

  // Writes the run as it stands and returns the folder; one that holds just this already is kept as
  // it is. Old ones are pruned. An error (a full disk) is the same on every rank and leaves older
  // checkpoints alone. (collective)
  absl::StatusOr<std::string> Write();

  // Write() for a checkpoint that nobody asked for: a failure other than of the links is an event,
  // and training goes on. (collective)
  absl::Status WriteOrReport();

  // What was just loaded from `path` need not be written again.
  void NoteLoaded(const std::string& path);

 private:
  std::string Fingerprint() const;
  absl::Status WriteAside(const std::string& path);

  RunState& state_;
  std::string written_path_, written_fingerprint_;
};

}  // namespace espalier::train
