// Defaults, presets and bounds of RewardSpec come from libs/spec, so that the service and the run's
// validation cannot disagree.
#include "services/reward/convert.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/reward/presets.h"
#include "libs/spec/fields.h"
#include "libs/spec/reward_options.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"

namespace espalier::reward {
namespace {

using google::protobuf::FieldDescriptor;

absl::Status CheckBounds(const v1::RewardSpec& spec, const FieldDescriptor& field) {
  bool good = true;
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_UINT32 ||
      field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    good = spec::WithinBounds(field, spec::NumberOf(spec, field));
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    good = spec::FindEnumValue(*field.enum_type(), spec::ScalarText(spec, field)) != nullptr;
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("reward.", field.name(), ": found ",
                                                 spec::ScalarText(spec, field), ", allowed is ",
                                                 spec::AllowedWords(field)));
}

absl::Status CheckShaping(const v1::RewardSpec& spec) {
  const bool needs_longest = spec.length_shaping() == v1::LENGTH_SHAPING_OVERLONG ||
                             spec.length_shaping() == v1::LENGTH_SHAPING_COSINE;
  if (needs_longest && spec.length_max() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "reward.length_max: found 0, but reward.length_shaping ",
        spec::ScalarText(spec, *spec.GetDescriptor()->FindFieldByName("length_shaping")),
        " needs the longest trace in tokens"));
  }
  if (spec.length_max() > 0 && spec.length_buffer() > spec.length_max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("reward.length_buffer: found ", spec.length_buffer(),
                     ", allowed is up to reward.length_max (", spec.length_max(), ")"));
  }
  if (spec.length_shaping() == v1::LENGTH_SHAPING_L1 && spec.length_target() == 0) {
    return absl::InvalidArgumentError(
        "reward.length_target: found 0, but reward.length_shaping l1 needs the wanted length of a "
        "trace in tokens");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::RewardSpec> Complete(v1::RewardSpec spec) {
  const std::string preset_problem = spec::PresetProblem(spec);
  if (!preset_problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("reward.preset: ", preset_problem));
  }
  const auto* descriptor = spec.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    if (spec.GetReflection()->HasField(spec, &field)) RETURN_IF_ERROR(CheckBounds(spec, field));
  }
  spec::FillDefaults(&spec);
  if (spec.reflection_max() < spec.reflection_min()) {
    return absl::InvalidArgumentError(
        absl::StrCat("reward.reflection_max: found ", spec.reflection_max(),
                     ", allowed is reward.reflection_min (", spec.reflection_min(), ") or more"));
  }
  RETURN_IF_ERROR(CheckShaping(spec));
  return spec;
}

absl::Status CheckReference(const std::string& reference) {
  if (reference.empty())
    return absl::InvalidArgumentError("reference: empty; give the right answer");
  if (reference.size() > kReferenceBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("reference: found ", reference.size(),
                                                   " bytes, allowed are up to ", kReferenceBytesMax,
                                                   "; give the answer, not a document"));
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const std::string& prompt) {
  if (prompt.size() <= kTraceBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("prompt: found ", prompt.size(),
                                                 " bytes, allowed are up to ", kTraceBytesMax,
                                                 "; only its scripts are looked at, so cut it"));
}

absl::Status CheckTrace(const v1::Trace& trace, const std::string& path) {
  if (trace.text().size() <= kTraceBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ".text: found ", trace.text().size(),
                                                 " bytes, allowed are up to ", kTraceBytesMax,
                                                 "; shorten the trace"));
}

v1::Verdict ToProto(Verdict verdict) {
  switch (verdict) {
    case Verdict::kCorrect:
      return v1::VERDICT_CORRECT;
    case Verdict::kWrong:
      return v1::VERDICT_WRONG;
    case Verdict::kAbstain:
      return v1::VERDICT_ABSTAIN;
  }
  return v1::VERDICT_UNSPECIFIED;
}

// What a Score and a VerifyAnswerResponse say alike.
template <typename Message>
void SetVerification(const Extraction& extraction, Verification verification, Message* message) {
  message->set_verdict(ToProto(verification.verdict));
  message->set_reason(std::move(verification.reason));
  message->set_rule(std::move(verification.rule));
  message->set_canonical_reference(std::move(verification.canonical_reference));
  message->set_canonical_answer(std::move(verification.canonical_answer));
  if (!extraction.found) return;
  message->set_extracted(extraction.text);
  message->mutable_extracted_span()->set_begin(static_cast<uint32_t>(extraction.begin));
  message->mutable_extracted_span()->set_end(static_cast<uint32_t>(extraction.end));
}

v1::RewardParts ToProto(const RewardParts& from) {
  v1::RewardParts parts;
  parts.set_answer(from.answer);
  parts.set_accuracy(from.accuracy);
  parts.set_reflection(from.reflection);
  parts.set_length(from.length);
  parts.set_side(from.side);
  return parts;
}

v1::Span ToProto(const TextSpan& from) {
  v1::Span span;
  span.set_begin(static_cast<uint32_t>(from.begin));
  span.set_end(static_cast<uint32_t>(from.end));
  return span;
}

