// Fields are given in the spellings of transformers 4 and 5 where these differ (rope, dtype); each
// reads its own.
#include "libs/model/export_config.h"

#include <algorithm>

#include "libs/model/checkpoint_json.h"
#include "libs/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

using nlohmann::json;

// The loader sums the two best scores of each expert group, so that one expert alone cannot be
// loaded.
constexpr int kRoutedExpertsMin = 2;
// Rotary positions have no end of their own; inference engines reserve their caches by this.
constexpr int kPositionsMax = 4096;

}  // namespace

absl::StatusOr<Glm4MoeShape> ShapeForGlm4Moe(const ModelConfig& config,
                                             const ExpertLayout& layout) {
  if (config.router != RouterKind::kSigmoid) {
    return absl::FailedPreconditionError(
        "a softmax router cannot be exported as Glm4Moe, which has a sigmoid router; train with "
        "model.router: "
        "sigmoid");
  }
  Glm4MoeShape shape{.routed_experts = std::max(kRoutedExpertsMin, config.top_k)};
  for (const LayerLayout& layer : layout.layers) {
    shape.routed_experts = std::max(shape.routed_experts, static_cast<int>(layer.ids.size()));
  }
  // The loader always makes a shared expert. One without width is refused by some inference
  // engines, so that a model without gets one of zeros, which adds nothing.
  shape.shared_experts =
      std::max(1, (config.shared_expert_width + config.expert_width - 1) / config.expert_width);
  return shape;
}

absl::StatusOr<std::string> PrintGlm4MoeConfig(const ModelConfig& config,
                                               const Glm4MoeShape& shape) {
  const int dense_width =
      config.dense_width > 0 ? config.dense_width : config.top_k * config.expert_width;
  const json value = {
      {"architectures", {"Glm4MoeForCausalLM"}},
      {"model_type", "glm4_moe"},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"bos_token_id", text::Tokenizer::kBegin},
      {"eos_token_id", text::Tokenizer::kEnd},
      {"pad_token_id", text::Tokenizer::kPad},
      {"vocab_size", config.vocabulary},
      {"hidden_size", config.width},
      {"hidden_act", "silu"},
      {"num_hidden_layers", config.layers},
      {"num_attention_heads", config.heads},
      {"num_key_value_heads", config.kv_heads},
      {"head_dim", config.head_dim},
      {"use_qk_norm", false},
      {"partial_rotary_factor", 1.0},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"rope_parameters",
       {{"rope_type", "default"},
        {"rope_theta", config.rope_theta},
        {"partial_rotary_factor", 1.0}}},
      {"max_position_embeddings", kPositionsMax},
      {"rms_norm_eps", config.rms_eps},
      {"intermediate_size", dense_width},
      {"first_k_dense_replace", config.dense_layers},
      {"moe_intermediate_size", config.expert_width},
      {"n_routed_experts", shape.routed_experts},
      {"n_shared_experts", shape.shared_experts},
      {"num_experts_per_tok", config.top_k},
      {"n_group", 1},
      {"topk_group", 1},
      {"norm_topk_prob", config.normalize_top_k},
      {"routed_scaling_factor", config.routed_scaling},
      {"tie_word_embeddings", config.tie_embeddings},
      {"initializer_range", config.init_std},
      {"num_nextn_predict_layers", 0},
      {"use_cache", true},
      {"torch_dtype", "float32"},
      {"dtype", "float32"},
  };
  return PrintJson(value, 2, "config.json");
}

absl::StatusOr<std::string> PrintTokenizerConfig() {
  return PrintJson({{"tokenizer_class", "PreTrainedTokenizerFast"},
                    {"bos_token", "<|begin|>"},
                    {"eos_token", "<|end|>"},
                    {"pad_token", "<|pad|>"},
                    {"model_max_length", kPositionsMax},
                    {"clean_up_tokenization_spaces", false}},
                   2, "tokenizer_config.json");
}

absl::StatusOr<std::string> PrintGenerationConfig() {
  return PrintJson({{"bos_token_id", text::Tokenizer::kBegin},
                    {"eos_token_id", text::Tokenizer::kEnd},
                    {"pad_token_id", text::Tokenizer::kPad},
                    {"do_sample", true},
                    {"temperature", 1.0}},
                   2, "generation_config.json");
}

absl::StatusOr<std::string> PrintExpertNumbers(const ModelConfig& config,
                                               const ExpertLayout& layout,
                                               const Glm4MoeShape& shape) {
  json layers = json::array();
  for (int layer = 0; layer < config.layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    const LayerLayout& one = layout.layers[layer];
    json masked = json::array();
    for (size_t i = 0; i < one.ids.size(); ++i) {
      if (one.masked[i] != 0) masked.push_back(one.ids[i]);
    }
    layers.push_back(
        {{"layer", layer},
         {"original_ids", one.ids},
         {"masked_ids", std::move(masked)},
         {"padding_experts", shape.routed_experts - static_cast<int>(one.ids.size())}});
  }
  return PrintJson({{"experts_before_pruning", config.experts},
                    {"shared_expert_width", config.shared_expert_width},
                    {"layers", std::move(layers)}},
                   -1, "espalier_experts.json");
}

absl::StatusOr<std::string> PrintShardIndex(const std::vector<Shard>& shards) {
  json map = json::object();
  uint64_t bytes = 0;
  for (const Shard& shard : shards) {
    bytes += shard.data_bytes;
    for (const std::string& tensor : shard.tensors) map[tensor] = shard.file;
  }
  return PrintJson({{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}}, 2,
                   "model.safetensors.index.json");
}

}  // namespace espalier::model
