#include "services/reward/convert.h"

#include "absl/strings/str_cat.h"

namespace espalier::reward_service {
namespace {

reward::LengthShaping ToShaping(v1::LengthShaping shaping) {
  switch (shaping) {
    case v1::LENGTH_SHAPING_OVERLONG:
      return reward::LengthShaping::kOverlong;
    case v1::LENGTH_SHAPING_GROUP:
      return reward::LengthShaping::kGroup;
    default:
      return reward::LengthShaping::kNone;
  }
}

}  // namespace

absl::Status ToOptions(const v1::RewardSpec& spec, reward::RewardOptions* options) {
  *options = reward::RewardOptions();
  if (spec.has_reflection_min()) options->reflection_min = spec.reflection_min();
  if (spec.has_reflection_max()) options->reflection_max = spec.reflection_max();
  if (spec.has_answer_weight()) options->answer_weight = spec.answer_weight();
  if (spec.has_accuracy_weight()) options->accuracy_weight = spec.accuracy_weight();
  if (spec.has_reflection_weight()) options->reflection_weight = spec.reflection_weight();
  if (spec.has_side_weight()) options->side_weight = spec.side_weight();
  if (spec.has_length_shaping()) options->length_shaping = ToShaping(spec.length_shaping());
  if (spec.has_length_weight()) options->length_weight = spec.length_weight();
  if (spec.has_length_max()) options->length_max = spec.length_max();
  if (spec.has_length_buffer()) options->length_buffer = spec.length_buffer();
  if (spec.has_safe()) options->safe = spec.safe();
  if (!(options->reflection_max > options->reflection_min)) {
    return absl::InvalidArgumentError(absl::StrCat("reward.reflection_max: ",
                                                   options->reflection_max,
                                                   ", must be above reflection_min (",
                                                   options->reflection_min, ")"));
  }
  const struct {
    const char* field;
    double value;
  } weights[] = {{"answer_weight", options->answer_weight},
                 {"accuracy_weight", options->accuracy_weight},
                 {"reflection_weight", options->reflection_weight},
                 {"side_weight", options->side_weight},
                 {"length_weight", options->length_weight}};
  for (const auto& [field, value] : weights) {
    if (!(value >= 0 && value <= 100)) {
      return absl::InvalidArgumentError(
          absl::StrCat("reward.", field, ": ", value, ", must be between 0 and 100"));
    }
  }
  return absl::OkStatus();
}

v1::Verdict ToProto(reward::Verdict verdict) {
  switch (verdict) {
    case reward::Verdict::kCorrect:
      return v1::VERDICT_CORRECT;
    case reward::Verdict::kWrong:
      return v1::VERDICT_WRONG;
    case reward::Verdict::kAbstain:
      return v1::VERDICT_ABSTAIN;
  }
  return v1::VERDICT_ABSTAIN;
}

v1::Score ToProto(const v1::Trace& trace, const reward::TraceScore& score) {
  v1::Score out;
  out.set_trace_id(trace.trace_id());
  out.set_total(score.total);
  out.mutable_parts()->set_answer(score.parts.answer);
  out.mutable_parts()->set_accuracy(score.parts.accuracy);
  out.mutable_parts()->set_reflection(score.parts.reflection);
  out.mutable_parts()->set_length(score.parts.length);
  out.mutable_parts()->set_side(score.parts.side);
  out.set_verdict(ToProto(score.verification.verdict));
  out.set_reason(score.verification.reason);
  out.set_rule(score.verification.rule);
  out.set_canonical_reference(score.verification.canonical_reference);
  out.set_canonical_answer(score.verification.canonical_answer);
  if (score.extraction.found) {
    out.set_extracted(score.extraction.text);
    out.mutable_extracted_span()->set_begin(static_cast<uint32_t>(score.extraction.begin));
    out.mutable_extracted_span()->set_end(static_cast<uint32_t>(score.extraction.end));
  }
  out.set_reflections(score.reflections);
  out.set_hesitations(score.hesitations);
  out.set_first_answer_correct(score.first_answer_correct);
  if (score.tail_share.has_value()) out.set_tail_share(*score.tail_share);
  out.set_repetition_ok(score.repetition_ok);
  out.set_format_ok(score.format_ok);
  return out;
}

}  // namespace espalier::reward_service
