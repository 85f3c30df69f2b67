// Numeric evaluation in high precision at points chosen by hash: tells expressions apart that have
// no exact normal form.
#pragma once

#include <optional>

#include "libs/reward/expression.h"

namespace espalier::reward {

enum class Comparison {
  kEqual,      // at every point where both are defined, to far more digits than chance allows
  kDifferent,  // at one point at least
  kUnknown,    // nowhere defined, or beyond the budget
};

// Symbols of the same name take the same value in both. `absolute_tolerance` 0 asks for equality to
// the working precision.
Comparison CompareNumerically(const Expression& a, int node_a, const Expression& b, int node_b,
                              double absolute_tolerance, Budget* budget);

// The value of an expression without symbols, to sort by; nothing when it has none.
std::optional<double> Approximate(const Expression& expression, int node, Budget* budget);

}  // namespace espalier::reward
