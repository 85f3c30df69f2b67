// Language: whether a trace keeps to the scripts of its prompt.
#pragma once

#include "absl/strings/string_view.h"

namespace espalier::reward {

// False for a trace that mixes scripts, one of which its prompt does not have; without a prompt,
// one beside its own main script. Latin and Greek letters by themselves are mathematics; words of
// Latin letters count, those of LaTeX and tags aside. A few letters of a script are a name, not a
// mixture.
bool KeepsToLanguage(absl::string_view trace, absl::string_view prompt);

}  // namespace espalier::reward
