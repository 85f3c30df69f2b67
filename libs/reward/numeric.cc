// MPFR does the arithmetic. Arguments that would make it slow (huge angles, huge factorials) count
// as undefined.
#include "libs/reward/numeric.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "libs/reward/complex.h"
#include "libs/reward/polynomial.h"
#include "libs/reward/real.h"
#include "libs/reward/series.h"

namespace espalier::reward {
namespace {

struct Operand {
  const Expression& expression;
  int node;
};

constexpr mpfr_prec_t kPrecision = 320;
// Agreement to this many bits counts as equality; the rest absorbs rounding and cancellation.
constexpr long kAgreementBits = 160;
constexpr int kPoints = 10;
// Literals of so many bits fit into the usual precision; longer ones ask for more, up to a limit.
constexpr long kLiteralBitsFree = 60, kLiteralBitsMax = 2000;
constexpr long kAngleExponentMax = 512;

uint64_t Hash(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xCBF29CE484222325ull ^ (0x9E3779B97F4A7C15ull * (seed + 1));
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  hash ^= hash >> 31;
  hash *= 0xBF58476D1CE4E5B9ull;
  return hash ^ (hash >> 29);
}

// The first points are positive and small, where most functions are defined; later ones give
// symbols either sign and other sizes, so that functions which agree on one side only are told
// apart. Whole numbers stay small: sums and factorials run up to them.
struct PointScale {
  unsigned long numerator, denominator;
  bool either_sign;
};
constexpr PointScale kScales[kPoints] = {
    {1, 1, false}, {1, 1, false}, {1, 1, true},   {1, 1, true},    {1, 3, false},
    {9, 1, false}, {7, 1, true},  {100, 1, true}, {1200, 1, true}, {1, 50, true}};

void SetPoint(const std::string& name, int point, bool integer, Real* value) {
  if (integer) {
    mpfr_set_ui(value->get(), 1 + Hash(name, point) % (point < 3 ? 5 : 14), MPFR_RNDN);
    return;
  }
  const PointScale& scale = kScales[point];
  // Between 0.3 and 2.7, times the scale.
  mpfr_set_ui(value->get(), 300000 + Hash(name, point) % 2400000, MPFR_RNDN);
  mpfr_mul_ui(value->get(), value->get(), scale.numerator, MPFR_RNDN);
  mpfr_div_ui(value->get(), value->get(), 1000000 * scale.denominator, MPFR_RNDN);
  const bool negative = (Hash(name, 99) + point) % 2 == 0;
  if (scale.either_sign && negative) mpfr_neg(value->get(), value->get(), MPFR_RNDN);
}

class Evaluator {
 public:
  Evaluator(const Expression& expression, const Point& point, mpfr_prec_t precision, Budget* budget)
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
        return Symbol(node.name, value);
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
        return Function(index, node, value);
      default:
        return false;
    }
  }

 private:
  // The imaginary unit is no real number; see complex.cc.
  bool Symbol(const std::string& name, Real* value) {
    for (const auto& [index, bound] : bindings_) {
      if (index != name) continue;
      mpfr_set_q(value->get(), bound.get_mpq_t(), MPFR_RNDN);
      return true;
    }
    if (name == kImaginary) return false;
    SetPoint(BoundName(name, bindings_), point_, value);
    return true;
  }

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

