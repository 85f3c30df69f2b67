// Equivalence of single values and expressions: exact, then by normal form, then numerically.
#pragma once

#include "libs/reward/equivalence.h"

namespace espalier::reward {

// Two nodes, one of the reference and one of the answer.
struct NodePair {
  const Expression& reference;
  int reference_node;
  const Expression& answer;
  int answer_node;
};

// Unless `strict_units`, a percent or degree sign may be left out or written out.
Decision CompareScalars(const NodePair& pair, bool strict_units, Budget* budget);

}  // namespace espalier::reward
