// Reward: from a reference and a reasoning trace to a verdict and a score with its parts. Pure
// functions, bounded work, no threads; may be called from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace espalier::reward {

enum class Verdict { kCorrect, kWrong, kAbstain };

struct Extraction {
  std::string text;            // the answer as it stands
  int64_t begin = 0, end = 0;  // byte range in the trace
  std::string rule;            // "boxed", "hash", "answer_phrase", "last_number", …
  bool found = false;
};
// The last committed answer outside a thinking section.
Extraction ExtractAnswer(absl::string_view trace);

struct Verification {
  Verdict verdict = Verdict::kAbstain;
  std::string reason;  // one sentence
  std::string rule;
  std::string canonical_reference, canonical_answer;
  // The verdict follows from an exact comparison; false where it rests on identity testing at
  // points, and for kAbstain.
  bool proved = false;
};
struct VerifyOptions {
  bool strict_units =
      false;  // an answer without the reference's unit, or in a converted one, is wrong
};
// Equivalence of two answers, both already extracted. A reference may be a whole solution; its
// answer is extracted then.
Verification VerifyAnswer(absl::string_view reference, absl::string_view answer,
                          const VerifyOptions& options = {});

// kL1Max has no value in the protos: the preset l1-max/1 asks for it.
enum class LengthShaping { kNone, kOverlong, kGroup, kCosine, kL1, kL1Max };
// Mirrors espalier.v1.RewardSpec, defaults resolved. Named values of it: presets.h.
struct RewardOptions {
  double reflection_min = 0, reflection_max = 3;
  double answer_weight = 1, accuracy_weight = 1, reflection_weight = 1, side_weight = 1;
  LengthShaping length_shaping = LengthShaping::kNone;
  double length_weight = 0.5;
  int64_t length_max = 0, length_buffer = 0;
  int64_t length_target = 0;     // l1
  double length_scale = 0.0003;  // l1: for each token
  bool safe = true;              // no weighted part of a trace that is not correct is above 0
  bool count_hesitations = false;
  bool check_language = false;
};

struct TraceInput {
  std::string text;
  int64_t token_count = 0;
  bool truncated = false;
};

struct RewardParts {
  double answer = 0, accuracy = 0, reflection = 0, length = 0, side = 0;
};

// Byte range [begin, end) of a trace.
struct TextSpan {
  int64_t begin = 0, end = 0;
};

struct TraceScore {
  double total = 0;      // sum of `parts`
  double raw_total = 0;  // the same without the length part
  RewardParts parts;     // weighted
  RewardParts raw_parts;
  Verification verification;
  Extraction extraction;
  int reflections = 0;  // complete answer stated again after its first statement
  int hesitations = 0;
  bool first_answer_correct = false;
  // The sentences that state the right answer (the first, and each later one) and the hesitation
  // cues.
  std::optional<TextSpan> first_correct;
  std::vector<TextSpan> restatements, hesitation_cues;
  // Share of the trace after the sentence that first states the right answer: by bytes, which stand
  // in for tokens, since a trace comes with the number of its tokens but not with their places.
  std::optional<double> tail_share;
  bool repetition_ok = true, format_ok = true, language_ok = true;
  double advantage = 0;  // (total - mean) / std of its group; 0 without a verdict
};

// Scores one group: group-relative length shaping looks at all of it. An unreadable reference gives
// kAbstain and a total of 0 with the reason, never a silent zero. `prompt` serves the language
// check.
std::vector<TraceScore> ScoreGroup(absl::string_view reference,
                                   const std::vector<TraceInput>& traces,
                                   const RewardOptions& options, absl::string_view prompt = {});

// A group as reinforcement learning sees it, over the traces that have a verdict.
struct GroupStatistics {
  int scored = 0, abstained = 0;
  double pass_rate = 0;
  double mean_total = 0, std_total = 0;  // std of the population
  bool uniform = false;                  // every total is the same: no gradient
  double mean_tail_share = 0;            // over the traces that have one
};
GroupStatistics Summarize(const std::vector<TraceScore>& scores);

}  // namespace espalier::reward
