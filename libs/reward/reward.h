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

enum class LengthShaping { kNone, kOverlong, kGroup };
// Mirrors espalier.v1.RewardSpec, defaults resolved.
struct RewardOptions {
  double reflection_min = 0, reflection_max = 3;
  double answer_weight = 1, accuracy_weight = 1, reflection_weight = 1, side_weight = 1;
  LengthShaping length_shaping = LengthShaping::kNone;
  double length_weight = 0.5;
  int64_t length_max = 0, length_buffer = 0;
  bool safe = true;
};

struct TraceInput {
  std::string text;
  int64_t token_count = 0;
  bool truncated = false;
};

// Weighted: their sum is the total.
struct RewardParts {
  double answer = 0, accuracy = 0, reflection = 0, length = 0, side = 0;
};

struct TraceScore {
  double total = 0;
  RewardParts parts;
  Verification verification;
  Extraction extraction;
  int reflections = 0;  // complete answer stated again after its first statement
  int hesitations = 0;
  bool first_answer_correct = false;
  std::optional<double> tail_share;  // share of the text after the first correct answer
  bool repetition_ok = true, format_ok = true;
};

// Scores one group: group-relative length shaping looks at all of it. An unreadable reference gives
// kAbstain and a total of 0 with the reason, never a silent zero.
std::vector<TraceScore> ScoreGroup(absl::string_view reference,
                                   const std::vector<TraceInput>& traces,
                                   const RewardOptions& options);

}  // namespace espalier::reward
