// Equivalence of two parsed answers.
#pragma once

#include <string>

#include "libs/reward/expression.h"

namespace espalier::reward {

enum class Match {
  kEqual,     // proved
  kProbable,  // equal wherever it was tried
  kDifferent,
  kUnknown,  // beyond the budget or nowhere defined
};

struct Decision {
  Match match = Match::kUnknown;
  const char* rule = "";  // which comparison decided
  bool tested = false;    // it rests on evaluation at points
};
inline bool IsYes(const Decision& decision) {
  return decision.match == Match::kEqual || decision.match == Match::kProbable;
}

Decision Compare(const Expression& reference, const Expression& answer, bool strict_units,
                 Budget* budget);

// Half a unit of the last written place of a decimal, 0 for anything else.
mpq_class HalfPlace(const Expression& expression, int node);

// Whether `answer` rounds to the decimal `reference` whose half place is `half`.
bool RoundsTo(const mpq_class& answer, const mpq_class& reference, const mpq_class& half);

}  // namespace espalier::reward
