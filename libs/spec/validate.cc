// Validation: the rules of every field, then what only holds between fields.
#include <cctype>
#include <limits>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/message.h"
#include "libs/spec/errors.h"
#include "libs/spec/reward_options.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

using google::protobuf::Message;

constexpr size_t kNameMax = 100;

// What a run of kind external does not need: its own trainer has data, stages and a model.
const std::set<std::string>& NotNeededOutside() {
  static const auto* const kPaths = new std::set<std::string>{"data", "stages", "model.width",
                                                              "model.heads", "model.expert_width"};
  return *kPaths;
}

// `optional` names paths that may be absent although their rules require them.
void CheckFields(const Message& message, const std::string& path,
                 const std::set<std::string>& optional, ErrorList* errors);

void CheckScalar(const Message& message, const FieldDescriptor& field, const std::string& path,
                 int index, ErrorList* errors) {
  bool good = true;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      good = WithinBounds(field, NumberOf(message, field, index));
      break;
    case FieldDescriptor::CPPTYPE_ENUM:
      good = FindEnumValue(*field.enum_type(), ScalarText(message, field, index)) != nullptr;
      break;
    default:
      break;
  }
  if (good) return;
  errors->Add(path, absl::StrCat("found ", ScalarText(message, field, index), ", allowed is ",
                                 AllowedWords(field)));
}

// Proto3 cannot tell an absent plain number from 0; no required number may be 0, so it need not.
bool IsMissing(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  if (field.has_presence()) return !reflection->HasField(message, &field);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    return reflection->GetString(message, &field).empty();
  }
  return NumberOf(message, field) == 0;
}

void CheckRepeated(const Message& message, const FieldDescriptor& field, const std::string& path,
                   const std::set<std::string>& optional, ErrorList* errors) {
  const auto* reflection = message.GetReflection();
  const v1::FieldRules& rules = RulesOf(field);
  const int count = reflection->FieldSize(message, &field);
  if (count == 0 && optional.contains(path)) return;
  if (count < rules.min_items() || (rules.has_max_items() && count > rules.max_items())) {
    errors->Add(path, absl::StrCat("found ", count, " items, allowed are ", LimitWords(field)));
    return;
  }
  for (int i = 0; i < count; ++i) {
    const std::string below = absl::StrCat(path, "[", i, "]");
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CheckFields(reflection->GetRepeatedMessage(message, &field, i), below, optional, errors);
    } else {
      CheckScalar(message, field, below, i, errors);
    }
  }
}

void CheckFields(const Message& message, const std::string& path,
                 const std::set<std::string>& optional, ErrorList* errors) {
  const auto* descriptor = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    const std::string below = absl::StrCat(path, path.empty() ? "" : ".", field.name());
    if (field.is_repeated()) {
      CheckRepeated(message, field, below, optional, errors);
    } else if (IsMissing(message, field) && optional.contains(below)) {
      continue;
    } else if (RulesOf(field).required() && IsMissing(message, field)) {
      errors->Add(below, absl::StrCat("missing or empty, it is required: ", AllowedWords(field)));
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (reflection->HasField(message, &field)) {
        CheckFields(reflection->GetMessage(message, &field), below, optional, errors);
      }
    } else if (!field.has_presence() || reflection->HasField(message, &field)) {
      CheckScalar(message, field, below, -1, errors);
    }
  }
}

