// Defaults: every absent optional field takes the value of the preset or that its rule names.
#include "google/protobuf/message.h"
#include "libs/observe/log.h"
#include "libs/spec/reward_options.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

using google::protobuf::Message;

void Fill(Message* message) {
  const auto* descriptor = message->GetDescriptor();
  const auto* reflection = message->GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field.is_repeated()) {
      for (int k = 0; is_message && k < reflection->FieldSize(*message, &field); ++k) {
        Fill(reflection->MutableRepeatedMessage(message, &field, k));
      }
      continue;
    }
    const bool has = field.has_presence() && reflection->HasField(*message, &field);
    if (is_message) {
      // A missing required part stays missing, so that validation can name it; a kind is never
      // chosen by default.
      const bool leave = RulesOf(field).required() || field.real_containing_oneof() != nullptr;
      if (has || !leave) Fill(reflection->MutableMessage(message, &field));
      continue;
    }
    const std::string& value = RulesOf(field).default_value();
    if (has || !field.has_presence() || value.empty()) continue;
    CHECK(SetScalar(message, field, value)) << field.full_name() << " has a bad default: " << value;
  }
}

// Fields that a checkpoint to start from decides when they are absent: no default stands in for them.
void LeaveToStart(const v1::ModelSpec& given, v1::ModelSpec* model) {
  for (const char* name : {"kv_heads", "head_dim", "shared_expert_width", "dense_width", "router",
                           "normalize_top_k", "routed_scaling", "rope_theta", "rms_eps",
                           "tie_embeddings", "qk_norm"}) {
    const FieldDescriptor* field = v1::ModelSpec::descriptor()->FindFieldByName(name);
    CHECK(field != nullptr) << name;
    if (!given.GetReflection()->HasField(given, field)) {
      model->GetReflection()->ClearField(model, field);
    }
  }
}

}  // namespace

void FillDefaults(v1::RunSpec* spec) {
  // First, since to a preset an absent field is one that it decides.
  for (v1::StageSpec& stage : *spec->mutable_stages()) {
    if (stage.has_reinforce()) FillFromPreset(stage.mutable_reinforce()->mutable_reward());
  }
  const v1::ModelSpec given = spec->model();
  Fill(spec);
  if (!given.start_from().empty()) LeaveToStart(given, spec->mutable_model());
}

void FillDefaults(v1::RewardSpec* spec) {
  FillFromPreset(spec);
  Fill(spec);
}

}  // namespace espalier::spec
