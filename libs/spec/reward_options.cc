// A preset is a whole set of options, so that a field of the spec is either given or the preset's.
#include "libs/spec/reward_options.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "libs/reward/presets.h"
#include "libs/spec/fields.h"

namespace espalier::spec {
namespace {

using reward::LengthShaping;

v1::LengthShaping ToProto(LengthShaping shaping) {
  switch (shaping) {
    case LengthShaping::kNone:
      return v1::LENGTH_SHAPING_NONE;
    case LengthShaping::kOverlong:
      return v1::LENGTH_SHAPING_OVERLONG;
    case LengthShaping::kGroup:
      return v1::LENGTH_SHAPING_GROUP;
    case LengthShaping::kCosine:
      return v1::LENGTH_SHAPING_COSINE;
    case LengthShaping::kL1:
    case LengthShaping::kL1Max:
      return v1::LENGTH_SHAPING_L1;
  }
  return v1::LENGTH_SHAPING_UNSPECIFIED;
}

LengthShaping FromProto(const v1::RewardSpec& spec) {
  switch (spec.length_shaping()) {
    case v1::LENGTH_SHAPING_OVERLONG:
      return LengthShaping::kOverlong;
    case v1::LENGTH_SHAPING_GROUP:
      return LengthShaping::kGroup;
    case v1::LENGTH_SHAPING_COSINE:
      return LengthShaping::kCosine;
    case v1::LENGTH_SHAPING_L1: {
      // The form of L1 has no field of its own: the preset tells.
      const reward::Preset* preset = reward::FindPreset(spec.preset());
      const bool max = preset != nullptr && preset->options.length_shaping == LengthShaping::kL1Max;
      return max ? LengthShaping::kL1Max : LengthShaping::kL1;
    }
    default:
      return LengthShaping::kNone;
  }
}

}  // namespace

v1::RewardSpec ToRewardSpec(const reward::RewardOptions& options) {
  v1::RewardSpec spec;
  spec.set_reflection_min(options.reflection_min);
  spec.set_reflection_max(options.reflection_max);
  spec.set_answer_weight(options.answer_weight);
  spec.set_accuracy_weight(options.accuracy_weight);
  spec.set_reflection_weight(options.reflection_weight);
  spec.set_side_weight(options.side_weight);
  spec.set_length_shaping(ToProto(options.length_shaping));
  spec.set_length_weight(options.length_weight);
  spec.set_length_max(static_cast<uint32_t>(options.length_max));
  spec.set_length_buffer(static_cast<uint32_t>(options.length_buffer));
  spec.set_length_target(static_cast<uint32_t>(options.length_target));
  spec.set_length_scale(options.length_scale);
  spec.set_safe(options.safe);
  spec.set_count_hesitations(options.count_hesitations);
  spec.set_check_language(options.check_language);
  return spec;
}

void FillFromPreset(v1::RewardSpec* spec) {
  const reward::Preset* preset = reward::FindPreset(spec->preset());
  if (preset == nullptr) return;
  v1::RewardSpec filled = ToRewardSpec(preset->options);
  filled.MergeFrom(*spec);
  spec->Swap(&filled);
}

std::string PresetProblem(const v1::RewardSpec& spec) {
  if (spec.preset().empty() || reward::FindPreset(spec.preset()) != nullptr) return "";
  return absl::StrCat("found ", Quoted(spec.preset()), ", allowed is ", reward::PresetNames());
}

reward::RewardOptions ToRewardOptions(const v1::RewardSpec& spec) {
  reward::RewardOptions options;
  options.reflection_min = spec.reflection_min();
  options.reflection_max = spec.reflection_max();
  options.answer_weight = spec.answer_weight();
  options.accuracy_weight = spec.accuracy_weight();
  options.reflection_weight = spec.reflection_weight();
  options.side_weight = spec.side_weight();
  options.length_shaping = FromProto(spec);
  options.length_weight = spec.length_weight();
  options.length_max = spec.length_max();
  options.length_buffer = spec.length_buffer();
  options.length_target = spec.length_target();
  options.length_scale = spec.length_scale();
  options.safe = spec.safe();
  options.count_hesitations = spec.count_hesitations();
  options.check_language = spec.check_language();
  return options;
}

}  // namespace espalier::spec
