// Series: the parts of "\sum_{k=1}^{n} body" and "\prod_{k=1}^{n} body", and the names that stand
// for integers because of them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "libs/reward/expression.h"

namespace espalier::reward {

// Sums with more terms than this are not added up term by term.
inline constexpr long kTermsMax = 1000;

struct Series {
  bool sum = true;  // or a product
  std::string index;
  int lower = -1, upper = -1, body = -1;  // nodes
  bool infinite = false;                  // the upper limit is infinity
};
// Nothing when the node is no sum or product over one index.
std::optional<Series> ReadSeries(const Expression& expression, int node);

// Symbols that only integers make sense for: limits of sums, arguments of factorials and binomials,
// exponents of negative numbers.
void CollectIntegers(const Expression& expression, int node, std::vector<std::string>* names);

// "a_k" at k = 3 is "a_3": the name with its bound subscripts filled in.
std::string BoundName(const std::string& name, const Bindings& bindings);

}  // namespace espalier::reward
