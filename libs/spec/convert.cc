// Domain structs of a completed spec.
#include "libs/spec/spec.h"

namespace espalier::spec {

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
  return config;
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