  // Term by term between whole limits.
  bool AddUp(int index, Real* value) {
    const auto series = ReadSeries(expression_, index);
    if (!series || series->infinite) return false;
    Real lower(precision_), upper(precision_);
    if (!Run(series->lower, &lower) || !Run(series->upper, &upper)) return false;
    if (mpfr_integer_p(lower.get()) == 0 || mpfr_integer_p(upper.get()) == 0 ||
        mpfr_fits_slong_p(lower.get(), MPFR_RNDN) == 0 ||
        mpfr_fits_slong_p(upper.get(), MPFR_RNDN) == 0)
      return false;
    const long from = mpfr_get_si(lower.get(), MPFR_RNDN), to = mpfr_get_si(upper.get(), MPFR_RNDN);
    if (to - from > kTermsMax || std::abs(from) > (1L << 40)) return false;
    mpfr_set_ui(value->get(), series->sum ? 0 : 1, MPFR_RNDN);
    bindings_.emplace_back(series->index, 0);
    const size_t slot = bindings_.size() - 1;
    bool defined = true;
    for (long k = from; k <= to && defined; ++k) {
      bindings_[slot].second = k;
      Real term(precision_);
      defined = Run(series->body, &term);
      (series->sum ? mpfr_add : mpfr_mul)(value->get(), value->get(), term.get(), MPFR_RNDN);
    }
    bindings_.pop_back();
    return defined && value->finite();
  }

  bool Function(int index, const Node& node, Real* value) {
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
    if (node.name == "sum" || node.name == "prod") return AddUp(index, value);
    if (node.name == "root" && node.children.size() == 2) {
      const Node& degree = expression_.at(node.children[1]);
      return degree.kind == Kind::kNumber && Run(node.children[0], value) &&
             RootOf(degree.value, value);
    }
    if (node.name == "log" || node.name == "lg") return Logarithm(node, value);
    if (node.name == "binom" && node.children.size() == 2) return Binomial(node, false, value);
    if (node.name == "permutations" && node.children.size() == 2)
      return Binomial(node, true, value);
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
    for (const char* none : {"", "det", "lim", "difference", "intersection", "conjugate", "cis"}) {
      if (node.name == none) return false;
    }
    Real argument(precision_);
    if (!Run(node.children[0], &argument)) return false;
    char digits[64];
    mpfr_snprintf(digits, sizeof(digits), "%.30Re", argument.get());
    SetPoint(node.name + "(" + digits + ")", point_.index, false, value);
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

  bool Binomial(const Node& node, bool ordered, Real* value) {
    Real n(precision_), k(precision_);
    if (!Run(node.children[0], &n) || !Run(node.children[1], &k)) return false;
    Real rest(precision_);
    mpfr_sub(rest.get(), n.get(), k.get(), MPFR_RNDN);
    const bool whole = mpfr_integer_p(n.get()) != 0 && mpfr_integer_p(k.get()) != 0;
    if (whole && mpfr_sgn(n.get()) >= 0 && (mpfr_sgn(k.get()) < 0 || mpfr_sgn(rest.get()) < 0)) {
      mpfr_set_ui(value->get(), 0, MPFR_RNDN);
      return true;
    }
    if (!budget_->Spend(500) || !Gamma(&n) || !Gamma(&k) || !Gamma(&rest)) return false;
    if (ordered) {
      mpfr_set(k.get(), rest.get(), MPFR_RNDN);
    } else {
      mpfr_mul(k.get(), k.get(), rest.get(), MPFR_RNDN);
    }
    if (mpfr_zero_p(k.get())) return false;
    mpfr_div(value->get(), n.get(), k.get(), MPFR_RNDN);
    return value->finite();
  }

  const Expression& expression_;
  const Point& point_;
  const mpfr_prec_t precision_;
  Budget* const budget_;
  Bindings bindings_;
};

}  // namespace

void SetPoint(const std::string& name, const Point& point, Real* value) {
  const bool integer =
      std::find(point.integers->begin(), point.integers->end(), name) != point.integers->end();
  SetPoint(name, point.index, integer, value);
}

bool EvaluateReal(const Expression& expression, int node, const Point& point, mpfr_prec_t precision,
                  Budget* budget, Real* value) {
  return Evaluator(expression, point, precision, budget).Run(node, value);
}

