// Rational functions in normal form: quotients of polynomials with rational coefficients over
// symbols and opaque terms.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libs/reward/expression.h"

namespace espalier::reward {

// Factors of a term, sorted: (name, exponent > 0).
using Monomial = std::vector<std::pair<std::string, int>>;
using Polynomial = std::map<Monomial, mpq_class>;  // no zero coefficients

// Names of independent algebraic numbers: the imaginary unit, and square roots by their radicand.
inline constexpr absl::string_view kImaginary = "i", kRoot = "\\root:";
inline constexpr int kPolynomialDegreeMax = 200;

struct RationalFunction {
  Polynomial over, under;  // `under` is not zero
  // Terms such as sqrt(x) or sin(1) stand as symbols: unequal forms may still be equal. Square
  // roots of primes, the imaginary unit and pi are independent, so that forms with them decide.
  bool opaque = false;
};

// Nothing when the expression is not scalar, undefined, or too large for the budget.
std::optional<RationalFunction> Normalise(const Expression& expression, int node, Budget* budget);

// Products reduce powers of the imaginary unit and of square roots.
std::optional<Polynomial> Multiply(const Polynomial& a, const Polynomial& b, Budget* budget);
Polynomial ConstantPolynomial(const mpq_class& value);
Polynomial Subtract(const Polynomial& a, const Polynomial& b);
// The factor c with a == c * b, if there is one (neither is zero).
std::optional<mpq_class> Proportion(const Polynomial& a, const Polynomial& b);

}  // namespace espalier::reward
