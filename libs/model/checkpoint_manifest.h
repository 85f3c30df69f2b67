// The manifest of a checkpoint: its state, and the size and SHA-256 of every file beside it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/model/checkpoint.h"
#include "libs/model/checkpoint_io.h"
#include "nlohmann/json_fwd.hpp"

namespace espalier::model {

inline constexpr char kManifestName[] = "manifest.json";

struct Manifest {
  CheckpointState state;
  std::vector<FileDigest> files;  // by rank of the run that wrote it
};

// "rank-00003-of-00008.safetensors"
std::string RankFileName(int rank, int rank_count);

// The manifest carries a SHA-256 of itself. InvalidArgument when a string of the state is not
// UTF-8.
absl::StatusOr<std::string> PrintManifest(const Manifest& manifest);

// DataLoss naming `source` for anything that PrintManifest would not write, a layout that cannot be
// included.
absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& source);

// Reads and parses; NotFound when there is no folder, DataLoss when it has no manifest.
absl::StatusOr<Manifest> ReadManifest(const std::string& path);

// Puts the digest into a manifest that lacks one or holds an old one.
absl::StatusOr<std::string> SealManifest(nlohmann::json manifest);

// Whether a model of one configuration can use the other's weights: everything but the knobs of
// training.
bool SameFunction(const ModelConfig& a, const ModelConfig& b);

}  // namespace espalier::model
