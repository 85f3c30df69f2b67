// MPFR does the arithmetic. Arguments that would make it slow (huge angles, huge factorials) count
// as undefined.
#include "libs/reward/numeric.h"

#include <mpfr.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace espalier::reward {
namespace {

constexpr mpfr_prec_t kPrecision = 320;
// Agreement to this many bits counts as equality; the rest absorbs rounding and cancellation.
constexpr long kAgreementBits = 160;
constexpr int kPoints = 6;
constexpr long kAngleExponentMax = 512;

class Real {
 public:
  explicit Real(mpfr_prec_t precision) { mpfr_init2(value_, precision); }
  Real(const Real&) = delete;
  Real& operator=(const Real&) = delete;
  ~Real() { mpfr_clear(value_); }
  mpfr_ptr get() { return value_; }
  mpfr_srcptr get() const { return value_; }
  bool finite() const { return mpfr_number_p(value_) != 0; }

 private:
  mpfr_t value_;
};

uint64_t Hash(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xCBF29CE484222325ull ^ (0x9E3779B97F4A7C15ull * (seed + 1));
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  hash ^= hash >> 31;
  hash *= 0xBF58476D1CE4E5B9ull;
  return hash ^ (hash >> 29);
}

// A rational between 0.3 and 2.7 from the symbol's name. The first points are positive, where most
// functions are defined; later ones give every symbol either sign.
void SetPoint(const std::string& name, int point, Real* value) {
  mpfr_set_ui(value->get(), 300000 + Hash(name, point) % 2400000, MPFR_RNDN);
  mpfr_div_ui(value->get(), value->get(), 1000000, MPFR_RNDN);
  const bool negative = (Hash(name, 99) + point) % 2 == 0;
  if (point >= kPoints / 2 && negative) mpfr_neg(value->get(), value->get(), MPFR_RNDN);
}

class Evaluator {
 public:
  Evaluator(const Expression& expression, int point, mpfr_prec_t precision, Budget* budget)
      : expression_(expression), point_(point), precision_(precision), budget_(budget) {}

  // False when undefined or out of budget.
  bool Run(int index, Real* value) {
    if (!budget_->Spend(8)) return false;
    const Node& node = expression_.at(index);
    switch (node.kind) {
      case Kind::kNumber:
        mpfr_set_q(value->get(), node.value.get_mpq_t(), MPFR_RNDN);
        return true;
      case Kind::kSymbol:
        SetPoint(node.name, point_, value);
        return true;
      case Kind::kPi:
        mpfr_const_pi(value->get(), MPFR_RNDN);
        return true;
      case Kind::kEuler:
        mpfr_set_ui(value->get(), 1, MPFR_RNDN);
        mpfr_exp(value->get(), value->get(), MPFR_RNDN);
        return true;
      case Kind::kSum:
      case Kind::kProduct:
        return Fold(node, value);
      case Kind::kNegate:
        if (!Run(node.children[0], value)) return false;
        mpfr_neg(value->get(), value->get(), MPFR_RNDN);
        return true;
      case Kind::kPercent:
        if (!Run(node.children[0], value)) return false;
        mpfr_div_ui(value->get(), value->get(), 100, MPFR_RNDN);
        return true;
      case Kind::kDegree: {
        if (!Run(node.children[0], value)) return false;
        Real pi(precision_);
        mpfr_const_pi(pi.get(), MPFR_RNDN);
        mpfr_mul(value->get(), value->get(), pi.get(), MPFR_RNDN);
        mpfr_div_ui(value->get(), value->get(), 180, MPFR_RNDN);
        return true;
      }
      case Kind::kQuotient:
      case Kind::kPower:
        return Pair(node, value);
      case Kind::kFactorial:
        return Run(node.children[0], value) && Gamma(value);
      case Kind::kFunction:
        return Function(node, value);
      default:
        return false;
    }
  }

 private:
  bool Fold(const Node& node, Real* value) {
    mpfr_set_ui(value->get(), node.kind == Kind::kSum ? 0 : 1, MPFR_RNDN);
    for (const int child : node.children) {
      Real part(precision_);
      if (!Run(child, &part)) return false;
      (node.kind == Kind::kSum ? mpfr_add : mpfr_mul)(value->get(), value->get(), part.get(),
                                                      MPFR_RNDN);
    }
    return value->finite();
  }