namespace {

// The larger exponent of the two; very small when both are zero.
long ExponentOf(const Real& a, const Real& b) {
  long exponent = -(1L << 40);
  for (const Real* value : {&a, &b}) {
    if (!mpfr_zero_p(value->get())) exponent = std::max<long>(exponent, mpfr_get_exp(value->get()));
  }
  return exponent;
}

// |a - b| is below `tolerance`, or, without one, below 2^-kAgreementBits of the larger.
bool Agree(const Real& a, const Real& b, double tolerance, long agreement_bits) {
  Real difference(mpfr_get_prec(a.get()));
  mpfr_sub(difference.get(), a.get(), b.get(), MPFR_RNDN);
  if (mpfr_zero_p(difference.get())) return true;
  if (tolerance > 0) {
    mpfr_abs(difference.get(), difference.get(), MPFR_RNDN);
    return mpfr_cmp_d(difference.get(), tolerance) <= 0;
  }
  return mpfr_get_exp(difference.get()) < ExponentOf(a, b) - agreement_bits;
}

// Both values vanish but for rounding: with more digits they shrink. A value that is really tiny
// stays.
bool BothVanish(const Operand& a, const Operand& b, const Point& point, long exponent,
                Budget* budget) {
  constexpr long kTinyExponent = -160;
  if (exponent > kTinyExponent) return false;
  Real value_a(2 * kPrecision), value_b(2 * kPrecision);
  if (!EvaluateReal(a.expression, a.node, point, 2 * kPrecision, budget, &value_a)) return false;
  if (!EvaluateReal(b.expression, b.node, point, 2 * kPrecision, budget, &value_b)) return false;
  return ExponentOf(value_a, value_b) < exponent - kPrecision / 2;
}

enum class AtPoint { kAgree, kDiffer, kUndefined };

AtPoint CompareReals(const Operand& a, const Operand& b, const Point& point, double tolerance,
                     Budget* budget) {
  const mpfr_prec_t precision = kPrecision + point.extra_bits;
  Real value_a(precision), value_b(precision);
  if (!EvaluateReal(a.expression, a.node, point, precision, budget, &value_a) ||
      !EvaluateReal(b.expression, b.node, point, precision, budget, &value_b) || budget->spent())
    return AtPoint::kUndefined;
  const bool agree = Agree(value_a, value_b, tolerance, kAgreementBits + point.extra_bits) ||
                     BothVanish(a, b, point, ExponentOf(value_a, value_b), budget);
  return agree ? AtPoint::kAgree : AtPoint::kDiffer;
}

// The distance of two complex numbers against the larger of them.
AtPoint CompareComplex(const Operand& a, const Operand& b, const Point& point, double tolerance,
                       Budget* budget) {
  const mpfr_prec_t precision = kPrecision + point.extra_bits;
  Complex value_a(precision), value_b(precision);
  if (!EvaluateComplex(a.expression, a.node, point, precision, budget, &value_a) ||
      !EvaluateComplex(b.expression, b.node, point, precision, budget, &value_b) || budget->spent())
    return AtPoint::kUndefined;
  const long size =
      std::max(ExponentOf(value_a.re, value_a.im), ExponentOf(value_b.re, value_b.im));
  mpfr_sub(value_a.re.get(), value_a.re.get(), value_b.re.get(), MPFR_RNDN);
  mpfr_sub(value_a.im.get(), value_a.im.get(), value_b.im.get(), MPFR_RNDN);
  if (tolerance > 0) {
    mpfr_hypot(value_a.re.get(), value_a.re.get(), value_a.im.get(), MPFR_RNDN);
    return mpfr_cmp_d(value_a.re.get(), tolerance) <= 0 ? AtPoint::kAgree : AtPoint::kDiffer;
  }
  const long distance = ExponentOf(value_a.re, value_a.im);
  // Values that vanish but for rounding are as good as zero.
  const long agreement = kAgreementBits + point.extra_bits;
  return distance < size - agreement || size < -agreement ? AtPoint::kAgree : AtPoint::kDiffer;
}

// Bits of the longest number that is written below the node: values that differ may differ there
// only, as pi and sixty of its digits do.
long LiteralBits(const Expression& expression, int node) {
  const Node& n = expression.at(node);
  long bits = 0;
  if (n.kind == Kind::kNumber) {
    bits = static_cast<long>(mpz_sizeinbase(n.value.get_num_mpz_t(), 2) +
                             mpz_sizeinbase(n.value.get_den_mpz_t(), 2));
  }
  for (const int child : n.children) bits = std::max(bits, LiteralBits(expression, child));
  return bits;
}

// Whether a function jumps at whole numbers, which points chosen by hash never meet.
bool Jumps(const Expression& expression, int node) {
  const Node& n = expression.at(node);
  if (n.kind == Kind::kFunction && (n.name == "floor" || n.name == "ceiling" || n.name == "mod"))
    return true;
  return std::any_of(n.children.begin(), n.children.end(),
                     [&](int child) { return Jumps(expression, child); });
}

// MPFR keeps pi and the like for each thread; a thread that ends gives them back.
struct ConstantsOfThread {
  ~ConstantsOfThread() { mpfr_free_cache(); }
  void Touch() {}
};
thread_local ConstantsOfThread constants_of_thread;

bool Holds(const std::vector<std::string>& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Comparison CompareNumerically(const Expression& a, int node_a, const Expression& b, int node_b,
                              double absolute_tolerance, Budget* budget) {
  constants_of_thread.Touch();
  const Operand first{a, node_a}, second{b, node_b};
  const std::vector<std::string> names_a = SymbolsOf(a, node_a), names_b = SymbolsOf(b, node_b);
  const bool imaginary = Holds(names_a, kImaginary) || Holds(names_b, kImaginary);
  const auto constant = [](const std::vector<std::string>& names) {
    return names.empty() || (names.size() == 1 && names[0] == kImaginary);
  };
  std::vector<std::string> integers;
  CollectIntegers(a, node_a, &integers);
  CollectIntegers(b, node_b, &integers);
  const int points = constant(names_a) && constant(names_b) ? 1 : kPoints;
  const long literal = std::max(LiteralBits(a, node_a), LiteralBits(b, node_b));
  const bool exact_wanted = absolute_tolerance == 0;
  if (exact_wanted && literal > kLiteralBitsMax) return Comparison::kUnknown;
  const long extra = exact_wanted && literal > kLiteralBitsFree ? 2 * literal : 0;
  // Each step costs more then.
  if (!budget->Spend(extra * points)) return Comparison::kUnknown;
  std::vector<std::string> all = names_a;
  all.insert(all.end(), names_b.begin(), names_b.end());
  const bool jumps = points > 1 && (Jumps(a, node_a) || Jumps(b, node_b));
  // Reals first; the complex plane where the imaginary unit is written, or no real value was found.
  for (const bool complex : {false, true}) {
    if (imaginary && !complex) continue;
    int agreed = 0;
    for (int i = 0; i < points + (jumps ? points : 0); ++i) {
      const Point point{i % points, i < points ? &integers : &all, extra};
      const AtPoint result = (complex ? CompareComplex : CompareReals)(first, second, point,
                                                                       absolute_tolerance, budget);
      if (budget->spent()) return Comparison::kUnknown;
      if (result == AtPoint::kDiffer) return Comparison::kDifferent;
      agreed += result == AtPoint::kAgree;
    }
    if (agreed > 0) return Comparison::kEqual;
  }
  return Comparison::kUnknown;
}

std::optional<double> Approximate(const Expression& expression, int node, Budget* budget) {
  constants_of_thread.Touch();
  const std::vector<std::string> none;
  const Point point{0, &none, 0};
  Real value(64);
  if (!EvaluateReal(expression, node, point, 64, budget, &value)) return std::nullopt;
  const double approximate = mpfr_get_d(value.get(), MPFR_RNDN);
  return std::isfinite(approximate) ? std::optional<double>(approximate) : std::nullopt;
}

}  // namespace espalier::reward
