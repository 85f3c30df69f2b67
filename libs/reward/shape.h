// Shaping: the numbers of the reward as functions of counts, and the checks of repetition and
// format.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace espalier::reward {

// RIRM's reflection part. Right traces: 1 up to `minimum` reflections, falling in a line to 0 at
// `maximum`; wrong ones: 0, falling to -1. With minimum == maximum it is a step behind `minimum`.
double ReflectionPart(double reflections, double minimum, double maximum, bool correct);

// DAPO's soft overlong penalty: 0 up to maximum - buffer, falling in a line to -1 at maximum.
double OverlongPart(int64_t length, int64_t maximum, int64_t buffer);

// Kimi k1.5: lambda = 0.5 - (length - shortest) / (longest - shortest); wrong traces gain nothing
// from it. 0 when all are equally long.
double GroupLengthPart(int64_t length, int64_t shortest, int64_t longest, bool correct);

// Cosine reward (arXiv 2502.03373) with its published ends: correct traces earn 2 at length 0
// falling to 1 at `maximum`, wrong ones -10 rising to 0; from `maximum` on both get -10.
double CosinePart(int64_t length, int64_t maximum, bool correct);

// L1 (arXiv 2503.04697), exact: -scale for each token away from `target`.
double L1Part(int64_t length, int64_t target, double scale);
// L1, max: correct traces earn 1/2 at `target`, more below it and less above, from 0 to 1; wrong
// ones nothing.
double L1MaxPart(int64_t length, int64_t target, double scale, bool correct);

// Words by whitespace; letters of scripts without spaces count one each.
int64_t CountWords(absl::string_view text);

// Share of distinct ones among the runs of 20 words; 1 for shorter texts.
double UniqueRunShare(absl::string_view text);
inline constexpr int kRunWords = 20;
inline constexpr double kUniqueRunShareMin = 0.8;  // at or below it the text repeats itself

// Thinking and answer tags that are opened once, closed once, in order.
bool TagsAreWhole(absl::string_view text);

}  // namespace espalier::reward
