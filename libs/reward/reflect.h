// Reflection: where a trace states the right answer, and where it hesitates.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "libs/reward/reward.h"
#include "libs/reward/verifier.h"

namespace espalier::reward {

struct Reflections {
  int statements = 0;                 // marked statements of any answer
  bool first_correct = false;         // the first statement is right
  std::vector<TextSpan> correct;      // the sentences that state the right answer
  std::vector<TextSpan> hesitations;  // the cues, at most one a sentence
};

// Statements are marked ones (boxes, "####", answer phrases and sections) and conclusions of prose.
// An intermediate value that equals the answer is none: numbers are worked with behind it before
// the trace says the answer, checks or ends. `final_answer` is the trace's own right answer, or
// null; the sentence that it stands in is a statement whatever its form.
Reflections FindReflections(absl::string_view trace, const Verifier& verifier,
                            const Extraction* final_answer);

}  // namespace espalier::reward
