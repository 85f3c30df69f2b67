// Fields are given in the spellings of transformers 4 and 5 where these differ (rope, dtype); each
// reads its own.
#include "libs/model/export_config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
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

// What an export of `family` needs and this model is not.
absl::Status Refuse(ModelFamily family, const std::string& what, const std::string& remedy) {
  return absl::FailedPreconditionError(
      absl::StrCat("a model with ", what, " cannot be exported as ", FamilyName(family), "; ", remedy));
}

absl::StatusOr<ExportShape> ShapeForGlm4Moe(const ModelConfig& config, const ExpertLayout& layout) {
  if (config.router != RouterKind::kSigmoid) {
    return absl::FailedPreconditionError(
        "a softmax router cannot be exported as Glm4Moe, which has a sigmoid router; train with "
        "model.router: "
        "sigmoid");
  }
  if (config.qk_norm == QkNorm::kFull) {
    return Refuse(ModelFamily::kGlm4Moe, "qk_norm full", "glm4_moe has none or one of each head");
  }
  ExportShape shape{.routed_experts = std::max(kRoutedExpertsMin, config.top_k)};
  for (const LayerLayout& layer : layout.layers) {
    shape.routed_experts = std::max(shape.routed_experts, static_cast<int>(layer.ids.size()));
  }
  // The loader always makes a shared expert. One without width is refused by some inference
  // engines, so that a model without gets one of zeros, which adds nothing.
  shape.shared_experts =
      std::max(1, (config.shared_expert_width + config.expert_width - 1) / config.expert_width);
  return shape;
}

absl::Status CheckSoftmaxFamily(const ModelConfig& config, ModelFamily family) {
  if (config.router != RouterKind::kSoftmax) {
    return Refuse(family, "a sigmoid router", "export it as glm4_moe");
  }
  if (config.routed_scaling != 1) {
    return Refuse(family, absl::StrCat("routed_scaling ", config.routed_scaling),
                  "train with model.routed_scaling: 1");
  }
  if (config.shared_expert_width > 0) {
    return Refuse(family, "a shared expert", "train with model.shared_expert_width: 0");
  }
  const QkNorm norm = family == ModelFamily::kOlmoe      ? QkNorm::kFull
                      : family == ModelFamily::kQwen3Moe ? QkNorm::kHead
                                                         : QkNorm::kNone;
  if (config.qk_norm != norm) {
    return Refuse(family, "another qk_norm",
                  "olmoe needs model.qk_norm: full, qwen3_moe head, mixtral none");
  }
  if (config.dense_layers > 0 && family != ModelFamily::kQwen3Moe) {
    return Refuse(family, "dense layers", "export it as qwen3_moe, or train without them");
  }
  if (family == ModelFamily::kMixtral && !config.normalize_top_k) {
    return Refuse(family, "gates that are not divided by their sum",
                  "train with model.normalize_top_k: true");
  }
  if (family == ModelFamily::kOlmoe && config.heads * config.head_dim != config.width) {
    return Refuse(family, "heads that are not width / heads wide", "export it as qwen3_moe");
  }
  return absl::OkStatus();
}

absl::StatusOr<ExportShape> ShapeForSoftmaxFamily(const ModelConfig& config,
                                                  const ExpertLayout& layout, ModelFamily family) {
  RETURN_IF_ERROR(CheckSoftmaxFamily(config, family));
  ExportShape shape{.family = family};
  for (int layer = config.dense_layers; layer < config.layers; ++layer) {
    const int count = ChoosableCount(layout.layers[layer]);
    if (shape.routed_experts == 0) shape.routed_experts = count;
    if (shape.routed_experts == count) continue;
    return Refuse(family,
                  absl::StrCat(shape.routed_experts, " experts in layer ", config.dense_layers,
                               " and ", count, " in layer ", layer),
                  "that family has as many in every layer and no bias that keeps padding from "
                  "being chosen: prune every layer alike (prune.keep_min_fraction), or train with "
                  "model.router: sigmoid and export as glm4_moe");
  }
  return shape;
}

}  // namespace

