// Domain structs of a completed spec.
#include <string>

#include "absl/strings/str_cat.h"
#include "libs/spec/errors.h"
#include "libs/spec/fields.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

model::QkNorm ToQkNorm(v1::QkNorm norm) {
  switch (norm) {
    case v1::QK_NORM_HEAD:
      return model::QkNorm::kHead;
    case v1::QK_NORM_FULL:
      return model::QkNorm::kFull;
    default:
      return model::QkNorm::kNone;
  }
}

const char* Words(bool value) { return value ? "true" : "false"; }
const char* Words(model::RouterKind router) {
  return router == model::RouterKind::kSigmoid ? "sigmoid" : "softmax";
}
const char* Words(model::QkNorm norm) {
  return norm == model::QkNorm::kNone ? "none" : norm == model::QkNorm::kHead ? "head" : "full";
}
std::string Words(double value) { return NumberText(value); }
std::string Words(int value) { return absl::StrCat(value); }

}  // namespace

model::ModelConfig ToModelConfig(const v1::ModelSpec& spec, int vocabulary) {
  model::ModelConfig config;
  config.vocabulary = vocabulary;
  config.layers = static_cast<int>(spec.layers());
  config.width = static_cast<int>(spec.width());
  config.heads = static_cast<int>(spec.heads());
  config.kv_heads = static_cast<int>(spec.kv_heads() != 0 ? spec.kv_heads() : spec.heads());
  config.head_dim =
      static_cast<int>(spec.head_dim() != 0 ? spec.head_dim() : spec.width() / spec.heads());
  config.experts = static_cast<int>(spec.experts());
  config.top_k = static_cast<int>(spec.top_k());
  config.expert_width = static_cast<int>(spec.expert_width());
  config.shared_expert_width = static_cast<int>(spec.shared_expert_width());
  config.dense_layers = static_cast<int>(spec.dense_layers());
  config.dense_width = static_cast<int>(
      spec.dense_width() != 0 ? spec.dense_width() : spec.top_k() * spec.expert_width());
  config.router = spec.router() == v1::ROUTER_KIND_SOFTMAX ? model::RouterKind::kSoftmax
                                                           : model::RouterKind::kSigmoid;
  config.normalize_top_k = spec.normalize_top_k();
  config.routed_scaling = spec.routed_scaling();
  config.aux_loss = spec.aux_loss();
  config.rope_theta = spec.rope_theta();
  config.rms_eps = spec.rms_eps();
  config.tie_embeddings = spec.tie_embeddings();
  config.init_std = spec.init_std();
  config.qk_norm = ToQkNorm(spec.qk_norm());
  return config;
}

absl::StatusOr<model::ModelConfig> ConfigOfStart(const v1::ModelSpec& spec,
                                                 const model::ModelConfig& start) {
  ErrorList errors;
  const auto compare = [&](const char* field, bool given, const auto& found, const auto& wanted) {
    if (!given || found == wanted) return;
    errors.Add(absl::StrCat("model.", field),
               absl::StrCat("found ", Words(found), ", the checkpoint of model.start_from has ",
                            Words(wanted), ": write that"));
  };
  const model::ModelConfig given = ToModelConfig(spec, start.vocabulary);
  compare("layers", true, given.layers, start.layers);
  compare("width", true, given.width, start.width);
  compare("heads", true, given.heads, start.heads);
  compare("kv_heads", spec.kv_heads() != 0, given.kv_heads, start.kv_heads);
  compare("head_dim", spec.head_dim() != 0, given.head_dim, start.head_dim);
  compare("experts", true, given.experts, start.experts);
  compare("top_k", true, given.top_k, start.top_k);
  compare("expert_width", true, given.expert_width, start.expert_width);
  compare("shared_expert_width", spec.has_shared_expert_width(), given.shared_expert_width,
          start.shared_expert_width);
  compare("dense_layers", true, given.dense_layers, start.dense_layers);
  compare("dense_width", spec.dense_width() != 0 && start.dense_layers > 0, given.dense_width,
          start.dense_width);
  compare("router", spec.has_router(), given.router, start.router);
  compare("normalize_top_k", spec.has_normalize_top_k(), given.normalize_top_k,
          start.normalize_top_k);
  compare("routed_scaling", spec.has_routed_scaling(), given.routed_scaling, start.routed_scaling);
  compare("rope_theta", spec.has_rope_theta(), given.rope_theta, start.rope_theta);
  compare("rms_eps", spec.has_rms_eps(), given.rms_eps, start.rms_eps);
  compare("tie_embeddings", spec.has_tie_embeddings(), given.tie_embeddings, start.tie_embeddings);
  compare("qk_norm", spec.has_qk_norm(), given.qk_norm, start.qk_norm);
  const absl::Status status = errors.ToStatus();
  if (!status.ok()) return status;
  model::ModelConfig config = start;
  config.aux_loss = given.aux_loss;
  config.init_std = given.init_std;
  return config;
}

model::ModelFamily ToFamily(v1::ExportFormat format) {
  switch (format) {
    case v1::EXPORT_FORMAT_OLMOE:
      return model::ModelFamily::kOlmoe;
    case v1::EXPORT_FORMAT_QWEN3_MOE:
      return model::ModelFamily::kQwen3Moe;
    case v1::EXPORT_FORMAT_MIXTRAL:
      return model::ModelFamily::kMixtral;
    default:
      return model::ModelFamily::kGlm4Moe;
  }
}

const char* StageName(const v1::StageSpec& stage) {
  if (!stage.name().empty()) return stage.name().c_str();
  switch (stage.kind_case()) {
    case v1::StageSpec::kPretrain:
      return "pretrain";
    case v1::StageSpec::kFinetune:
      return "finetune";
    case v1::StageSpec::kReinforce:
      return "reinforce";
    case v1::StageSpec::kExport:
      return "export";
    case v1::StageSpec::KIND_NOT_SET:
      break;
  }
  return "stage";
}

uint64_t StageSteps(const v1::StageSpec& stage) {
  switch (stage.kind_case()) {
    case v1::StageSpec::kPretrain:
      return stage.pretrain().steps();
    case v1::StageSpec::kFinetune:
      return stage.finetune().steps();
    case v1::StageSpec::kReinforce:
      return stage.reinforce().steps();
    default:
      return 0;
  }
}

}  // namespace espalier::spec
