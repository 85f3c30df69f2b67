// config.json of four model types. A field that changes the function is either mapped or refused by
// name; others are passed over.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/model/batch.h"
#include "libs/model/checkpoint_io.h"
#include "libs/model/checkpoint_json.h"
#include "libs/model/import.h"
#include "nlohmann/json.hpp"

namespace espalier::model {
namespace {

using nlohmann::json;

constexpr uint64_t kConfigBytesMax = uint64_t{16} << 20;
constexpr uint64_t kTokenizerBytesMax = uint64_t{256} << 20;
constexpr int kDepthMax = 16;
constexpr int kVocabularyMax =
    1 << 24;  // many times the largest; an embedding is allocated before its file is looked at

// Fields of config.json; the first problem is kept. A field that is null counts as absent, as it
// does to transformers.
class ConfigFields {
 public:
  ConfigFields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const absl::Status& status() const { return status_; }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what));
  }

  const json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  // Of the first name that is there. With a fallback it may be absent.
  int Int(std::initializer_list<const char*> names, int least, int fallback = -1) {
    for (const char* name : names) {
      const json* value = Find(name);
      if (value == nullptr) continue;
      if (!value->is_number_integer() || value->get<double>() < least ||
          value->get<double>() > std::numeric_limits<int>::max()) {
        Fail(absl::StrCat(name, " is ", value->dump(), "; it must be a whole number of at least ",
                          least));
        return least;
      }
      return value->get<int>();
    }
    if (fallback < 0) Fail(absl::StrCat(*names.begin(), " is missing"));
    return fallback;
  }
  double Positive(const char* name) {
    const json* value = Find(name);
    if (value == nullptr) {
      Fail(absl::StrCat(name, " is missing"));
      return 1;
    }
    return PositiveOf(name, *value);
  }
  double PositiveOf(const char* name, const json& value) {
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      Fail(absl::StrCat(name, " is ", value.dump(), "; it must be a number above 0"));
      return 1;
    }
    return value.get<double>();
  }
  bool Bool(const char* name, bool fallback) {
    const json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean())
      Fail(absl::StrCat(name, " is ", value->dump(), "; it must be true or false"));
    return value->is_boolean() && value->get<bool>();
  }
  // The only value that is computed here; absent means it, unless the field is `needed`.
  void Only(const char* name, const json& value, const char* why, bool needed = false) {
    const json* found = Find(name);
    if (found == nullptr && !needed) return;
    if (found != nullptr && *found == value) return;
    Fail(absl::StrCat(name, found == nullptr ? " is missing" : " is " + found->dump(), "; only ",
                      value.dump(), " can be imported: ", why));
  }
  void Absent(const char* name, const char* why) {
    if (const json* found = Find(name)) {
      Fail(absl::StrCat(name, " is ", found->dump(), "; only null can be imported: ", why));
    }
  }

 private:
  const json& object_;
  const std::string where_;
  absl::Status status_;
};

// transformers 5 writes rope_parameters, transformers 4 rope_theta and rope_scaling.
void ReadRope(ConfigFields& fields, bool needs_whole, ModelConfig& config) {
  static const json kNone = json::object();
  const json* parameters = fields.Find("rope_parameters");
  if (parameters == nullptr) parameters = fields.Find("rope_scaling");
  if (parameters == nullptr) parameters = &kNone;
  if (!parameters->is_object()) {
    fields.Fail("rope_parameters is not an object");
    return;
  }
  for (const char* name : {"rope_type", "type"}) {
    if (parameters->contains(name) && (*parameters)[name] != "default") {
      fields.Fail(
          absl::StrCat(name, " of the rotary positions is ", (*parameters)[name].dump(),
                       "; only \"default\" can be imported: positions are not scaled here"));
    }
  }
  const auto own = parameters->find("rope_theta");
  config.rope_theta = own != parameters->end() && !own->is_null()
                          ? fields.PositiveOf("rope_theta", *own)
                          : fields.Positive("rope_theta");
  const auto part = parameters->find("partial_rotary_factor");
  const json* factor = part != parameters->end() ? &*part : fields.Find("partial_rotary_factor");
  if (factor != nullptr ? *factor != 1.0 : needs_whole) {
    fields.Fail(absl::StrCat("partial_rotary_factor is ",
                             factor == nullptr ? "missing (0.5)" : factor->dump(),
                             "; only 1 can be imported: whole heads are rotated here"));
  }
}

void ReadWindow(ConfigFields& fields) {
  const json* window = fields.Find("sliding_window");
  if (window == nullptr || !fields.Bool("use_sliding_window", true)) return;
  const json* positions = fields.Find("max_position_embeddings");
  if (window->is_number() && positions != nullptr && positions->is_number() &&
      window->get<double>() >= positions->get<double>()) {
    return;
  }
  fields.Fail(absl::StrCat("sliding_window is ", window->dump(),
                           "; only null, or at least max_position_embeddings, can be imported: "
                           "attention sees the whole sequence here"));
}

