// What extraction shares with the rest: the committed part of a trace, and whether a text is prose.
#pragma once

#include "absl/strings/string_view.h"
#include "libs/reward/reward.h"

namespace espalier::reward {

// The part of a trace that commits: behind the thinking section and before the next speaker's turn.
// Empty when the thinking was never closed.
absl::string_view CommittedPart(absl::string_view trace);

// Whether a rule of Extraction names an explicit commitment rather than a guess at what was meant.
bool IsExplicit(absl::string_view rule);

}  // namespace espalier::reward
