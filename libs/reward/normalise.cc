// The normal form of a tree: sums, products, quotients and whole powers are worked out; square
// roots of rationals become square roots of primes; sums over an index get their closed forms;
// whatever else is a value stands as an opaque symbol named by its text.
#include <algorithm>
#include <array>

#include "libs/reward/exact.h"
#include "libs/reward/polynomial.h"
#include "libs/reward/series.h"

namespace espalier::reward {
namespace {

constexpr size_t kFormTermsMax = 400;
constexpr int kSumDegreeMax = 12;
constexpr long kExpandedTermsMax = 60;
constexpr unsigned long kTrialPrimeMax = 2000;

using Form = std::optional<RationalFunction>;

RationalFunction Constant(const mpq_class& value) {
  return {ConstantPolynomial(value), ConstantPolynomial(1)};
}

RationalFunction Atom(const std::string& name, bool opaque) {
  RationalFunction atom = Constant(1);
  atom.over.clear();
  atom.over[{{name, 1}}] = 1;
  atom.opaque = opaque;
  return atom;
}

// coefficient * ratio^index
struct Geometric {
  RationalFunction coefficient, ratio;
};

class Normaliser {
 public:
  Normaliser(const Expression& expression, Budget* budget)
      : expression_(expression), budget_(budget) {}

  Form Run(int index) {
    if (!budget_->Spend(2)) return std::nullopt;
    const Node& node = expression_.at(index);
    switch (node.kind) {
      case Kind::kNumber:
        return Constant(node.value);
      case Kind::kSymbol:
        return Symbol(node.name);
      case Kind::kPi:
        return Atom("\\pi", false);
      case Kind::kEuler:
        return Atom("\\e", true);
      case Kind::kSum:
        return Fold(node, true);
      case Kind::kProduct:
        return Fold(node, false);
      case Kind::kNegate:
        return Scale(node, -1);
      case Kind::kPercent:
        return Scale(node, mpq_class(1, 100));
      case Kind::kQuotient:
        return Divide(Run(node.children[0]), Run(node.children[1]));
      case Kind::kPower:
        return Raise(index, node);
      case Kind::kFunction:
        return Function(index, node);
      case Kind::kFactorial:
      case Kind::kDegree:
        return Opaque(index);
      default:
        return std::nullopt;
    }
  }

 private:
  Form Symbol(const std::string& name) {
    for (const auto& [bound, value] : bindings_) {
      if (bound == name) return Constant(value);
    }
    for (const std::string& index : indices_) {
      if (index == name) return Atom(IndexName(name), false);
    }
    return Atom(BoundName(name, bindings_), false);
  }
  // An index is no imaginary unit, whatever its name.
  static std::string IndexName(const std::string& name) { return "\\index:" + name; }

  Form Opaque(int index) {
    mpq_class value;
    if (EvaluateExact(expression_, index, budget_, &value, bindings_) == Outcome::kValue)
      return Constant(value);
    // Within a sum the name would have to follow the index.
    if (budget_->spent() || !bindings_.empty()) return std::nullopt;
    return Atom(ToText(expression_, index, budget_), true);
  }

  Form Combine(const Form& a, const Form& b, bool sum) {
    if (!a || !b) return std::nullopt;
    RationalFunction result;
    result.opaque = a->opaque || b->opaque;
    std::optional<Polynomial> over, under;
    if (sum) {
      if (a->under == b->under) {
        over = Subtract(a->over, Subtract({}, b->over));
        under = a->under;
      } else {
        const auto left = Multiply(a->over, b->under, budget_),
                   right = Multiply(b->over, a->under, budget_);
        if (!left || !right) return std::nullopt;
        over = Subtract(*left, Subtract({}, *right));
        under = Multiply(a->under, b->under, budget_);
      }
    } else {
      over = Multiply(a->over, b->over, budget_);
      under = Multiply(a->under, b->under, budget_);
    }
    if (!over || !under || under->empty() || over->size() > kFormTermsMax ||
        under->size() > kFormTermsMax)
      return std::nullopt;
    result.over = *std::move(over);
    result.under = *std::move(under);
    return result;
  }
  Form Add(const Form& a, const Form& b) { return Combine(a, b, true); }
  Form Times(const Form& a, const Form& b) { return Combine(a, b, false); }
  Form Divide(const Form& over, Form under) {
    if (!over || !under || under->over.empty()) return std::nullopt;
    std::swap(under->over, under->under);
    return Times(over, under);
  }
  Form Negated(Form form) {
    if (form) {
      for (auto& [monomial, coefficient] : form->over) coefficient = -coefficient;
    }
    return form;
  }

