// Sentences: a trace cut into sentences and lines, and the cues of hesitation in them.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/strings/string_view.h"

namespace espalier::reward {

struct Sentence {
  size_t begin = 0, end = 0;   // without list marks and surrounding space; the final mark included
  bool in_answer_tag = false;  // the content of <answer>…</answer>
  bool last_of_section = false;  // a tag follows, or the text ends
};

// In order, none empty, linear in the text's size. Marks inside numbers and formulas end nothing;
// tags belong to no sentence.
std::vector<Sentence> SplitSentences(absl::string_view text);

struct Cue {
  size_t begin = 0, size = 0;  // size 0: there is none
};
// The first cue of hesitation ("wait", "hmm", "let me double-check", "alternatively" …) of a
// sentence; several in one sentence are one hesitation.
Cue FindCue(absl::string_view text, const Sentence& sentence);

}  // namespace espalier::reward
