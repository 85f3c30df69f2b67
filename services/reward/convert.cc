// Defaults and bounds of RewardSpec come from its field rules, so that the service and the run's
// validation cannot disagree.
#include "services/reward/convert.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/spec/fields.h"
#include "libs/spec/scalars.h"

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

absl::StatusOr<v1::RewardSpec> Complete(v1::RewardSpec spec) {
  const auto* descriptor = spec.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    if (spec.GetReflection()->HasField(spec, &field)) {
      RETURN_IF_ERROR(CheckBounds(spec, field));
      continue;
    }
    const std::string& value = spec::RulesOf(field).default_value();
    CHECK(value.empty() || spec::SetScalar(&spec, field, value))
        << field.full_name() << " has a bad default: " << value;
  }
  if (spec.reflection_max() < spec.reflection_min()) {
    return absl::InvalidArgumentError(
        absl::StrCat("reward.reflection_max: found ", spec.reflection_max(),
                     ", allowed is reward.reflection_min (", spec.reflection_min(), ") or more"));
  }
  if (spec.length_shaping() == v1::LENGTH_SHAPING_OVERLONG && spec.length_max() == 0) {
    return absl::InvalidArgumentError(
        "reward.length_max: found 0, but reward.length_shaping overlong needs the longest trace in "
        "tokens");
  }
  if (spec.length_max() > 0 && spec.length_buffer() > spec.length_max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("reward.length_buffer: found ", spec.length_buffer(),
                     ", allowed is up to reward.length_max (", spec.length_max(), ")"));
  }
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

LengthShaping FromProto(v1::LengthShaping shaping) {
  switch (shaping) {
    case v1::LENGTH_SHAPING_OVERLONG:
      return LengthShaping::kOverlong;
    case v1::LENGTH_SHAPING_GROUP:
      return LengthShaping::kGroup;
    default:
      return LengthShaping::kNone;
  }
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

v1::Score ToProto(TraceScore from, const std::string& trace_id) {
  v1::Score score;
  score.set_trace_id(trace_id);
  score.set_total(from.total);
  v1::RewardParts* parts = score.mutable_parts();
  parts->set_answer(from.parts.answer);
  parts->set_accuracy(from.parts.accuracy);
  parts->set_reflection(from.parts.reflection);
  parts->set_length(from.parts.length);
  parts->set_side(from.parts.side);
  SetVerification(from.extraction, std::move(from.verification), &score);
  score.set_reflections(static_cast<uint32_t>(from.reflections));
  score.set_hesitations(static_cast<uint32_t>(from.hesitations));
  score.set_first_answer_correct(from.first_answer_correct);
  if (from.tail_share) score.set_tail_share(*from.tail_share);
  score.set_repetition_ok(from.repetition_ok);
  score.set_format_ok(from.format_ok);
  return score;
}

TraceInput FromProto(const v1::Trace& trace) {
  return {trace.text(), trace.token_count(), trace.truncated()};
}

}  // namespace

absl::StatusOr<RewardOptions> ToOptions(const v1::RewardSpec& given) {
  ASSIGN_OR_RETURN(const v1::RewardSpec spec, Complete(given));
  RewardOptions options;
  options.reflection_min = spec.reflection_min();
  options.reflection_max = spec.reflection_max();
  options.answer_weight = spec.answer_weight();
  options.accuracy_weight = spec.accuracy_weight();
  options.reflection_weight = spec.reflection_weight();
  options.side_weight = spec.side_weight();
  options.length_shaping = FromProto(spec.length_shaping());
  options.length_weight = spec.length_weight();
  options.length_max = spec.length_max();
  options.length_buffer = spec.length_buffer();
  options.safe = spec.safe();
  return options;
}

absl::StatusOr<v1::ScoreBatchResponse> ScoreBatch(const v1::ScoreBatchRequest& request) {
  RETURN_IF_ERROR(CheckReference(request.reference()));
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
  std::vector<TraceScore> scores = ScoreGroup(request.reference(), traces, options);
  v1::ScoreBatchResponse response;
  for (int i = 0; i < request.traces_size(); ++i) {
    *response.add_scores() = ToProto(std::move(scores[i]), request.traces(i).trace_id());
  }
  return response;
}

absl::StatusOr<v1::ScoreTraceResponse> ScoreTrace(const v1::ScoreTraceRequest& request) {
  RETURN_IF_ERROR(CheckReference(request.reference()));
  RETURN_IF_ERROR(CheckTrace(request.trace(), "trace"));
  ASSIGN_OR_RETURN(const RewardOptions options, ToOptions(request.reward()));
  std::vector<TraceScore> scores =
      ScoreGroup(request.reference(), {FromProto(request.trace())}, options);
  v1::ScoreTraceResponse response;
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
  SetVerification(extraction, std::move(verification), &response);
  return response;
}

}  // namespace espalier::reward