  Form Fold(const Node& node, bool sum) {
    Form result = Constant(sum ? 0 : 1);
    for (const int child : node.children) {
      result = Combine(result, Run(child), sum);
      if (!result) break;
    }
    return result;
  }

  Form Scale(const Node& node, const mpq_class& factor) {
    return Times(Run(node.children[0]), Constant(factor));
  }

  Form Raise(int index, const Node& node) {
    mpq_class exponent;
    if (EvaluateExact(expression_, node.children[1], budget_, &exponent, bindings_) !=
            Outcome::kValue ||
        abs(exponent) > kPolynomialDegreeMax) {
      return SymbolicPower(index, node);
    }
    if (exponent.get_den() == 2) {
      // x^(n/2) of a rational: its square root to the n.
      mpq_class base;
      if (EvaluateExact(expression_, node.children[0], budget_, &base, bindings_) ==
              Outcome::kValue &&
          base > 0)
        return RaiseTo(SquareRoot(base), exponent.get_num().get_si());
    }
    if (exponent.get_den() != 1) return Opaque(index);
    return RaiseTo(Run(node.children[0]), exponent.get_num().get_si());
  }

  // i^2023, 2^(n + 1): whole parts of the exponent are taken out.
  Form SymbolicPower(int index, const Node& node) {
    const Node& base = expression_.at(node.children[0]);
    mpq_class exponent, number;
    if (base.kind == Kind::kSymbol && base.name == kImaginary &&
        EvaluateExact(expression_, node.children[1], budget_, &exponent, bindings_) ==
            Outcome::kValue &&
        exponent.get_den() == 1) {
      const long rest = static_cast<long>(mpz_fdiv_ui(exponent.get_num_mpz_t(), 4));
      return RaiseTo(Run(node.children[0]), rest);
    }
    const Node& power = expression_.at(node.children[1]);
    if (power.kind != Kind::kSum || !bindings_.empty() ||
        EvaluateExact(expression_, node.children[0], budget_, &number) != Outcome::kValue ||
        number <= 0)
      return Opaque(index);
    // base^(a + 3) = base^a * base^3, for numbers only: opaque parts keep their text.
    const Form form = Run(node.children[1]);
    if (!form || form->opaque || form->under != ConstantPolynomial(1)) return Opaque(index);
    const auto constant = form->over.find({});
    if (constant == form->over.end() || constant->second.get_den() != 1 ||
        abs(constant->second) > 60)
      return Opaque(index);
    Form rest = form;
    rest->over.erase(Monomial{});
    const Form whole = RaiseTo(Constant(number), constant->second.get_num().get_si());
    return Times(whole, Atom(PowerName(number, rest->over), true));
  }

  // The text of base^exponent for an exponent in normal form; "(2^n)" as ToText writes it when the
  // exponent is one symbol.
  static std::string PowerName(const mpq_class& base, const Polynomial& exponent) {
    std::string text;
    for (const auto& [monomial, coefficient] : exponent) {
      if (!text.empty()) text += " + ";
      if (coefficient != 1) text += coefficient.get_str() + "*";
      for (const auto& [name, power] : monomial)
        text += power == 1 ? name : name + "^" + std::to_string(power);
    }
    return "(" + base.get_str() + "^" + text + ")";
  }