void CheckName(const std::string& name, ErrorList* errors) {
  if (name.empty()) return;  // reported as missing
  bool good = name.size() <= kNameMax && (std::isalnum(static_cast<unsigned char>(name[0])) != 0);
  for (const char c : name) {
    good = good &&
           (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.');
  }
  if (good) return;
  errors->Add("name",
              absl::StrCat("found ", Quoted(name),
                           ", allowed are letters, digits, '-', '_' and '.', beginning with "
                           "a letter or digit, up to ",
                           kNameMax));
}

void CheckModel(const v1::ModelSpec& model, ErrorList* errors) {
  if (model.heads() > 0) {
    if (model.head_dim() == 0 && !model.start_from().empty()) {
      // The checkpoint says how wide heads are.
    } else if (model.head_dim() == 0 && model.width() % model.heads() != 0) {
      errors->Add("model.width",
                  absl::StrCat("found ", model.width(), ", allowed is a multiple of model.heads (",
                               model.heads(), "), or set model.head_dim"));
    } else {
      const uint32_t head_dim =
          model.head_dim() != 0 ? model.head_dim() : model.width() / model.heads();
      if (head_dim % 2 != 0 || head_dim == 0) {
        errors->Add(model.head_dim() != 0 ? "model.head_dim" : "model.width",
                    absl::StrCat("heads would be ", head_dim,
                                 " wide, rotary positions need an even width"));
      }
    }
    if (model.kv_heads() != 0 && model.heads() % model.kv_heads() != 0) {
      errors->Add("model.kv_heads",
                  absl::StrCat("found ", model.kv_heads(),
                               ", allowed is a divisor of model.heads (", model.heads(), ")"));
    }
  }
  if (model.top_k() > model.experts()) {
    errors->Add("model.top_k",
                absl::StrCat("found ", model.top_k(), ", allowed is at most model.experts (",
                             model.experts(), ")"));
  }
  if (model.dense_layers() >= model.layers() && model.layers() > 0) {
    errors->Add("model.dense_layers",
                absl::StrCat("found ", model.dense_layers(), ", allowed is below model.layers (",
                             model.layers(), "): at least one layer has experts"));
  }
}

void CheckTask(const v1::ReasoningTaskSpec& task, ErrorList* errors) {
  if (task.steps_min() > task.steps_max()) {
    errors->Add("data.task.steps_min",
                absl::StrCat("found ", task.steps_min(), ", allowed is at most steps_max (",
                             task.steps_max(), ")"));
  }
  if (task.operand_max() > task.value_max()) {
    errors->Add("data.task.operand_max",
                absl::StrCat("found ", task.operand_max(), ", allowed is at most value_max (",
                             task.value_max(), ")"));
  }
}

void CheckShare(const std::string& path, uint32_t found, const v1::RunSpec& spec,
                ErrorList* errors) {
  const uint32_t count = spec.workers().count();
  if (found >= count || found == 0) return;
  errors->Add(path, absl::StrCat("found ", found, ", allowed is at least workers.count (", count,
                                 "): every worker needs a part"));
}

void CheckOptimizer(const std::string& path, const v1::OptimizerSpec& optimizer,
                    ErrorList* errors) {
  if (optimizer.final_learning_rate() <= optimizer.learning_rate()) return;
  errors->Add(path + ".final_learning_rate",
              absl::StrCat("found ", NumberText(optimizer.final_learning_rate()),
                           ", allowed is at most learning_rate (",
                           NumberText(optimizer.learning_rate()), ")"));
}

void CheckReward(const std::string& path, const v1::ReinforceStage& stage, ErrorList* errors) {
  const v1::RewardSpec& reward = stage.reward();
  const std::string preset_problem = PresetProblem(reward);
  if (!preset_problem.empty()) errors->Add(path + ".preset", preset_problem);
  if (reward.reflection_min() >= reward.reflection_max()) {
    errors->Add(path + ".reflection_min",
                absl::StrCat("found ", NumberText(reward.reflection_min()),
                             ", allowed is below reflection_max (",
                             NumberText(reward.reflection_max()), ")"));
  }
  const uint32_t length_max =
      reward.length_max() != 0 ? reward.length_max() : stage.max_new_tokens();
  if (reward.length_buffer() > length_max) {
    errors->Add(path + ".length_buffer",
                absl::StrCat("found ", reward.length_buffer(),
                             ", allowed is at most the longest trace (", length_max, ")"));
  }
  if (reward.length_shaping() == v1::LENGTH_SHAPING_L1 && reward.length_target() == 0) {
    errors->Add(path + ".length_target",
                "found 0, but length_shaping l1 needs the wanted length of a trace in tokens");
  }
}

void CheckReinforce(const std::string& path, const v1::ReinforceStage& stage,
                    const v1::RunSpec& spec, ErrorList* errors) {
  CheckShare(path + ".prompts", stage.prompts(), spec, errors);
  CheckOptimizer(path + ".optimizer", stage.optimizer(), errors);
  const uint64_t traces = uint64_t{stage.prompts()} * stage.group_size();
  if (stage.minibatches() > traces && traces > 0) {
    errors->Add(path + ".minibatches",
                absl::StrCat("found ", stage.minibatches(),
                             ", allowed is at most prompts * group_size (", traces, ")"));
  }
  if (stage.has_reward()) CheckReward(path + ".reward", stage, errors);
}

// Fields that are absent are decided by the checkpoint that the run starts from; the worker checks them before its first step.
void CheckExportSoftmax(const std::string& path, model::ModelFamily family,
                        const v1::ModelSpec& model, ErrorList* errors) {
  const std::string needs = absl::StrCat(path, ".format ", model::FamilyName(family), " needs ");
  if (model.has_router() && model.router() != v1::ROUTER_KIND_SOFTMAX) {
    errors->Add("model.router", absl::StrCat("found sigmoid, ", needs, "softmax"));
  }
  const v1::QkNorm norm = family == model::ModelFamily::kOlmoe      ? v1::QK_NORM_FULL
                          : family == model::ModelFamily::kQwen3Moe ? v1::QK_NORM_HEAD
                                                                    : v1::QK_NORM_NONE;
  if (model.has_qk_norm() && model.qk_norm() != norm) {
    const auto* values = v1::QkNorm_descriptor();
    errors->Add("model.qk_norm",
                absl::StrCat("found ", ShortName(*values->FindValueByNumber(model.qk_norm())), ", ",
                             needs, ShortName(*values->FindValueByNumber(norm))));
  }
  if (model.shared_expert_width() > 0) {
    errors->Add("model.shared_expert_width",
                absl::StrCat("found ", model.shared_expert_width(), ", ", needs, "0"));
  }
  if (model.has_routed_scaling() && model.routed_scaling() != 1) {
    errors->Add("model.routed_scaling",
                absl::StrCat("found ", NumberText(model.routed_scaling()), ", ", needs, "1"));
  }
  if (model.dense_layers() > 0 && family != model::ModelFamily::kQwen3Moe) {
    errors->Add("model.dense_layers",
                absl::StrCat("found ", model.dense_layers(), ", ", needs, "0"));
  }
  if (family == model::ModelFamily::kMixtral && model.has_normalize_top_k() &&
      !model.normalize_top_k()) {
    errors->Add("model.normalize_top_k", absl::StrCat("found false, ", needs, "true"));
  }
}

void CheckExport(const std::string& path, const v1::ExportStage& stage, const v1::ModelSpec& model,
                 ErrorList* errors) {
  const model::ModelFamily family = ToFamily(stage.format());
  if (family != model::ModelFamily::kGlm4Moe) {
    CheckExportSoftmax(path, family, model, errors);
    return;
  }
  const bool decided = model.has_router() || model.start_from().empty();
  if (decided && model.router() != v1::ROUTER_KIND_SIGMOID) {
    errors->Add("model.router",
                absl::StrCat(path,
                             " needs sigmoid: only a router with a selection bias can be "
                             "exported with layers of different expert counts (or set format to "
                             "olmoe, qwen3_moe or mixtral)"));
  }
  if (model.qk_norm() == v1::QK_NORM_FULL) {
    errors->Add("model.qk_norm",
                absl::StrCat("found full, ", path, ".format glm4_moe allows none or head"));
  }
  if (model.expert_width() > 0 && model.shared_expert_width() % model.expert_width() != 0) {
    errors->Add("model.shared_expert_width",
                absl::StrCat("found ", model.shared_expert_width(), ", ", path,
                             " allows multiples of expert_width (", model.expert_width(), ")"));
  }
}

// Returns the step that the last pretrain stage ends at.
uint64_t CheckStages(const v1::RunSpec& spec, ErrorList* errors) {
  uint64_t steps = 0, pretrain_end = 0;
  for (int i = 0; i < spec.stages_size(); ++i) {
    const v1::StageSpec& stage = spec.stages(i);
    const std::string path = absl::StrCat("stages[", i, "]");
    steps += StageSteps(stage);
    if ((stage.has_finetune() || stage.has_reinforce()) && !spec.data().has_task()) {
      errors->Add("data.task", absl::StrCat("missing; ", path,
                                            " trains on it (an empty map takes the defaults)"));
    }
    switch (stage.kind_case()) {
      case v1::StageSpec::kPretrain:
        pretrain_end = steps;
        CheckShare(path + ".pretrain.batch_sequences", stage.pretrain().batch_sequences(), spec,
                   errors);
        CheckOptimizer(path + ".pretrain.optimizer", stage.pretrain().optimizer(), errors);
        break;
      case v1::StageSpec::kFinetune:
        CheckShare(path + ".finetune.batch_traces", stage.finetune().batch_traces(), spec, errors);
        CheckOptimizer(path + ".finetune.optimizer", stage.finetune().optimizer(), errors);
        break;
      case v1::StageSpec::kReinforce:
        CheckReinforce(path + ".reinforce", stage.reinforce(), spec, errors);
        break;
      case v1::StageSpec::kExport:
        CheckExport(path + ".export", stage.export_(), spec.model(), errors);
        break;
      case v1::StageSpec::KIND_NOT_SET:
        errors->Add(
            path, "has no kind, allowed is exactly one of pretrain, finetune, reinforce or export");
        break;
    }
  }
  return pretrain_end;
}

void CheckPolicy(const v1::PolicySpec& policy, ErrorList* errors) {
  const std::string& service = policy.service();
  if (service.empty()) return;
  const size_t colon = service.rfind(':');
  uint32_t port = 0;
  if (colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(service.substr(colon + 1), &port) && port >= 1 && port <= 65535) {
    return;
  }
  errors->Add("policy.service", absl::StrCat("found ", Quoted(service),
                                             ", allowed is host:port of a PolicyService, such as "
                                             "policy.example.org:7100, or nothing"));
}

void CheckPrune(const v1::RunSpec& spec, uint64_t pretrain_end, ErrorList* errors) {
  const v1::PrunePolicy& prune = spec.prune();
  const uint32_t experts = spec.model().experts();
  if (prune.keep_min() > experts) {
    errors->Add("prune.keep_min",
                absl::StrCat("found ", prune.keep_min(), ", allowed is at most model.experts (",
                             experts, ")"));
  }
  for (int i = 0; i < prune.protected_experts_size(); ++i) {
    if (prune.protected_experts(i) < experts) continue;
    errors->Add(absl::StrCat("prune.protected_experts[", i, "]"),
                absl::StrCat("found ", prune.protected_experts(i),
                             ", allowed is below model.experts (", experts, ")"));
  }
  if (prune.latest_step() != 0 && prune.earliest_step() > prune.latest_step()) {
    errors->Add("prune.earliest_step",
                absl::StrCat("found ", prune.earliest_step(), ", allowed is at most latest_step (",
                             prune.latest_step(), ")"));
  }
  if (!prune.enabled()) return;
  for (int i = 0; i < spec.stages_size(); ++i) {
    const v1::StageSpec& stage = spec.stages(i);
    if (!stage.has_export_() || ToFamily(stage.export_().format()) == model::ModelFamily::kGlm4Moe)
      continue;
    errors->Add("prune.enabled",
                absl::StrCat("found true, but layers lose different numbers of experts, and stages[",
                             i, "].export.format ",
                             model::FamilyName(ToFamily(stage.export_().format())),
                             " has room for one number alone: set the format to glm4_moe, or prune "
                             "by hand"));
  }
  if (pretrain_end == 0) {
    errors->Add(
        "prune.enabled",
        "found true, but there is no pretrain stage to prune in: add one or set it to false");
  } else if (prune.fixed_step() > pretrain_end) {
    errors->Add("prune.fixed_step",
                absl::StrCat("found ", prune.fixed_step(), ", allowed is at most ", pretrain_end,
                             ", where pretraining ends"));
  }
}

void CheckExternal(const v1::RunSpec& spec, ErrorList* errors) {
  const char* const kElsewhere = "given, but kind is external: the run's own trainer decides it";
  if (spec.has_data()) errors->Add("data", kElsewhere);
  if (spec.stages_size() > 0) errors->Add("stages", kElsewhere);
  if (!spec.model().start_from().empty()) errors->Add("model.start_from", kElsewhere);
  if (spec.prune().guard_tolerance() > 0) {
    errors->Add("prune.guard_tolerance",
                absl::StrCat("found ", NumberText(spec.prune().guard_tolerance()),
                             ", allowed for kind external is 0: held-out loss and checkpoints are "
                             "its own trainer's"));
  }
  if (spec.placement().expert_bytes() == 0 &&
      (spec.model().width() == 0 || spec.model().expert_width() == 0)) {
    errors->Add("placement.expert_bytes",
                "missing; give it, or model.width and model.expert_width, so that moves can be "
                "weighed");
  }
  CheckPrune(spec, std::numeric_limits<uint64_t>::max(), errors);
}

}  // namespace

absl::Status ValidateRunSpec(const v1::RunSpec& spec) {
  ErrorList errors;
  const bool external = spec.kind() == v1::RUN_KIND_EXTERNAL;
  CheckFields(spec, "", external ? NotNeededOutside() : std::set<std::string>(), &errors);
  CheckName(spec.name(), &errors);
  if (spec.has_model()) {
    CheckModel(spec.model(), &errors);
    if (spec.workers().count() > spec.model().experts() && spec.model().experts() > 0) {
      errors.Add(
          "workers.count",
          absl::StrCat("found ", spec.workers().count(), ", allowed is at most model.experts (",
                       spec.model().experts(), "): every worker holds experts"));
    }
  }
  CheckPolicy(spec.policy(), &errors);
  if (spec.data().has_task()) CheckTask(spec.data().task(), &errors);
  if (external) {
    CheckExternal(spec, &errors);
  } else {
    CheckPrune(spec, CheckStages(spec, &errors), &errors);
  }
  return errors.ToStatus();
}

}  // namespace espalier::spec