  bool Pair(const Node& node, Real* value) {
    Real second(precision_);
    if (!Run(node.children[0], value) || !Run(node.children[1], &second)) return false;
    if (node.kind == Kind::kQuotient) {
      if (mpfr_zero_p(second.get())) return false;
      mpfr_div(value->get(), value->get(), second.get(), MPFR_RNDN);
    } else if (mpfr_sgn(value->get()) < 0 && !mpfr_integer_p(second.get())) {
      return OddRoot(node, value);
    } else {
      mpfr_pow(value->get(), value->get(), second.get(), MPFR_RNDN);
    }
    return value->finite();
  }

  // (-8)^(1/3) is -2 where it is written so; other powers of negative numbers are undefined here.
  bool OddRoot(const Node& node, Real* value) {
    const Node& exponent = expression_.at(node.children[1]);
    if (exponent.kind != Kind::kQuotient) return false;
    const Node& over = expression_.at(exponent.children[0]);
    const Node& under = expression_.at(exponent.children[1]);
    if (over.kind != Kind::kNumber || under.kind != Kind::kNumber || over.value != 1) return false;
    return RootOf(under.value, value);
  }

  static bool RootOf(const mpq_class& degree, Real* value) {
    if (degree.get_den() != 1 || degree < 1 || degree > 64) return false;
    const unsigned long n = degree.get_num().get_ui();
    if (mpfr_sgn(value->get()) < 0 && n % 2 == 0) return false;
    mpfr_rootn_ui(value->get(), value->get(), n, MPFR_RNDN);
    return value->finite();
  }

  static bool Gamma(Real* value) {
    mpfr_add_ui(value->get(), value->get(), 1, MPFR_RNDN);
    if (mpfr_cmp_ui(value->get(), 20000) > 0 || mpfr_cmp_si(value->get(), -100) < 0) return false;
    mpfr_gamma(value->get(), value->get(), MPFR_RNDN);
    return value->finite();
  }

  bool Function(const Node& node, Real* value) {
    using Unary = int (*)(mpfr_ptr, mpfr_srcptr, mpfr_rnd_t);
    struct Named {
      const char* name;
      Unary function;
    };
    static constexpr Named kUnary[] = {
        {"sin", mpfr_sin},     {"cos", mpfr_cos},   {"tan", mpfr_tan},     {"cot", mpfr_cot},
        {"sec", mpfr_sec},     {"csc", mpfr_csc},   {"arcsin", mpfr_asin}, {"arccos", mpfr_acos},
        {"arctan", mpfr_atan}, {"sinh", mpfr_sinh}, {"cosh", mpfr_cosh},   {"tanh", mpfr_tanh},
        {"ln", mpfr_log},      {"exp", mpfr_exp},   {"sqrt", mpfr_sqrt},   {"abs", mpfr_abs}};
    if (node.children.empty()) return false;
    if (node.name == "root" && node.children.size() == 2) {
      const Node& degree = expression_.at(node.children[1]);
      return degree.kind == Kind::kNumber && Run(node.children[0], value) &&
             RootOf(degree.value, value);
    }
    if (node.name == "log" || node.name == "lg") return Logarithm(node, value);
    if (node.name == "binom" && node.children.size() == 2) return Binomial(node, value);
    if (node.children.size() != 1) return false;
    for (const Named& named : kUnary) {
      if (node.name != named.name) continue;
      if (!budget_->Spend(100) || !Run(node.children[0], value)) return false;
      if (!mpfr_zero_p(value->get()) && mpfr_get_exp(value->get()) > kAngleExponentMax)
        return false;
      named.function(value->get(), value->get(), MPFR_RNDN);
      return value->finite();
    }
    if (node.name == "floor" || node.name == "ceiling") {
      if (!Run(node.children[0], value)) return false;
      (node.name == "floor" ? mpfr_floor : mpfr_ceil)(value->get(), value->get());
      return true;
    }
    return Unknown(node, value);
  }

  // A value of an unnamed function: a point that depends on its name and argument.
  bool Unknown(const Node& node, Real* value) {
    if (node.name.empty() || node.name == "det" || node.name == "sum" || node.name == "prod")
      return false;
    Real argument(precision_);
    if (!Run(node.children[0], &argument)) return false;
    char digits[64];
    mpfr_snprintf(digits, sizeof(digits), "%.30Re", argument.get());
    SetPoint(node.name + "(" + digits + ")", point_, value);
    return true;
  }