  Form RaiseTo(Form base, long n) {
    if (!base) return std::nullopt;
    if (n < 0) {
      if (base->over.empty()) return std::nullopt;
      std::swap(base->over, base->under);
      n = -n;
    }
    // Squaring, so that (x + 1)^200 costs few products of growing size and the bounds stop it
    // early.
    Form result = Constant(1);
    for (Form square = base; n > 0 && result; n /= 2) {
      if (n % 2 == 1) result = Times(result, square);
      if (n > 1) square = Times(square, square);
    }
    if (result) result->opaque = base->opaque;
    return result;
  }

  Form Function(int index, const Node& node) {
    mpq_class value;
    const bool root = node.name == "sqrt" && node.children.size() == 1;
    if (root &&
        EvaluateExact(expression_, node.children[0], budget_, &value, bindings_) == Outcome::kValue)
      return SquareRoot(value);
    if (node.name == "sum" || node.name == "prod") return Series(index);
    return Opaque(index);
  }

  // sqrt(p / q) = s / q * sqrt(a) sqrt(b) … with primes a, b …; an imaginary unit for negative
  // ones.
  Form SquareRoot(const mpq_class& value) {
    if (value == 0) return Constant(0);
    mpz_class rest = abs(value.get_num()) * value.get_den();
    if (mpz_sizeinbase(rest.get_mpz_t(), 2) > 512 || !budget_->Spend(60)) return std::nullopt;
    mpz_class outside = 1;
    Form result = Constant(1);
    for (unsigned long prime = 2; prime < kTrialPrimeMax && rest > 1; prime += prime == 2 ? 1 : 2) {
      if (rest < prime * prime) break;
      unsigned long count = 0;
      while (mpz_divisible_ui_p(rest.get_mpz_t(), prime) != 0) rest /= prime, ++count;
      for (unsigned long i = 0; i < count / 2; ++i) outside *= prime;
      if (count % 2 == 1)
        result = Times(result, Atom(std::string(kRoot) + std::to_string(prime), false));
    }
    if (mpz_perfect_square_p(rest.get_mpz_t()) != 0) {
      outside *= sqrt(rest);
    } else {
      // What is left has no small factor: a prime, unless it is large.
      const bool large = rest > mpz_class(kTrialPrimeMax) * kTrialPrimeMax;
      result = Times(result, Atom(std::string(kRoot) + rest.get_str(), large));
    }
    mpq_class scale(outside, value.get_den());
    scale.canonicalize();
    result = Times(result, Constant(scale));
    return value < 0 ? Times(result, Atom(std::string(kImaginary), false)) : result;
  }

  // --- sums over an index

  Form Series(int index) {
    const auto series = ReadSeries(expression_, index);
    if (!series) return Opaque(index);
    mpq_class value;
    if (EvaluateExact(expression_, index, budget_, &value, bindings_) == Outcome::kValue)
      return Constant(value);
    Form form = Expanded(*series);
    if (!form && series->sum && !series->infinite) form = Powers(*series);
    if (!form && series->sum) form = GeometricSum(*series);
    if (form) return form;
    return Opaque(index);
  }

  // Few terms between known limits are written out.
  Form Expanded(const espalier::reward::Series& series) {
    mpq_class lower, upper;
    const bool known =
        !series.infinite &&
        EvaluateExact(expression_, series.lower, budget_, &lower, bindings_) == Outcome::kValue &&
        EvaluateExact(expression_, series.upper, budget_, &upper, bindings_) == Outcome::kValue;
    if (!known || lower.get_den() != 1 || upper.get_den() != 1 || upper - lower > kExpandedTermsMax)
      return std::nullopt;
    Form total = Constant(series.sum ? 0 : 1);
    for (mpq_class k = lower; k <= upper && total; k += 1) {
      bindings_.emplace_back(series.index, k);
      const Form term = Run(series.body);
      bindings_.pop_back();
      total = Combine(total, term, series.sum);
    }
    return total;
  }

