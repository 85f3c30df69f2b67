// Checkpoints: a model with its optimizer moments and layout in a folder of safetensors files and a
// manifest.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/model/model.h"

namespace espalier::model {

// What a checkpoint holds beside the tensors.
struct CheckpointState {
  ModelConfig config;
  ExpertLayout layout;                 // ranks of the run that wrote it; masks included
  uint64_t step = 0;                   // steps finished
  uint64_t last_applied_sequence = 0;  // commands up to here are contained
  std::string tokenizer_json;
  std::string trainer_json;  // opaque to this layer
};

// Writes `path` (a folder that must not exist yet): every rank its file beside the others in
// `path`.tmp, synced, each with a SHA-256 or CRC-32C in the manifest; then rank 0 writes the
// manifest and renames. A failure (disk full) leaves no `path` behind, removes the partial folder
// and is the same error on every rank. (collective)
absl::Status WriteCheckpoint(Model<float>& model, const CheckpointState& state,
                             const std::string& path);

// Manifest alone. NotFound, or DataLoss naming the file that is damaged or missing.
absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& path);

// Fills the model's parameters and moments from `path`; the model was created with the same config
// and experts alive, over any number of ranks and any placement. Every file read is checked against
// its checksum: DataLoss names it. (each rank by itself)
absl::Status LoadCheckpoint(Model<float>& model, const std::string& path);

// The same experts spread over another number of ranks: unchanged when it fits, else equal
// contiguous shares.
ExpertLayout FitLayout(const ExpertLayout& layout, int rank_count);

// "step-00000042"; a second one of the same step is "step-00000042.2".
std::string CheckpointName(uint64_t step, uint64_t revision = 1);
// Path in `directory` for a new checkpoint of `step`: after all of that step which are there.
std::string NextCheckpointPath(const std::string& directory, uint64_t step);
// Whether `path` lies directly in `directory` under the name of a checkpoint; it need not exist.
bool IsCheckpointPath(const std::string& directory, const std::string& path);

// Newest complete checkpoint in `directory`, or "" when there is none; partial ones are skipped.
std::string NewestCheckpoint(const std::string& directory);

// A pinned checkpoint is passed over by PruneCheckpoints until it is unpinned. The pin is a synced
// file in the checkpoint's folder, so it outlives processes. Both are idempotent; to unpin what is
// gone is no error.
absl::Status PinCheckpoint(const std::string& path);
absl::Status UnpinCheckpoint(const std::string& path);
bool IsPinned(const std::string& path);

// Removes all but the newest `keep` complete ones, older ones of the same step, and leftovers of
// interrupted writes older than the newest. Those pinned, and those newer than `present` (when
// given), are neither counted nor removed.
absl::Status PruneCheckpoints(const std::string& directory, int keep,
                              const std::string& present = "");
// Removes those newer than `present`, pinned or not: a run that went back to it has left the course
// on which they were written.
absl::Status RemoveNewerCheckpoints(const std::string& directory, const std::string& present);

}  // namespace espalier::model
