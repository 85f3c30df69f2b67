// Exact evaluation: the rational value of an expression without symbols, if it has one within
// kBitsMax.
#pragma once

#include "libs/reward/expression.h"

namespace espalier::reward {

enum class Outcome {
  kValue,
  kNot,        // no rational, or not decidable this way
  kUndefined,  // division by zero, factorial of -1 …
  kBudget,     // too large
};

// Symbols that `bindings` names have its values; any other makes the expression undecidable here.
Outcome EvaluateExact(const Expression& expression, int node, Budget* budget, mpq_class* value,
                      const Bindings& bindings = {});

}  // namespace espalier::reward
