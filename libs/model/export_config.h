// The small files of an export in the Hugging Face layout: configuration, tokenizer's
// configuration, index, expert numbers.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/model/config.h"
#include "libs/model/family.h"

namespace espalier::model {

// Sizes that the exported model has and ours does not: every layer with as many experts, a shared
// expert of whole experts' widths.
struct ExportShape {
  ModelFamily family = ModelFamily::kGlm4Moe;
  int routed_experts = 0;  // of every MoE layer
  int shared_experts = 0;  // Glm4Moe: expert widths that the shared expert takes, at least 1
};

// Experts of a layer that the router may choose.
int ChoosableCount(const LayerLayout& layer);

// FailedPrecondition for a model that the family does not have.
absl::StatusOr<ExportShape> ShapeForExport(const ModelConfig& config, const ExpertLayout& layout,
                                           ModelFamily family);

absl::StatusOr<std::string> PrintExportConfig(const ModelConfig& config, const ExportShape& shape);
absl::StatusOr<std::string> PrintTokenizerConfig();
absl::StatusOr<std::string> PrintGenerationConfig();
// Which of our experts (by original number) each exported expert is, and which of them are masked.
absl::StatusOr<std::string> PrintExpertNumbers(const ModelConfig& config,
                                               const ExpertLayout& layout,
                                               const ExportShape& shape);

// Tensors of one file of the export.
struct Shard {
  std::string file;
  uint64_t data_bytes = 0;
  std::vector<std::string> tensors;
};
absl::StatusOr<std::string> PrintShardIndex(const std::vector<Shard>& shards);

}  // namespace espalier::model
