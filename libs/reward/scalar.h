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

Decision CompareScalars(const NodePair& pair, Budget* budget);

}  // namespace espalier::reward
