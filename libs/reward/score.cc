// ScoreGroup: each trace is read once and gets its parts; then the group's lengths shape them.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "libs/reward/extract.h"
#include "libs/reward/language.h"
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

void SetReflections(const std::string& text, const Verifier& verifier, TraceScore* score) {
  const bool correct = score->verification.verdict == Verdict::kCorrect;
  Reflections found = FindReflections(text, verifier, correct ? &score->extraction : nullptr);
  score->hesitations = static_cast<int>(found.hesitations.size());
  score->hesitation_cues = std::move(found.hesitations);
  score->first_answer_correct = found.first_correct;
  if (found.correct.empty()) return;
  score->first_correct = found.correct.front();
  score->restatements.assign(found.correct.begin() + 1, found.correct.end());
  score->reflections = static_cast<int>(score->restatements.size());
  const double size = static_cast<double>(text.size());
  score->tail_share = (size - static_cast<double>(score->first_correct->end)) / size;
}

TraceScore Read(const TraceInput& trace, const Verifier& verifier, absl::string_view prompt) {
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
  SetReflections(trace.text, verifier, &score);
  score.repetition_ok = UniqueRunShare(trace.text) > kUniqueRunShareMin;
  score.format_ok =
      score.extraction.found && IsExplicit(score.extraction.rule) && TagsAreWhole(trace.text);
  score.language_ok = KeepsToLanguage(trace.text, prompt);
  return score;
}

void SetParts(const RewardOptions& options, TraceScore* score) {
  const bool correct = score->verification.verdict == Verdict::kCorrect;
  RewardParts& parts = score->raw_parts;
  if (score->extraction.found) {
    const int count = options.count_hesitations ? score->hesitations : score->reflections;
    // The safe form pays a wrong trace nothing for having said something.
    parts.answer = correct || !options.safe ? 1 : 0;
    parts.accuracy = correct ? 1 : -1;
    parts.reflection =
        ReflectionPart(count, options.reflection_min, options.reflection_max, correct);
  } else {
    parts.answer = parts.accuracy = parts.reflection = -1;
  }
  const bool language_ok = score->language_ok || !options.check_language;
  parts.side = score->format_ok && score->repetition_ok && language_ok ? 0 : -1;
}

double LengthPart(const RewardOptions& options, int64_t length, int64_t shortest, int64_t longest,
                  bool correct) {
  switch (options.length_shaping) {
    case LengthShaping::kNone:
      return 0;
    case LengthShaping::kOverlong: {
      const int64_t buffer = options.length_buffer > 0
                                 ? options.length_buffer
                                 : std::max<int64_t>(1, options.length_max / 4);
      return OverlongPart(length, options.length_max, std::min(buffer, options.length_max));
    }
    case LengthShaping::kGroup:
      return GroupLengthPart(length, shortest, longest, correct);
    case LengthShaping::kCosine:
      return CosinePart(length, options.length_max, correct);
    case LengthShaping::kL1:
      return L1Part(length, options.length_target, options.length_scale);
    case LengthShaping::kL1Max:
      return L1MaxPart(length, options.length_target, options.length_scale, correct);
  }
  return 0;
}

void ShapeLengths(const std::vector<TraceInput>& traces, const RewardOptions& options,
                  std::vector<TraceScore>* scores) {
  if (options.length_shaping == LengthShaping::kNone) return;
  std::vector<int64_t> lengths;
  for (const TraceInput& trace : traces) {
    lengths.push_back(trace.token_count > 0 ? trace.token_count : CountWords(trace.text));
  }
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  for (size_t i = 0; i < scores->size(); ++i) {
    TraceScore& score = (*scores)[i];
    const bool correct = score.verification.verdict == Verdict::kCorrect;
    score.raw_parts.length = LengthPart(options, lengths[i], *shortest, *longest, correct);
  }
}

void Weigh(const RewardOptions& options, TraceScore* score) {
  const bool capped = options.safe && score->verification.verdict != Verdict::kCorrect;
  const auto weigh = [&](double part, double weight) {
    const double weighed = part * weight + 0.0;  // no -0
    return capped ? std::min(0.0, weighed) : weighed;
  };
  const RewardParts& raw = score->raw_parts;
  RewardParts& parts = score->parts;
  parts.answer = weigh(raw.answer, options.answer_weight);
  parts.accuracy = weigh(raw.accuracy, options.accuracy_weight);
  parts.reflection = weigh(raw.reflection, options.reflection_weight);
  parts.side = weigh(raw.side, options.side_weight);
  parts.length = weigh(raw.length, options.length_weight);
  score->raw_total = parts.answer + parts.accuracy + parts.reflection + parts.side;
  score->total = score->raw_total + parts.length;
}

void SetAdvantages(std::vector<TraceScore>* scores) {
  const GroupStatistics group = Summarize(*scores);
  if (group.uniform) return;
  for (TraceScore& score : *scores) {
    if (score.verification.verdict == Verdict::kAbstain) continue;
    score.advantage = (score.total - group.mean_total) / group.std_total;
  }
}

}  // namespace

std::vector<TraceScore> ScoreGroup(absl::string_view reference,
                                   const std::vector<TraceInput>& traces,
                                   const RewardOptions& options, absl::string_view prompt) {
  const Verifier verifier(reference, {});
  std::vector<TraceScore> scores;
  scores.reserve(traces.size());
  for (const TraceInput& trace : traces) scores.push_back(Read(trace, verifier, prompt));
  // Nothing can be said about any trace without its reference, not even that it is long.
  if (!verifier.readable() || scores.empty()) return scores;
  for (TraceScore& score : scores) SetParts(options, &score);
  ShapeLengths(traces, options, &scores);
  for (TraceScore& score : scores) Weigh(options, &score);
  SetAdvantages(&scores);
  return scores;
}

GroupStatistics Summarize(const std::vector<TraceScore>& scores) {
  GroupStatistics group;
  double lowest = 0, highest = 0, tail = 0;
  int correct = 0, with_tail = 0;
  for (const TraceScore& score : scores) {
    if (score.verification.verdict == Verdict::kAbstain) {
      ++group.abstained;
      continue;
    }
    lowest = group.scored == 0 ? score.total : std::min(lowest, score.total);
    highest = group.scored == 0 ? score.total : std::max(highest, score.total);
    ++group.scored;
    correct += score.verification.verdict == Verdict::kCorrect;
    group.mean_total += score.total;
    if (!score.tail_share) continue;
    ++with_tail;
    tail += *score.tail_share;
  }
  group.uniform = lowest == highest;
  if (with_tail > 0) group.mean_tail_share = tail / with_tail;
  if (group.scored == 0) return group;
  group.pass_rate = static_cast<double>(correct) / group.scored;
  group.mean_total /= group.scored;
  // Rounding must not make a spread of nothing.
  if (group.uniform) return group;
  for (const TraceScore& score : scores) {
    if (score.verification.verdict == Verdict::kAbstain) continue;
    const double off = score.total - group.mean_total;
    group.std_total += off * off / group.scored;
  }
  group.std_total = std::sqrt(group.std_total);
  return group;
}

}  // namespace espalier::reward
