// What extraction shares with the rest: the committed part of a trace, and whether a text is prose.
#pragma once

#include "absl/strings/string_view.h"
#include "libs/reward/reward.h"

namespace espalier::reward {

// The part of a trace that commits: behind the thinking section and before the next speaker's turn.
// Empty when the thinking was never closed.
absl::string_view CommittedPart(absl::string_view trace);

// Whether a rule of Extraction names a marked statement: a box, "####", a phrase, an answer
// section.
bool IsMarked(absl::string_view rule);
// Whether it is marked, or the trace is nothing but its answer; the other rules guess at what was
// meant.
bool IsExplicit(absl::string_view rule);

}  // namespace espalier::reward
