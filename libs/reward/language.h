// Language: whether a trace keeps to the scripts of its prompt.
#pragma once

#include "absl/strings/string_view.h"

namespace espalier::reward {

// False for a trace with a script that its prompt does not have; without a prompt, with one beside
// its own main script. Greek letters are mathematics and count for nothing; of Latin letters those
// of words count, LaTeX and tags aside. A few letters of a script are a name or a unit.
bool KeepsToLanguage(absl::string_view trace, absl::string_view prompt);

}  // namespace espalier::reward
