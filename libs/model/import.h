// Import of checkpoints in Hugging Face layouts (family.h): config.json and safetensors in one file
// or in shards, in F32, F16 or BF16, with experts one by one or fused.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/model/family.h"
#include "libs/model/model.h"

namespace espalier::model {

struct ImportedModel {
  ModelFamily family = ModelFamily::kGlm4Moe;
  // aux_loss and init_std, which are no part of the function, have their defaults.
  ModelConfig config;
};

// From `directory`/config.json. InvalidArgument names the field whose value no model here computes
// (attention bias, sliding window, clipped queries, scaled rotary positions, …).
absl::StatusOr<ImportedModel> ReadImportedConfig(const std::string& directory);

// Text of `directory`/tokenizer.json. NotFound when there is none.
absl::StatusOr<std::string> ReadImportedTokenizer(const std::string& directory);

// Fills the parameters that this rank holds, whatever the rank count and placement; experts not in
// the model's layout are passed over. Moments become zero. The model was created with
// ReadImportedConfig's config (but for aux_loss and init_std). DataLoss or InvalidArgument names
// the file and the tensor that is missing, of another shape or not understood; the model's values
// are undefined then. (each rank by itself)
absl::Status ImportWeights(Model<float>& model, const std::string& directory);

}  // namespace espalier::model