int ChoosableCount(const LayerLayout& layer) {
  return static_cast<int>(std::count(layer.masked.begin(), layer.masked.end(), 0));
}

absl::StatusOr<ExportShape> ShapeForExport(const ModelConfig& config, const ExpertLayout& layout,
                                           ModelFamily family) {
  if (family == ModelFamily::kGlm4Moe) return ShapeForGlm4Moe(config, layout);
  return ShapeForSoftmaxFamily(config, layout, family);
}

namespace {

// What the four configurations have in common.
json CommonConfig(const ModelConfig& config, const char* architecture, ModelFamily family) {
  return {
      {"architectures", {architecture}},
      {"model_type", FamilyName(family)},
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
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", config.rope_theta}}},
      {"max_position_embeddings", kPositionsMax},
      {"rms_norm_eps", config.rms_eps},
      {"num_experts_per_tok", config.top_k},
      {"tie_word_embeddings", config.tie_embeddings},
      {"initializer_range", config.init_std},
      {"use_cache", true},
      {"torch_dtype", "float32"},
      {"dtype", "float32"},
  };
}

json OlmoeConfig(const ModelConfig& config, const ExportShape& shape) {
  json value = CommonConfig(config, "OlmoeForCausalLM", shape.family);
  value.update({{"clip_qkv", nullptr},
                {"intermediate_size", config.expert_width},
                {"num_experts", shape.routed_experts},
                {"norm_topk_prob", config.normalize_top_k},
                {"output_router_logits", false},
                {"router_aux_loss_coef", config.aux_loss}});
  return value;
}

json Qwen3MoeConfig(const ModelConfig& config, const ExportShape& shape) {
  json value = CommonConfig(config, "Qwen3MoeForCausalLM", shape.family), dense = json::array();
  for (int layer = 0; layer < config.dense_layers; ++layer) dense.push_back(layer);
  value.update({{"intermediate_size", config.dense_width > 0
                                          ? config.dense_width
                                          : config.top_k * config.expert_width},
                {"moe_intermediate_size", config.expert_width},
                {"num_experts", shape.routed_experts},
                {"norm_topk_prob", config.normalize_top_k},
                {"decoder_sparse_step", 1},
                {"mlp_only_layers", dense},
                {"sliding_window", nullptr},
                {"use_sliding_window", false},
                {"output_router_logits", false},
                {"router_aux_loss_coef", config.aux_loss}});
  return value;
}

json MixtralConfig(const ModelConfig& config, const ExportShape& shape) {
  json value = CommonConfig(config, "MixtralForCausalLM", shape.family);
  value.erase("attention_bias");
  value.update({{"intermediate_size", config.expert_width},
                {"num_local_experts", shape.routed_experts},
                {"sliding_window", nullptr},
                {"router_jitter_noise", 0.0},
                {"output_router_logits", false},
                {"router_aux_loss_coef", config.aux_loss}});
  return value;
}

json Glm4MoeConfig(const ModelConfig& config, const ExportShape& shape) {
  const int dense_width =
      config.dense_width > 0 ? config.dense_width : config.top_k * config.expert_width;
  return {
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
      {"use_qk_norm", config.qk_norm == QkNorm::kHead},
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
}

}  // namespace

absl::StatusOr<std::string> PrintExportConfig(const ModelConfig& config, const ExportShape& shape) {
  const auto make = [&]() -> json {
    switch (shape.family) {
      case ModelFamily::kOlmoe:
        return OlmoeConfig(config, shape);
      case ModelFamily::kQwen3Moe:
        return Qwen3MoeConfig(config, shape);
      case ModelFamily::kMixtral:
        return MixtralConfig(config, shape);
      case ModelFamily::kGlm4Moe:
        break;
    }
    return Glm4MoeConfig(config, shape);
  };
  return PrintJson(make(), 2, "config.json");
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
                                               const ExportShape& shape) {
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
         {"padding_experts",
          shape.family == ModelFamily::kGlm4Moe
              ? shape.routed_experts - static_cast<int>(one.ids.size())
              : 0}});
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
