// ScoreGroup: each trace is read once and gets its parts; then the group's lengths shape them.
#include <algorithm>

#include "libs/reward/extract.h"
#include "libs/reward/reflect.h"
#include "libs/reward/reward.h"
#include "libs/reward/shape.h"
#include "libs/reward/verifier.h"

namespace espalier::reward {
namespace {

// A trace that was cut off has not come to its answer unless it marked it, and what stands at the
// very end may be half of it.
bool SurvivesTruncation(const Extraction& extraction, absl::string_view trace) {
  return IsMarked(extraction.rule) && extraction.end < static_cast<int64_t>(trace.size());
}

Verification NoAnswer(const Verifier& verifier) {
  Verification verification;
  verification.verdict = verifier.readable() ? Verdict::kWrong : Verdict::kAbstain;
  verification.rule = verifier.readable() ? "no_answer" : "reference_unreadable";
  verification.reason = verifier.readable() ? "The trace states no answer." : verifier.problem();
  return verification;
}

TraceScore Read(const TraceInput& trace, const Verifier& verifier) {
  TraceScore score;
  score.extraction = ExtractAnswer(trace.text);
  if (trace.truncated && !SurvivesTruncation(score.extraction, trace.text)) score.extraction = {};
  if (score.extraction.found) score.verification = verifier.Verify(score.extraction.text);
  // A guess at what was meant may count for the trace, but a wrong guess is no statement of an
  // answer.
  const bool wrong_guess =
      !IsExplicit(score.extraction.rule) && score.verification.verdict != Verdict::kCorrect;
  if (!score.extraction.found || wrong_guess) {
    score.extraction = {};
    score.verification = NoAnswer(verifier);
  }
  const bool correct = score.verification.verdict == Verdict::kCorrect;
  const Reflections reflections = FindReflections(trace.text, verifier);
  score.hesitations = static_cast<int>(reflections.hesitations.size());
  score.reflections = std::max(0, static_cast<int>(reflections.correct.size()) - 1);
  score.first_answer_correct = reflections.statements > 0 ? reflections.first_correct : correct;
  int64_t stop = reflections.first_correct_stop.value_or(-1);
  if (stop < 0 && correct) stop = score.extraction.end;
  if (stop >= 0 && !trace.text.empty()) {
    const double size = static_cast<double>(trace.text.size());
    score.tail_share = (size - static_cast<double>(stop)) / size;
  }
  score.repetition_ok = UniqueRunShare(trace.text) > kUniqueRunShareMin;
  score.format_ok =
      score.extraction.found && IsExplicit(score.extraction.rule) && TagsAreWhole(trace.text);
  return score;
}

void SetParts(const RewardOptions& options, TraceScore* score) {
  const bool correct = score->verification.verdict == Verdict::kCorrect;
  RewardParts& parts = score->parts;
  if (score->extraction.found) {
    // The safe form pays a wrong trace nothing for having said something.
    parts.answer = correct || !options.safe ? 1 : 0;
    parts.accuracy = correct ? 1 : -1;
    parts.reflection =
        ReflectionPart(score->reflections, options.reflection_min, options.reflection_max, correct);
  } else {
    parts.answer = parts.accuracy = parts.reflection = -1;
  }
  parts.side = score->format_ok && score->repetition_ok ? 0 : -1;
}

void ShapeLengths(const std::vector<TraceInput>& traces, const RewardOptions& options,
                  std::vector<TraceScore>* scores) {
  if (options.length_shaping == LengthShaping::kNone) return;
  std::vector<int64_t> lengths;
  for (const TraceInput& trace : traces) {
    lengths.push_back(trace.token_count > 0 ? trace.token_count : CountWords(trace.text));
  }
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  const int64_t buffer = options.length_buffer > 0 ? options.length_buffer
                                                   : std::max<int64_t>(1, options.length_max / 4);
  for (size_t i = 0; i < scores->size(); ++i) {
    TraceScore& score = (*scores)[i];
    if (score.verification.rule == "reference_unreadable") continue;
    const bool correct = score.verification.verdict == Verdict::kCorrect;
    score.parts.length =
        options.length_shaping == LengthShaping::kGroup
            ? GroupLengthPart(lengths[i], *shortest, *longest, correct)
            : OverlongPart(lengths[i], options.length_max, std::min(buffer, options.length_max));
  }
}

void Weigh(const RewardOptions& options, TraceScore* score) {
  RewardParts& parts = score->parts;
  parts.answer *= options.answer_weight;
  parts.accuracy *= options.accuracy_weight;
  parts.reflection *= options.reflection_weight;
  parts.side *= options.side_weight;
  parts.length *= options.length_weight;
  score->total = parts.answer + parts.accuracy + parts.reflection + parts.side + parts.length;
}

}  // namespace

std::vector<TraceScore> ScoreGroup(absl::string_view reference,
                                   const std::vector<TraceInput>& traces,
                                   const RewardOptions& options) {
  const Verifier verifier(reference, {});
  std::vector<TraceScore> scores;
  scores.reserve(traces.size());
  for (const TraceInput& trace : traces) scores.push_back(Read(trace, verifier));
  // Nothing can be said about any trace without its reference, not even that it is long.
  if (!verifier.readable() || scores.empty()) return scores;
  for (TraceScore& score : scores) {
    if (score.verification.rule != "reference_unreadable") SetParts(options, &score);
  }
  ShapeLengths(traces, options, &scores);
  for (TraceScore& score : scores) Weigh(options, &score);
  return scores;
}

}  // namespace espalier::reward
