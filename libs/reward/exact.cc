// Every operation estimates the size of its result before it is done.
#include "libs/reward/exact.h"

#include <algorithm>

#include "libs/reward/series.h"

namespace espalier::reward {
namespace {

int64_t Bits(const mpq_class& value) {
  return static_cast<int64_t>(mpz_sizeinbase(value.get_num_mpz_t(), 2) +
                              mpz_sizeinbase(value.get_den_mpz_t(), 2));
}

bool IsInteger(const mpq_class& value) { return value.get_den() == 1; }

class Evaluator {
 public:
  Evaluator(const Expression& expression, Budget* budget, const Bindings& bindings)
      : expression_(expression), budget_(budget), bindings_(bindings) {}

  Outcome Run(int index, mpq_class* value) {
    if (!budget_->Spend()) return Outcome::kBudget;
    const Node& node = expression_.at(index);
    switch (node.kind) {
      case Kind::kNumber:
        *value = node.value;
        return Outcome::kValue;
      case Kind::kSymbol:
        for (const auto& [name, bound] : bindings_) {
          if (name == node.name) return *value = bound, Outcome::kValue;
        }
        return Outcome::kNot;
      case Kind::kSum:
      case Kind::kProduct:
        return Fold(node, value);
      case Kind::kNegate: {
        const Outcome outcome = Run(node.children[0], value);
        *value = -*value;
        return outcome;
      }
      case Kind::kQuotient:
        return Divide(node, value);
      case Kind::kPower:
        return Raise(node, value);
      case Kind::kFactorial:
        return Factorial(node, value);
      case Kind::kPercent: {
        const Outcome outcome = Run(node.children[0], value);
        *value /= 100;
        return outcome;
      }
      case Kind::kFunction:
        return Function(index, node, value);
      default:
        return Outcome::kNot;
    }
  }

 private:
  // Charges the cost of working on numbers of this size.
  bool Fits(int64_t bits) { return bits <= kBitsMax && budget_->Spend(1 + bits / 256); }

  Outcome Fold(const Node& node, mpq_class* value) {
    const bool sum = node.kind == Kind::kSum;
    *value = sum ? 0 : 1;
    for (const int child : node.children) {
      mpq_class part;
      const Outcome outcome = Run(child, &part);
      if (outcome != Outcome::kValue) return outcome;
      if (!Fits(Bits(*value) + Bits(part))) return Outcome::kBudget;
      if (sum) {
        *value += part;
      } else {
        *value *= part;
      }
    }
    return Outcome::kValue;
  }

  Outcome Divide(const Node& node, mpq_class* value) {
    mpq_class over, under;
    Outcome outcome = Run(node.children[0], &over);
    if (outcome == Outcome::kValue) outcome = Run(node.children[1], &under);
    if (outcome != Outcome::kValue) return outcome;
    if (under == 0) return Outcome::kUndefined;
    if (!Fits(Bits(over) + Bits(under))) return Outcome::kBudget;
    *value = over / under;
    return Outcome::kValue;
  }

  Outcome Raise(const Node& node, mpq_class* value) {
    mpq_class base, exponent;
    Outcome outcome = Run(node.children[0], &base);
    if (outcome == Outcome::kValue) outcome = Run(node.children[1], &exponent);
    if (outcome != Outcome::kValue) return outcome;
    if (base == 0 && exponent <= 0) return Outcome::kUndefined;
    if (base == 1) return *value = 1, Outcome::kValue;
    if (!IsInteger(exponent)) {
      if (!exponent.get_den().fits_slong_p() || exponent.get_den() > 64) return Outcome::kNot;
      mpq_class root;
      outcome = Root(base, exponent.get_den().get_si(), &root);
      if (outcome != Outcome::kValue) return outcome;
      base = root;
    }
    const mpz_class& power = exponent.get_num();
    if (!power.fits_slong_p())
      return base == -1 || base == 0 ? Sign(base, power, value) : Outcome::kBudget;
    const long n = power.get_si();
    const int64_t size = std::max<int64_t>(1, Bits(base) - 1);
    if (base != -1 && base != 0 && (std::abs(n) > kBitsMax || !Fits(size * std::abs(n))))
      return Outcome::kBudget;
    if (base == -1 || base == 0) return Sign(base, power, value);
    mpz_class numerator, denominator;
    mpz_pow_ui(numerator.get_mpz_t(), base.get_num_mpz_t(), std::abs(n));
    mpz_pow_ui(denominator.get_mpz_t(), base.get_den_mpz_t(), std::abs(n));
    *value = n >= 0 ? mpq_class(numerator, denominator) : mpq_class(denominator, numerator);
    value->canonicalize();
    return Outcome::kValue;
  }

