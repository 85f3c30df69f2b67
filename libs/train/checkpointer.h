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

// What becomes of a checkpoint when newer ones are written.
enum class CheckpointKeep {
  kInRotation,  // it goes once checkpoints.keep newer ones are there
  kPinned,      // it stays until Unpin
};

// Used from the trainer's thread alone.
class Checkpointer {
 public:
  explicit Checkpointer(RunState& state) : state_(state) {}

  // Writes the run as it stands and returns the folder; one that holds just this already is kept as
  // it is, and for a pin also one that lacks only commands which changed nothing. Old ones are
  // pruned. An error (a full disk) is the same on every rank and leaves older checkpoints alone.
  // (collective)
  absl::StatusOr<std::string> Write(CheckpointKeep keep);

  // Returns a pinned checkpoint to the rotation. One that is not pinned any more, or gone, is no
  // error: a restart may repeat the command. InvalidArgument, with nothing touched, when `path` is
  // not one of this run's checkpoints. (collective)
  absl::Status Unpin(const std::string& path);

  // Write(kInRotation) for a checkpoint that nobody asked for: a failure other than of the links is
  // an event, and training goes on. (collective)
  absl::Status WriteOrReport();

  // What was just loaded from `path` need not be written again.
  void NoteLoaded(const std::string& path);

 private:
  // The checkpoint that this run loaded or wrote last, and what it holds.
  struct Present {
    std::string path;
    std::string progress;
    uint64_t last_applied_sequence = 0;
    model::ExpertLayout layout;
  };

  std::string Directory() const;
  bool IsOwn(const std::string& path) const;
  bool Holds(CheckpointKeep keep) const;
  void NotePresent(const std::string& path);
  // Rank 0: makes room, and says under which name the next one goes.
  absl::Status Prepare(std::string* name);
  absl::Status WriteNew(const std::string& path);
  absl::Status Rotate();

  RunState& state_;
  Present present_;
  // Loaded, and nothing written since: newer checkpoints are of a course that the run has left.
  // Like IsOwn and Holds for rank 0 to ask.
  bool went_back_ = false;
};

}  // namespace espalier::train