  // The body as a function of the index.
  Form Body(const espalier::reward::Series& series) {
    indices_.push_back(series.index);
    Form body = Run(series.body);
    indices_.pop_back();
    return body;
  }

  static bool Holds(const Polynomial& polynomial, const std::string& name) {
    for (const auto& [monomial, coefficient] : polynomial) {
      for (const auto& factor : monomial) {
        if (factor.first.find(name) != std::string::npos) return true;
      }
    }
    return false;
  }
  // Whether an opaque term hides the symbol `index` in its text.
  bool Hides(int node, const std::string& index) const {
    const Node& n = expression_.at(node);
    const bool opaque =
        n.kind == Kind::kFunction || n.kind == Kind::kFactorial ||
        (n.kind == Kind::kPower && expression_.at(n.children[1]).kind != Kind::kNumber);
    const std::vector<std::string> names = SymbolsOf(expression_, node);
    for (const std::string& name : names) {
      if ((opaque && name == index) ||
          (name.size() > index.size() && name != index && name.find('_') != std::string::npos &&
           name.find(index, name.find('_')) != std::string::npos))
        return true;
    }
    return std::any_of(n.children.begin(), n.children.end(),
                       [&](int child) { return Hides(child, index); });
  }

  // A polynomial in the index, by Faulhaber's formulas.
  Form Powers(const espalier::reward::Series& series) {
    if (Hides(series.body, series.index)) return std::nullopt;
    const Form body = Body(series);
    const std::string index = IndexName(series.index);
    if (!body || Holds(body->under, index)) return std::nullopt;
    // body = sum of c_j k^j / under
    std::array<Polynomial, kSumDegreeMax + 1> coefficients;
    int degree = 0;
    for (const auto& [monomial, coefficient] : body->over) {
      Monomial rest;
      int power = 0;
      for (const auto& factor : monomial) {
        if (factor.first == index) {
          power = factor.second;
        } else {
          rest.push_back(factor);
        }
      }
      if (power > kSumDegreeMax) return std::nullopt;
      degree = std::max(degree, power);
      coefficients[power][rest] = coefficient;
    }
    const Form upper = Run(series.upper), lower = Add(Run(series.lower), Constant(-1));
    const auto to_upper = PowerSums(upper, degree), to_lower = PowerSums(lower, degree);
    Form total = Constant(0);
    for (int j = 0; j <= degree; ++j) {
      if (coefficients[j].empty()) continue;
      RationalFunction factor{coefficients[j], body->under, body->opaque};
      total = Add(total, Times(factor, Add(to_upper[j], Negated(to_lower[j]))));
    }
    return total;
  }

  // 0^j + 1^j + … + m^j for each j up to `degree`, from those below it.
  std::vector<Form> PowerSums(const Form& m, int degree) {
    std::vector<Form> sums;
    const Form next = Add(m, Constant(1));
    for (int j = 0; j <= degree; ++j) {
      Form sum = RaiseTo(next, j + 1);
      mpz_class choose = 1;  // of i from j + 1
      for (int i = 0; i < j; ++i) {
        sum = Add(sum, Negated(Times(sums[i], Constant(choose))));
        choose = choose * (j + 1 - i) / (i + 1);
      }
      sums.push_back(Times(sum, Constant(mpq_class(1, j + 1))));
    }
    return sums;
  }

