// ModelFamily: the model types of transformers whose checkpoints are read and written here.
#pragma once

#include <optional>
#include <string>

namespace espalier::model {

enum class ModelFamily { kGlm4Moe, kOlmoe, kQwen3Moe, kMixtral };

inline constexpr ModelFamily kFamilies[] = {ModelFamily::kGlm4Moe, ModelFamily::kOlmoe,
                                            ModelFamily::kQwen3Moe, ModelFamily::kMixtral};

// model_type in config.json.
inline const char* FamilyName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kGlm4Moe:
      return "glm4_moe";
    case ModelFamily::kOlmoe:
      return "olmoe";
    case ModelFamily::kQwen3Moe:
      return "qwen3_moe";
    case ModelFamily::kMixtral:
      return "mixtral";
  }
  return "";
}

inline std::optional<ModelFamily> FamilyOf(const std::string& name) {
  for (const ModelFamily family : kFamilies) {
    if (name == FamilyName(family)) return family;
  }
  return std::nullopt;
}

}  // namespace espalier::model
