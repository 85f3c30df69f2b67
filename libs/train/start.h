// Start: what a run takes from a checkpoint in Hugging Face layout (model.start_from) instead of
// random weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libs/model/config.h"
#include "libs/train/run_state.h"

namespace espalier::train {

struct Start {
  std::string directory;
  model::ModelConfig config;
  std::string tokenizer_json;
};

// Reads the folder that spec.model().start_from names, which every rank sees, and checks it against
// the spec. InvalidArgument, the same on every rank, says what does not agree or cannot be read.
// (collective)
absl::StatusOr<Start> ReadStart(RunState& state);

}  // namespace espalier::train
