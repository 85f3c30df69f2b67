// Export in the Hugging Face layout of a model family: sharded safetensors, config.json, tokenizer.json.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "libs/model/family.h"
#include "libs/model/model.h"
#include "libs/text/tokenizer.h"

namespace espalier::model {

// Writes `directory` (aside, then renamed; an existing export there is replaced). Each rank writes
// the experts it holds as shards of its own, rank 0 the rest, config.json, tokenizer.json,
// tokenizer_config.json, generation_config.json and model.safetensors.index.json.
// Glm4Moe: layers with fewer experts than the largest are padded with zero experts whose selection bias
// (e_score_correction_bias) is so low that they can never be chosen; so are masked ones.
// OLMoE, Qwen3-MoE and Mixtral have no such bias, and no row of a router is below all others for every hidden state: masked experts are
// left out, and what remains must be as many in every layer.
// FailedPrecondition when the family has no such model (another router, unequal layers, …), saying what would have.
// (collective)
absl::Status ExportHuggingFace(Model<float>& model, const text::Tokenizer& tokenizer,
                               const std::string& directory, ModelFamily family);

inline absl::Status ExportGlm4Moe(Model<float>& model, const text::Tokenizer& tokenizer,
                                  const std::string& directory) {
  return ExportHuggingFace(model, tokenizer, directory, ModelFamily::kGlm4Moe);
}

}  // namespace espalier::model