  static Outcome Sign(const mpq_class& base, const mpz_class& power, mpq_class* value) {
    *value = base == 0 ? 0 : (mpz_even_p(power.get_mpz_t()) ? 1 : -1);
    return Outcome::kValue;
  }

  static Outcome Root(const mpq_class& base, long degree, mpq_class* value) {
    if (degree < 1 || degree > 64) return Outcome::kNot;
    if (base < 0 && degree % 2 == 0) return Outcome::kNot;
    mpz_class numerator, denominator;
    if (mpz_root(numerator.get_mpz_t(), base.get_num_mpz_t(), degree) == 0) return Outcome::kNot;
    if (mpz_root(denominator.get_mpz_t(), base.get_den_mpz_t(), degree) == 0) return Outcome::kNot;
    *value = mpq_class(numerator, denominator);
    return Outcome::kValue;
  }

  Outcome Factorial(const Node& node, mpq_class* value) {
    mpq_class n;
    const Outcome outcome = Run(node.children[0], &n);
    if (outcome != Outcome::kValue) return outcome;
    if (!IsInteger(n)) return Outcome::kNot;
    if (n < 0) return Outcome::kUndefined;
    // n! has about n log2(n) - 1.44 n bits: 5,000! has 54,000.
    if (n > 5000 || !Fits(n.get_num().get_si() * 12)) return Outcome::kBudget;
    mpz_class result;
    mpz_fac_ui(result.get_mpz_t(), n.get_num().get_ui());
    *value = result;
    return Outcome::kValue;
  }

  Outcome DoubleFactorial(const Node& node, mpq_class* value) {
    mpq_class n;
    const Outcome outcome = Run(node.children[0], &n);
    if (outcome != Outcome::kValue) return outcome;
    if (!IsInteger(n) || n < 0) return Outcome::kNot;
    if (n > 5000 || !Fits(n.get_num().get_si() * 6)) return Outcome::kBudget;
    mpz_class result;
    mpz_2fac_ui(result.get_mpz_t(), n.get_num().get_ui());
    *value = result;
    return Outcome::kValue;
  }

  Outcome Function(int index, const Node& node, mpq_class* value) {
    const std::string& name = node.name;
    const bool root = name == "root" && node.children.size() == 2;
    if (name == "binom" && node.children.size() == 2) return Binomial(node, false, value);
    if (name == "permutations" && node.children.size() == 2) return Binomial(node, true, value);
    if (name == "sum" || name == "prod") return AddUp(index, value);
    if (name == "doublefactorial") return DoubleFactorial(node, value);
    if (name == "log" || name == "lg" || name == "ln") return Logarithm(node, value);
    const bool one = node.children.size() == 1;
    if (name == "max" || name == "min" || name == "gcd" || name == "lcm")
      return Extreme(node, value);
    if (!root &&
        !(one && (name == "sqrt" || name == "abs" || name == "floor" || name == "ceiling")))
      return Outcome::kNot;
    mpq_class argument, degree = 2;
    Outcome outcome = Run(node.children[0], &argument);
    if (outcome == Outcome::kValue && root) outcome = Run(node.children[1], &degree);
    if (outcome != Outcome::kValue) return outcome;
    if (name == "abs") return *value = abs(argument), Outcome::kValue;
    if (name == "floor" || name == "ceiling") {
      mpz_class rounded;
      (name == "floor" ? mpz_fdiv_q : mpz_cdiv_q)(rounded.get_mpz_t(), argument.get_num_mpz_t(),
                                                  argument.get_den_mpz_t());
      *value = rounded;
      return Outcome::kValue;
    }
    if (!IsInteger(degree) || !degree.get_num().fits_slong_p()) return Outcome::kNot;
    if (!Fits(Bits(argument))) return Outcome::kBudget;
    return Root(argument, degree.get_num().get_si(), value);
  }

  // Term by term; longer sums are left to their closed forms.
  Outcome AddUp(int index, mpq_class* value) {
    const auto series = ReadSeries(expression_, index);
    if (!series || series->infinite) return Outcome::kNot;
    mpq_class lower, upper;
    Outcome outcome = Run(series->lower, &lower);
    if (outcome == Outcome::kValue) outcome = Run(series->upper, &upper);
    if (outcome != Outcome::kValue) return outcome;
    if (!IsInteger(lower) || !IsInteger(upper) || upper - lower >= kTermsMax) return Outcome::kNot;
    *value = series->sum ? 0 : 1;
    bindings_.emplace_back(series->index, lower);
    const size_t slot = bindings_.size() - 1;
    for (mpq_class k = lower; k <= upper && outcome == Outcome::kValue; k += 1) {
      bindings_[slot].second = k;
      mpq_class term;
      outcome = Run(series->body, &term);
      if (outcome != Outcome::kValue) break;
      // A sum of fractions grows at every step, and so does the work.
      if (!Fits(Bits(*value) + Bits(term)) || !budget_->Spend(4 + Bits(*value) / 64)) {
        outcome = Outcome::kBudget;
      } else if (series->sum) {
        *value += term;
      } else {
        *value *= term;
      }
    }
    bindings_.pop_back();
    return outcome;
  }