  bool Logarithm(const Node& node, Real* value) {
    if (!Run(node.children[0], value) || mpfr_sgn(value->get()) <= 0) return false;
    // "log" is the natural one, as in most of mathematics; "lg" and a written base say otherwise.
    mpfr_log(value->get(), value->get(), MPFR_RNDN);
    Real base(precision_);
    if (node.children.size() == 2) {
      if (!Run(node.children[1], &base) || mpfr_sgn(base.get()) <= 0) return false;
    } else if (node.name == "lg") {
      mpfr_set_ui(base.get(), 10, MPFR_RNDN);
    } else {
      return value->finite();
    }
    mpfr_log(base.get(), base.get(), MPFR_RNDN);
    if (mpfr_zero_p(base.get())) return false;
    mpfr_div(value->get(), value->get(), base.get(), MPFR_RNDN);
    return value->finite();
  }

  bool Binomial(const Node& node, Real* value) {
    Real n(precision_), k(precision_);
    if (!Run(node.children[0], &n) || !Run(node.children[1], &k)) return false;
    Real rest(precision_);
    mpfr_sub(rest.get(), n.get(), k.get(), MPFR_RNDN);
    if (!budget_->Spend(500) || !Gamma(&n) || !Gamma(&k) || !Gamma(&rest)) return false;
    mpfr_mul(k.get(), k.get(), rest.get(), MPFR_RNDN);
    if (mpfr_zero_p(k.get())) return false;
    mpfr_div(value->get(), n.get(), k.get(), MPFR_RNDN);
    return value->finite();
  }

  const Expression& expression_;
  const int point_;
  const mpfr_prec_t precision_;
  Budget* const budget_;
};

// The larger exponent of the two; very small when both are zero.
long ExponentOf(const Real& a, const Real& b) {
  long exponent = -(1L << 40);
  for (const Real* value : {&a, &b}) {
    if (!mpfr_zero_p(value->get())) exponent = std::max<long>(exponent, mpfr_get_exp(value->get()));
  }
  return exponent;
}

// |a - b| is below `tolerance`, or, without one, below 2^-kAgreementBits of the larger.
bool Agree(const Real& a, const Real& b, double tolerance) {
  Real difference(kPrecision);
  mpfr_sub(difference.get(), a.get(), b.get(), MPFR_RNDN);
  if (mpfr_zero_p(difference.get())) return true;
  if (tolerance > 0) {
    mpfr_abs(difference.get(), difference.get(), MPFR_RNDN);
    return mpfr_cmp_d(difference.get(), tolerance) <= 0;
  }
  return mpfr_get_exp(difference.get()) < ExponentOf(a, b) - kAgreementBits;
}

struct Side {
  const Expression& expression;
  int node;
};

// Both values vanish but for rounding: with more digits they shrink. A value that is really tiny
// stays.
bool BothVanish(const Side& a, const Side& b, int point, long exponent, Budget* budget) {
  constexpr long kTinyExponent = -160;
  if (exponent > kTinyExponent) return false;
  Real value_a(2 * kPrecision), value_b(2 * kPrecision);
  if (!Evaluator(a.expression, point, 2 * kPrecision, budget).Run(a.node, &value_a)) return false;
  if (!Evaluator(b.expression, point, 2 * kPrecision, budget).Run(b.node, &value_b)) return false;
  return ExponentOf(value_a, value_b) < exponent - kPrecision / 2;
}

}  // namespace

Comparison CompareNumerically(const Expression& a, int node_a, const Expression& b, int node_b,
                              double absolute_tolerance, Budget* budget) {
  const bool constant = SymbolsOf(a, node_a).empty() && SymbolsOf(b, node_b).empty();
  int agreed = 0;
  for (int point = 0; point < (constant ? 1 : kPoints); ++point) {
    Real value_a(kPrecision), value_b(kPrecision);
    const bool defined_a = Evaluator(a, point, kPrecision, budget).Run(node_a, &value_a);
    const bool defined_b = Evaluator(b, point, kPrecision, budget).Run(node_b, &value_b);
    if (budget->spent()) return Comparison::kUnknown;
    if (!defined_a || !defined_b) continue;
    if (!Agree(value_a, value_b, absolute_tolerance) &&
        !BothVanish({a, node_a}, {b, node_b}, point, ExponentOf(value_a, value_b), budget)) {
      return Comparison::kDifferent;
    }
    ++agreed;
  }
  return agreed > 0 ? Comparison::kEqual : Comparison::kUnknown;
}

}  // namespace espalier::reward
