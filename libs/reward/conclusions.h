// Conclusions: sentences of prose that state a result without a box, a "####" line or an answer
// phrase ("So x = 5.", "She has 14 apples left.").
#pragma once

#include <array>
#include <cstddef>

#include "absl/strings/string_view.h"
#include "libs/reward/sentences.h"

namespace espalier::reward {

enum class Conclusion {
  kNone,     // asks, supposes, hedges, or only works ("19 - 5 = 14.")
  kWeak,     // names a single value ("She gives away 8 cards.")
  kStrong,   // concludes with it ("So 8 cards are left.", "We get x = 8.")
  kConfirm,  // says it once more ("Yes, it is 8.")
};

// What a sentence may be saying; which of `values` is the answer is for the verifier to find.
struct ConclusionReading {
  Conclusion kind = Conclusion::kNone;
  bool has_digits = false;  // works with numbers, if it is no conclusion
  bool names = false;       // gives a name its value, without working ("And b = 8.")
  bool leads = false;       // a word of conclusion leads it ("so", "therefore")
  std::array<absl::string_view, 5> values;  // candidates, likeliest first
  size_t value_count = 0;
};
ConclusionReading ReadConclusion(absl::string_view text, const Sentence& sentence);

}  // namespace espalier::reward