// What all four have in common.
void ReadTransformer(ConfigFields& fields, bool needs_whole_rope, ModelConfig& config) {
  config.vocabulary = fields.Int({"vocab_size"}, 1);
  if (config.vocabulary > kVocabularyMax) {
    fields.Fail(
        absl::StrCat("vocab_size is ", config.vocabulary, "; it may be at most ", kVocabularyMax));
  }
  config.layers = fields.Int({"num_hidden_layers"}, 1);
  config.width = fields.Int({"hidden_size"}, 1);
  config.heads = fields.Int({"num_attention_heads"}, 1);
  config.kv_heads = fields.Int({"num_key_value_heads"}, 1, config.heads);
  config.head_dim = fields.Int({"head_dim"}, 2, config.width / config.heads);
  config.rms_eps = fields.Positive("rms_norm_eps");
  config.tie_embeddings = fields.Bool("tie_word_embeddings", false);
  config.top_k = fields.Int({"num_experts_per_tok"}, 1);
  config.router = RouterKind::kSoftmax;
  ReadRope(fields, needs_whole_rope, config);
  ReadWindow(fields);
  fields.Only("hidden_act", "silu", "experts are SwiGLU here");
  fields.Only("attention_bias", false, "projections have no bias here");
  fields.Only("attention_dropout", 0.0, "nothing is dropped here");
}

void ReadOlmoe(ConfigFields& fields, ModelConfig& config) {
  config.experts = fields.Int({"num_experts", "num_local_experts"}, 1);
  config.expert_width = fields.Int({"intermediate_size"}, 1);
  config.normalize_top_k = fields.Bool("norm_topk_prob", false);
  config.qk_norm = QkNorm::kFull;
  fields.Absent("clip_qkv", "queries, keys and values are not clipped here");
}

// mlp_only_layers may name the first layers: those are dense here too.
void ReadQwen3Moe(ConfigFields& fields, ModelConfig& config) {
  config.experts = fields.Int({"num_experts", "num_local_experts"}, 1);
  config.expert_width = fields.Int({"moe_intermediate_size"}, 1);
  config.normalize_top_k = fields.Bool("norm_topk_prob", false);
  config.qk_norm = QkNorm::kHead;
  fields.Only("decoder_sparse_step", 1, "every layer after the dense ones has experts here");
  const json* dense = fields.Find("mlp_only_layers");
  if (dense == nullptr || dense->empty()) return;
  json first = json::array();
  for (size_t layer = 0; layer < dense->size(); ++layer) first.push_back(layer);
  if (*dense != first || static_cast<int>(dense->size()) >= config.layers) {
    fields.Fail(absl::StrCat("mlp_only_layers is ", dense->dump(),
                             "; only the first layers, in order, can be dense here"));
    return;
  }
  config.dense_layers = static_cast<int>(dense->size());
  config.dense_width = fields.Int({"intermediate_size"}, 1);
}

void ReadMixtral(ConfigFields& fields, ModelConfig& config) {
  config.experts = fields.Int({"num_local_experts", "num_experts"}, 1);
  config.expert_width = fields.Int({"intermediate_size"}, 1);
  config.normalize_top_k = true;
  fields.Only("router_jitter_noise", 0.0, "the router's input is not disturbed here");
}

void ReadGlm4Moe(ConfigFields& fields, ModelConfig& config) {
  config.router = RouterKind::kSigmoid;
  config.experts = fields.Int({"n_routed_experts", "num_local_experts"}, 1);
  config.expert_width = fields.Int({"moe_intermediate_size"}, 1);
  const double shared =
      static_cast<double>(fields.Int({"n_shared_experts"}, 0, 0)) * config.expert_width;
  if (shared > std::numeric_limits<int>::max()) fields.Fail("n_shared_experts is too large");
  config.shared_expert_width = fields.status().ok() ? static_cast<int>(shared) : 0;
  config.dense_layers = std::min(fields.Int({"first_k_dense_replace"}, 0), config.layers);
  if (config.dense_layers > 0) config.dense_width = fields.Int({"intermediate_size"}, 1);
  config.normalize_top_k = fields.Bool("norm_topk_prob", true);
  config.routed_scaling = fields.Positive("routed_scaling_factor");
  config.qk_norm = fields.Bool("use_qk_norm", false) ? QkNorm::kHead : QkNorm::kNone;
  fields.Only("n_group", 1, "experts are chosen from one group here");
  fields.Only("topk_group", 1, "experts are chosen from one group here");
}

}  // namespace

absl::StatusOr<ImportedModel> ReadImportedConfig(const std::string& directory) {
  const std::string file = directory + "/config.json";
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file, kConfigBytesMax));
  ASSIGN_OR_RETURN(const json value, ParseUntrustedJson(text, kDepthMax, file));
  if (!value.is_object()) return absl::InvalidArgumentError(file + " is no object");
  ConfigFields fields(value, file);
  const json* type = fields.Find("model_type");
  const std::optional<ModelFamily> family =
      type != nullptr && type->is_string() ? FamilyOf(type->get<std::string>()) : std::nullopt;
  if (!family) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": model_type is ", type == nullptr ? "missing" : type->dump(),
                     "; glm4_moe, olmoe, qwen3_moe and mixtral can be imported"));
  }
  fields.Absent("quantization_config", "weights are read in F32, F16 or BF16");
  ImportedModel model{.family = *family};
  ReadTransformer(fields, *family == ModelFamily::kGlm4Moe, model.config);
  switch (*family) {
    case ModelFamily::kOlmoe:
      ReadOlmoe(fields, model.config);
      break;
    case ModelFamily::kQwen3Moe:
      ReadQwen3Moe(fields, model.config);
      break;
    case ModelFamily::kMixtral:
      ReadMixtral(fields, model.config);
      break;
    case ModelFamily::kGlm4Moe:
      ReadGlm4Moe(fields, model.config);
      break;
  }
  RETURN_IF_ERROR(fields.status());
  const absl::Status possible = ValidateConfig(model.config);
  if (!possible.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", possible.message()));
  }
  return model;
}

absl::StatusOr<std::string> ReadImportedTokenizer(const std::string& directory) {
  return ReadWholeFile(directory + "/tokenizer.json", kTokenizerBytesMax);
}

}  // namespace espalier::model
