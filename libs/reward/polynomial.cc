// Sums and products of maps from monomials to coefficients; sizes are bounded by terms, degree and
// bits. What a tree means as a rational function is in normalise.cc.
#include "libs/reward/polynomial.h"

#include <algorithm>

namespace espalier::reward {
namespace {

constexpr size_t kPolynomialTermsMax = 400;

Monomial Times(const Monomial& a, const Monomial& b) {
  Monomial product;
  auto i = a.begin(), j = b.begin();
  while (i != a.end() || j != b.end()) {
    if (j == b.end() || (i != a.end() && i->first < j->first)) {
      product.push_back(*i++);
    } else if (i == a.end() || j->first < i->first) {
      product.push_back(*j++);
    } else {
      product.emplace_back(i->first, i->second + j->second);
      ++i, ++j;
    }
  }
  return product;
}

int Degree(const Monomial& monomial) {
  int degree = 0;
  for (const auto& [name, exponent] : monomial) degree += exponent;
  return degree;
}

// i^2 = -1 and sqrt(n)^2 = n within one term.
void Reduce(Monomial* monomial, mpq_class* coefficient) {
  for (auto factor = monomial->begin(); factor != monomial->end();) {
    auto& [name, exponent] = *factor;
    if (exponent > 1 && name == kImaginary) {
      if (exponent % 4 >= 2) *coefficient = -*coefficient;
      exponent %= 2;
    } else if (exponent > 1 && name.compare(0, kRoot.size(), kRoot.data(), kRoot.size()) == 0) {
      mpz_class power;
      mpz_pow_ui(power.get_mpz_t(), mpz_class(name.substr(kRoot.size()), 10).get_mpz_t(),
                 static_cast<unsigned long>(exponent / 2));
      *coefficient *= power;
      exponent %= 2;
    }
    factor = exponent == 0 ? monomial->erase(factor) : factor + 1;
  }
}

}  // namespace

std::optional<Polynomial> Multiply(const Polynomial& a, const Polynomial& b, Budget* budget) {
  Polynomial product;
  for (const auto& [monomial_a, coefficient_a] : a) {
    for (const auto& [monomial_b, coefficient_b] : b) {
      const int64_t bits = static_cast<int64_t>(mpz_sizeinbase(coefficient_a.get_num_mpz_t(), 2) +
                                                mpz_sizeinbase(coefficient_b.get_num_mpz_t(), 2));
      if (bits > kBitsMax || !budget->Spend(3 + bits / 128)) return std::nullopt;
      Monomial monomial = Times(monomial_a, monomial_b);
      if (Degree(monomial) > kPolynomialDegreeMax) return std::nullopt;
      mpq_class coefficient = coefficient_a * coefficient_b;
      Reduce(&monomial, &coefficient);
      product[std::move(monomial)] += coefficient;
      if (product.size() > kPolynomialTermsMax) return std::nullopt;
    }
  }
  std::erase_if(product, [](const auto& term) { return term.second == 0; });
  return product;
}

Polynomial Subtract(const Polynomial& a, const Polynomial& b) {
  Polynomial difference = a;
  for (const auto& [monomial, coefficient] : b) {
    mpq_class& rest = difference[monomial];
    rest -= coefficient;
    if (rest == 0) difference.erase(monomial);
  }
  return difference;
}

std::optional<mpq_class> Proportion(const Polynomial& a, const Polynomial& b) {
  if (a.empty() || a.size() != b.size()) return std::nullopt;
  const mpq_class factor = a.begin()->second / b.begin()->second;
  for (auto i = a.begin(), j = b.begin(); i != a.end(); ++i, ++j) {
    if (i->first != j->first || i->second != factor * j->second) return std::nullopt;
  }
  return factor;
}

Polynomial ConstantPolynomial(const mpq_class& value) {
  Polynomial constant;
  if (value != 0) constant[{}] = value;
  return constant;
}

}  // namespace espalier::reward