  // c r^a + c r^(a + 1) + … = c r^a / (1 - r). Finite ones are told by testing at whole numbers.
  Form GeometricSum(const espalier::reward::Series& series) {
    const auto term = GeometricTerm(series.body, series.index);
    mpq_class lower;
    if (!term ||
        EvaluateExact(expression_, series.lower, budget_, &lower, bindings_) != Outcome::kValue ||
        lower.get_den() != 1 || abs(lower) > kPolynomialDegreeMax)
      return std::nullopt;
    const Form rest = Add(Constant(1), Negated(term->ratio));
    if (!series.infinite || !rest || rest->over.empty() || term->ratio.over.empty())
      return std::nullopt;
    const Form first = Times(term->coefficient, RaiseTo(term->ratio, lower.get_num().get_si()));
    // It converges for |r| < 1; an unknown ratio is taken to be such.
    const bool constant = term->ratio.over.size() == 1 && term->ratio.over.begin()->first.empty() &&
                          term->ratio.under.begin()->first.empty();
    if (constant && abs(term->ratio.over.begin()->second) >= abs(term->ratio.under.begin()->second))
      return std::nullopt;
    return Divide(first, rest);
  }

  std::optional<Geometric> GeometricTerm(int index, const std::string& k) {
    const Node& node = expression_.at(index);
    const std::vector<std::string> names = SymbolsOf(expression_, index);
    if (std::find(names.begin(), names.end(), k) == names.end()) {
      const Form value = Run(index);
      if (!value) return std::nullopt;
      return Geometric{*value, Constant(1)};
    }
    const auto join = [&](const Form& c, const Form& r) -> std::optional<Geometric> {
      if (!c || !r) return std::nullopt;
      return Geometric{*c, *r};
    };
    if (node.kind == Kind::kNegate) {
      const auto term = GeometricTerm(node.children[0], k);
      return term ? join(Negated(term->coefficient), term->ratio) : std::nullopt;
    }
    if (node.kind == Kind::kQuotient) {
      const auto a = GeometricTerm(node.children[0], k), b = GeometricTerm(node.children[1], k);
      if (!a || !b) return std::nullopt;
      return join(Divide(a->coefficient, b->coefficient), Divide(a->ratio, b->ratio));
    }
    if (node.kind == Kind::kProduct) {
      Geometric product{Constant(1), Constant(1)};
      for (const int child : node.children) {
        const auto part = GeometricTerm(child, k);
        if (!part) return std::nullopt;
        const auto next =
            join(Times(product.coefficient, part->coefficient), Times(product.ratio, part->ratio));
        if (!next) return std::nullopt;
        product = *next;
      }
      return product;
    }
    if (node.kind != Kind::kPower) return std::nullopt;
    // base^(m k + n)
    const auto base = GeometricTerm(node.children[0], k);
    if (!base || base->ratio.over != ConstantPolynomial(1)) return std::nullopt;
    mpq_class at[3];
    for (long i = 0; i < 3; ++i) {
      if (EvaluateExact(expression_, node.children[1], budget_, &at[i], {{k, mpq_class(i)}}) !=
              Outcome::kValue ||
          at[i].get_den() != 1 || abs(at[i]) > kPolynomialDegreeMax)
        return std::nullopt;
    }
    if (at[2] - at[1] != at[1] - at[0] || Hides(node.children[1], k)) return std::nullopt;
    // Linear: no product or power of the index may stand in the exponent.
    indices_.push_back(k);
    const Form exponent = Run(node.children[1]);
    indices_.pop_back();
    if (!exponent || Holds(exponent->under, IndexName(k))) return std::nullopt;
    for (const auto& [monomial, coefficient] : exponent->over) {
      if (monomial.size() > 1 || (monomial.size() == 1 && monomial[0].second > 1))
        return std::nullopt;
    }
    const mpq_class difference = at[1] - at[0];
    const long step = difference.get_num().get_si();
    return join(RaiseTo(base->coefficient, at[0].get_num().get_si()),
                RaiseTo(base->coefficient, step));
  }

  const Expression& expression_;
  Budget* const budget_;
  Bindings bindings_;
  std::vector<std::string> indices_;  // of sums whose bodies are being read
};

}  // namespace

std::optional<RationalFunction> Normalise(const Expression& expression, int node, Budget* budget) {
  return Normaliser(expression, budget).Run(node);
}

}  // namespace espalier::reward