v1::Score ToProto(TraceScore from, const std::string& trace_id) {
  v1::Score score;
  score.set_trace_id(trace_id);
  score.set_total(from.total);
  score.set_raw_total(from.raw_total);
  *score.mutable_parts() = ToProto(from.parts);
  *score.mutable_raw_parts() = ToProto(from.raw_parts);
  SetVerification(from.extraction, std::move(from.verification), &score);
  score.set_reflections(static_cast<uint32_t>(from.reflections));
  score.set_hesitations(static_cast<uint32_t>(from.hesitations));
  score.set_first_answer_correct(from.first_answer_correct);
  if (from.first_correct) *score.mutable_first_correct_span() = ToProto(*from.first_correct);
  for (const TextSpan& span : from.restatements) *score.add_reflection_spans() = ToProto(span);
  for (const TextSpan& span : from.hesitation_cues) *score.add_hesitation_spans() = ToProto(span);
  if (from.tail_share) score.set_tail_share(*from.tail_share);
  score.set_repetition_ok(from.repetition_ok);
  score.set_format_ok(from.format_ok);
  score.set_language_ok(from.language_ok);
  score.set_advantage(from.advantage);
  return score;
}

v1::GroupStatistics ToProto(const GroupStatistics& from) {
  v1::GroupStatistics group;
  group.set_scored(static_cast<uint32_t>(from.scored));
  group.set_abstained(static_cast<uint32_t>(from.abstained));
  group.set_pass_rate(from.pass_rate);
  group.set_mean_total(from.mean_total);
  group.set_std_total(from.std_total);
  group.set_uniform(from.uniform);
  group.set_mean_tail_share(from.mean_tail_share);
  return group;
}

TraceInput FromProto(const v1::Trace& trace) {
  return {trace.text(), trace.token_count(), trace.truncated()};
}

}  // namespace

absl::StatusOr<RewardOptions> ToOptions(const v1::RewardSpec& given) {
  ASSIGN_OR_RETURN(const v1::RewardSpec spec, Complete(given));
  return spec::ToRewardOptions(spec);
}

absl::StatusOr<v1::ScoreBatchResponse> ScoreBatch(const v1::ScoreBatchRequest& request) {
  RETURN_IF_ERROR(CheckReference(request.reference()));
  RETURN_IF_ERROR(CheckPrompt(request.prompt()));
  if (request.traces().empty() || request.traces_size() > kBatchTracesMax) {
    return absl::InvalidArgumentError(absl::StrCat("traces: found ", request.traces_size(),
                                                   ", allowed are 1 to ", kBatchTracesMax,
                                                   "; send larger groups in parts"));
  }
  std::vector<TraceInput> traces;
  for (int i = 0; i < request.traces_size(); ++i) {
    RETURN_IF_ERROR(CheckTrace(request.traces(i), absl::StrCat("traces[", i, "]")));
    traces.push_back(FromProto(request.traces(i)));
  }
  ASSIGN_OR_RETURN(const RewardOptions options, ToOptions(request.reward()));
  std::vector<TraceScore> scores =
      ScoreGroup(request.reference(), traces, options, request.prompt());
  v1::ScoreBatchResponse response;
  *response.mutable_group() = ToProto(Summarize(scores));
  response.set_configuration(ConfigurationName(request.reward().preset(), options));
  for (int i = 0; i < request.traces_size(); ++i) {
    *response.add_scores() = ToProto(std::move(scores[i]), request.traces(i).trace_id());
  }
  return response;
}

absl::StatusOr<v1::ScoreTraceResponse> ScoreTrace(const v1::ScoreTraceRequest& request) {
  RETURN_IF_ERROR(CheckReference(request.reference()));
  RETURN_IF_ERROR(CheckPrompt(request.prompt()));
  RETURN_IF_ERROR(CheckTrace(request.trace(), "trace"));
  ASSIGN_OR_RETURN(const RewardOptions options, ToOptions(request.reward()));
  std::vector<TraceScore> scores =
      ScoreGroup(request.reference(), {FromProto(request.trace())}, options, request.prompt());
  v1::ScoreTraceResponse response;
  response.set_configuration(ConfigurationName(request.reward().preset(), options));
  *response.mutable_score() = ToProto(std::move(scores[0]), request.trace().trace_id());
  return response;
}

absl::StatusOr<v1::VerifyAnswerResponse> Verify(const v1::VerifyAnswerRequest& request) {
  RETURN_IF_ERROR(CheckReference(request.reference()));
  if (request.answer().size() > kTraceBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("answer: found ", request.answer().size(),
                                                   " bytes, allowed are up to ", kTraceBytesMax,
                                                   "; give the answer alone"));
  }
  const Extraction extraction = ExtractAnswer(request.answer());
  Verification verification;
  if (extraction.found) {
    verification = VerifyAnswer(request.reference(), extraction.text, {request.strict_units()});
  } else {
    verification.verdict = Verdict::kWrong;
    verification.rule = "no_answer";
    verification.reason = "The answer states nothing.";
  }
  v1::VerifyAnswerResponse response;
  response.set_proved(verification.proved);
  SetVerification(extraction, std::move(verification), &response);
  return response;
}

}  // namespace espalier::reward
