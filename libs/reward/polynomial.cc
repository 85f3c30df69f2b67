// Sums and products of maps from monomials to coefficients; sizes are bounded by terms, degree and
// bits.
#include "libs/reward/polynomial.h"

#include <algorithm>

#include "libs/reward/exact.h"

namespace espalier::reward {
namespace {

constexpr size_t kTermsMax = 400;
constexpr int kDegreeMax = 200;

Polynomial Constant(const mpq_class& value) {
  Polynomial constant;
  if (value != 0) constant[{}] = value;
  return constant;
}

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

class Normaliser {
 public:
  Normaliser(const Expression& expression, Budget* budget)
      : expression_(expression), budget_(budget) {}

  std::optional<RationalFunction> Run(int index) {
    if (!budget_->Spend(2)) return std::nullopt;
    const Node& node = expression_.at(index);
    switch (node.kind) {
      case Kind::kNumber:
        return RationalFunction{Constant(node.value), Constant(1)};
      case Kind::kSymbol:
        return Atom(node.name, false);
      case Kind::kPi:
        return Atom("\\pi", true);
      case Kind::kEuler:
        return Atom("\\e", true);
      case Kind::kSum:
        return Fold(node, true);
      case Kind::kProduct:
        return Fold(node, false);
      case Kind::kNegate:
        return Negate(node);
      case Kind::kPercent:
        return Scale(node, mpq_class(1, 100));
      case Kind::kQuotient:
        return Divide(node);
      case Kind::kPower:
        return Raise(index, node);
      case Kind::kFactorial:
      case Kind::kFunction:
      case Kind::kDegree:
        return Opaque(index);
      default:
        return std::nullopt;
    }
  }

 private:
  static RationalFunction Atom(const std::string& name, bool opaque) {
    RationalFunction atom;
    atom.over[{{name, 1}}] = 1;
    atom.under = Constant(1);
    atom.opaque = opaque;
    return atom;
  }

  std::optional<RationalFunction> Opaque(int index) {
    mpq_class value;
    if (EvaluateExact(expression_, index, budget_, &value) == Outcome::kValue) {
      return RationalFunction{Constant(value), Constant(1)};
    }
    if (budget_->spent()) return std::nullopt;
    return Atom(ToText(expression_, index, budget_), true);
  }

  std::optional<RationalFunction> Combine(const RationalFunction& a, const RationalFunction& b,
                                          bool sum) {
    RationalFunction result;
    result.opaque = a.opaque || b.opaque;
    std::optional<Polynomial> over, under;
    if (sum) {
      if (a.under == b.under) {
        over = Subtract(a.over, Subtract({}, b.over));
        under = a.under;
      } else {
        const auto left = Multiply(a.over, b.under, budget_),
                   right = Multiply(b.over, a.under, budget_);
        if (!left || !right) return std::nullopt;
        over = Subtract(*left, Subtract({}, *right));
        under = Multiply(a.under, b.under, budget_);
      }
    } else {
      over = Multiply(a.over, b.over, budget_);
      under = Multiply(a.under, b.under, budget_);
    }
    if (!over || !under || over->size() > kTermsMax || under->size() > kTermsMax)
      return std::nullopt;
    result.over = *std::move(over);
    result.under = *std::move(under);
    return result;
  }

  std::optional<RationalFunction> Fold(const Node& node, bool sum) {
    RationalFunction result{Constant(sum ? 0 : 1), Constant(1)};
    for (const int child : node.children) {
      const auto part = Run(child);
      if (!part) return std::nullopt;
      auto combined = Combine(result, *part, sum);
      if (!combined) return std::nullopt;
      result = *std::move(combined);
    }
    return result;
  }

  std::optional<RationalFunction> Negate(const Node& node) { return Scale(node, -1); }

  std::optional<RationalFunction> Scale(const Node& node, const mpq_class& factor) {
    auto part = Run(node.children[0]);
    if (part) {
      for (auto& [monomial, coefficient] : part->over) coefficient *= factor;
    }
    return part;
  }

  std::optional<RationalFunction> Divide(const Node& node) {
    auto over = Run(node.children[0]), under = Run(node.children[1]);
    if (!over || !under || under->over.empty()) return std::nullopt;
    std::swap(under->over, under->under);
    return Combine(*over, *under, false);
  }

  std::optional<RationalFunction> Raise(int index, const Node& node) {
    mpq_class exponent;
    if (EvaluateExact(expression_, node.children[1], budget_, &exponent) != Outcome::kValue ||
        exponent.get_den() != 1 || abs(exponent) > kDegreeMax) {
      return Opaque(index);
    }
    auto base = Run(node.children[0]);
    if (!base) return std::nullopt;
    long n = exponent.get_num().get_si();
    if (n < 0) {
      if (base->over.empty()) return std::nullopt;
      std::swap(base->over, base->under);
      n = -n;
    }
    RationalFunction result{Constant(1), Constant(1)};
    // Squaring, so that (x + 1)^200 costs few products of growing size and the bounds stop it
    // early.
    for (RationalFunction square = *base; n > 0; n /= 2) {
      if (n % 2 == 1) {
        auto product = Combine(result, square, false);
        if (!product) return std::nullopt;
        result = *std::move(product);
      }
      if (n == 1) break;
      auto product = Combine(square, square, false);
      if (!product) return std::nullopt;
      square = *std::move(product);
    }
    result.opaque = base->opaque;
    return result;
  }

  const Expression& expression_;
  Budget* const budget_;
};

}  // namespace

std::optional<Polynomial> Multiply(const Polynomial& a, const Polynomial& b, Budget* budget) {
  Polynomial product;
  for (const auto& [monomial_a, coefficient_a] : a) {
    for (const auto& [monomial_b, coefficient_b] : b) {
      const int64_t bits = static_cast<int64_t>(mpz_sizeinbase(coefficient_a.get_num_mpz_t(), 2) +
                                                mpz_sizeinbase(coefficient_b.get_num_mpz_t(), 2));
      if (bits > kBitsMax || !budget->Spend(2 + bits / 128)) return std::nullopt;
      Monomial monomial = Times(monomial_a, monomial_b);
      if (Degree(monomial) > kDegreeMax) return std::nullopt;
      mpq_class& sum = product[std::move(monomial)];
      sum += coefficient_a * coefficient_b;
      if (product.size() > kTermsMax) return std::nullopt;
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

std::optional<RationalFunction> Normalise(const Expression& expression, int node, Budget* budget) {
  return Normaliser(expression, budget).Run(node);
}

}  // namespace espalier::reward
