// Export in the Hugging Face layout of Glm4MoeForCausalLM: sharded safetensors, config.json,
// tokenizer.json.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "libs/model/model.h"
#include "libs/text/tokenizer.h"

namespace espalier::model {

// Writes `directory` (aside, then renamed; an existing export there is replaced). Each rank writes
// the experts it holds as shards of its own, rank 0 the rest, config.json, tokenizer.json,
// tokenizer_config.json, generation_config.json and model.safetensors.index.json. Layers with fewer
// experts than the largest are padded with zero experts whose selection bias
// (e_score_correction_bias) is so low that they can never be chosen; so are masked ones.
// FailedPrecondition when the model has no such layout (softmax router, …), saying what would.
// (collective)
absl::Status ExportGlm4Moe(Model<float>& model, const text::Tokenizer& tokenizer,
                           const std::string& directory);

}  // namespace espalier::model
