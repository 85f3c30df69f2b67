// Reflection: where a trace states the answer, where it first states the right one, and what
// follows that.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "libs/reward/verifier.h"

namespace espalier::reward {

struct Reflections {
  int statements = 0;                 // explicit statements of any answer
  bool first_correct = false;         // the first statement is right
  std::vector<TextSpan> correct;      // the sentences that state the right answer
  std::vector<TextSpan> hesitations;  // "wait", "hmm", "let me check" …, at most one a sentence
};

Reflections FindReflections(absl::string_view trace, const Verifier& verifier);

}  // namespace espalier::reward