  // log_b x = n / d when b^n = x^d for small n and d.
  Outcome Logarithm(const Node& node, mpq_class* value) {
    if (node.name == "ln") {
      const Node& of = expression_.at(node.children[0]);
      if (of.kind == Kind::kEuler) return *value = 1, Outcome::kValue;
      if (of.kind == Kind::kPower && expression_.at(of.children[0]).kind == Kind::kEuler)
        return Run(of.children[1], value);
      if (of.kind == Kind::kNumber && of.value == 1) return *value = 0, Outcome::kValue;
      return Outcome::kNot;
    }
    mpq_class of, base = 10;
    if (node.children.size() == 1 && node.name == "log") return Outcome::kNot;
    Outcome outcome = Run(node.children[0], &of);
    if (outcome == Outcome::kValue && node.children.size() == 2)
      outcome = Run(node.children[1], &base);
    if (outcome != Outcome::kValue) return outcome;
    if (of <= 0 || base <= 0 || base == 1) return Outcome::kUndefined;
    if (Bits(of) > 2000 || Bits(base) > 2000) return Outcome::kNot;
    mpq_class powers = 1;
    for (long d = 1; d <= 6; ++d) {
      powers *= of;
      mpq_class up = 1, down = 1;
      for (long n = 0; n <= 400 && Bits(up) <= Bits(powers) + Bits(base); ++n) {
        if (!budget_->Spend()) return Outcome::kBudget;
        if (up == powers || down == powers) {
          *value = mpq_class(up == powers ? n : -n, d);
          value->canonicalize();
          return Outcome::kValue;
        }
        up *= base;
        down /= base;
      }
    }
    return Outcome::kNot;
  }

  // n! / (k! (n - k)!), or, ordered, n! / (n - k)!.
  Outcome Binomial(const Node& node, bool ordered, mpq_class* value) {
    mpq_class n, k;
    Outcome outcome = Run(node.children[0], &n);
    if (outcome == Outcome::kValue) outcome = Run(node.children[1], &k);
    if (outcome != Outcome::kValue) return outcome;
    if (!IsInteger(n) || !IsInteger(k) || n < 0) return Outcome::kNot;
    if (k < 0 || k > n) return *value = 0, Outcome::kValue;
    if (ordered) return Ordered(n, k, value);
    if (k > n - k) k = n - k;
    if (!n.get_num().fits_slong_p() || k > 5000) return Outcome::kBudget;
    const int64_t bits =
        k.get_num().get_si() * static_cast<int64_t>(mpz_sizeinbase(n.get_num_mpz_t(), 2));
    if (!Fits(bits)) return Outcome::kBudget;
    mpz_class result;
    mpz_bin_ui(result.get_mpz_t(), n.get_num_mpz_t(), k.get_num().get_ui());
    *value = result;
    return Outcome::kValue;
  }

  Outcome Ordered(const mpq_class& n, const mpq_class& k, mpq_class* value) {
    if (k > 2000 || !Fits(k.get_num().get_si() * Bits(n))) return Outcome::kBudget;
    *value = 1;
    for (mpq_class factor = n; factor > n - k; factor -= 1) *value *= factor;
    return Outcome::kValue;
  }

  Outcome Extreme(const Node& node, mpq_class* value) {
    bool first = true;
    for (const int child : node.children) {
      mpq_class part;
      const Outcome outcome = Run(child, &part);
      if (outcome != Outcome::kValue) return outcome;
      if (!Fits(Bits(part))) return Outcome::kBudget;
      if (first) {
        *value = part;
      } else if (node.name == "max" || node.name == "min") {
        *value = node.name == "max" ? std::max(*value, part) : std::min(*value, part);
      } else {
        if (!IsInteger(part) || !IsInteger(*value)) return Outcome::kNot;
        *value = node.name == "gcd" ? mpz_class(gcd(value->get_num(), part.get_num()))
                                    : mpz_class(lcm(value->get_num(), part.get_num()));
      }
      first = false;
    }
    return first ? Outcome::kNot : Outcome::kValue;
  }

  const Expression& expression_;
  Budget* const budget_;
  Bindings bindings_;
};

}  // namespace

Outcome EvaluateExact(const Expression& expression, int node, Budget* budget, mpq_class* value,
                      const Bindings& bindings) {
  return Evaluator(expression, budget, bindings).Run(node, value);
}

}  // namespace espalier::reward
