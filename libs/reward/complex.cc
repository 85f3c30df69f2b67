// Every operation works on the two parts; what no case knows must be real.
#include "libs/reward/complex.h"

#include <algorithm>

#include "libs/reward/polynomial.h"

namespace espalier::reward {
namespace {

class Evaluator {
 public:
  Evaluator(const Expression& expression, const Point& point, mpfr_prec_t precision, Budget* budget)
      : expression_(expression), point_(point), precision_(precision), budget_(budget) {}

  bool Run(int index, Complex* value) {
    if (!budget_->Spend(12)) return false;
    const Node& node = expression_.at(index);
    if (node.kind == Kind::kSymbol && node.name == kImaginary) {
      mpfr_set_ui(value->re.get(), 0, MPFR_RNDN);
      mpfr_set_ui(value->im.get(), 1, MPFR_RNDN);
      return true;
    }
    if (IsReal(index)) {
      mpfr_set_ui(value->im.get(), 0, MPFR_RNDN);
      if (EvaluateReal(expression_, index, point_, precision_, budget_, &value->re)) return true;
    }
    switch (node.kind) {
      case Kind::kSum:
      case Kind::kProduct:
        return Fold(node, value);
      case Kind::kNegate:
        if (!Run(node.children[0], value)) return false;
        mpfr_neg(value->re.get(), value->re.get(), MPFR_RNDN);
        mpfr_neg(value->im.get(), value->im.get(), MPFR_RNDN);
        return true;
      case Kind::kQuotient: {
        Complex under(precision_);
        return Run(node.children[0], value) && Run(node.children[1], &under) &&
               Divide(under, value);
      }
      case Kind::kPower:
        return Power(node, value);
      case Kind::kFunction:
        return Function(node, value);
      default:
        return false;
    }
  }

 private:
  bool IsReal(int index) const {
    const std::vector<std::string> names = SymbolsOf(expression_, index);
    return std::find(names.begin(), names.end(), kImaginary) == names.end();
  }

  static bool Finite(const Complex& value) { return value.re.finite() && value.im.finite(); }

  bool Fold(const Node& node, Complex* value) {
    const bool sum = node.kind == Kind::kSum;
    mpfr_set_ui(value->re.get(), sum ? 0 : 1, MPFR_RNDN);
    mpfr_set_ui(value->im.get(), 0, MPFR_RNDN);
    for (const int child : node.children) {
      Complex part(precision_);
      if (!Run(child, &part)) return false;
      if (sum) {
        mpfr_add(value->re.get(), value->re.get(), part.re.get(), MPFR_RNDN);
        mpfr_add(value->im.get(), value->im.get(), part.im.get(), MPFR_RNDN);
      } else {
        Multiply(part, value);
      }
    }
    return Finite(*value);
  }

  void Multiply(const Complex& by, Complex* value) {
    Real re(precision_), im(precision_);
    mpfr_fmms(re.get(), value->re.get(), by.re.get(), value->im.get(), by.im.get(), MPFR_RNDN);
    mpfr_fmma(im.get(), value->re.get(), by.im.get(), value->im.get(), by.re.get(), MPFR_RNDN);
    mpfr_swap(value->re.get(), re.get());
    mpfr_swap(value->im.get(), im.get());
  }

  bool Divide(const Complex& by, Complex* value) {
    Real size(precision_);
    mpfr_fmma(size.get(), by.re.get(), by.re.get(), by.im.get(), by.im.get(), MPFR_RNDN);
    if (mpfr_zero_p(size.get()) != 0) return false;
    Complex conjugate(precision_);
    mpfr_set(conjugate.re.get(), by.re.get(), MPFR_RNDN);
    mpfr_neg(conjugate.im.get(), by.im.get(), MPFR_RNDN);
    Multiply(conjugate, value);
    mpfr_div(value->re.get(), value->re.get(), size.get(), MPFR_RNDN);
    mpfr_div(value->im.get(), value->im.get(), size.get(), MPFR_RNDN);
    return Finite(*value);
  }

  // e^(re) (cos im + i sin im)
  bool Exponential(Complex* value) {
    if (!budget_->Spend(200) || TooLarge(value->re) || TooLarge(value->im)) return false;
    Real size(precision_), sine(precision_), cosine(precision_);
    mpfr_exp(size.get(), value->re.get(), MPFR_RNDN);
    mpfr_sin_cos(sine.get(), cosine.get(), value->im.get(), MPFR_RNDN);
    mpfr_mul(value->re.get(), size.get(), cosine.get(), MPFR_RNDN);
    mpfr_mul(value->im.get(), size.get(), sine.get(), MPFR_RNDN);
    return Finite(*value);
  }

  bool Logarithm(Complex* value) {
    if (!budget_->Spend(200)) return false;
    Real size(precision_), angle(precision_);
    mpfr_hypot(size.get(), value->re.get(), value->im.get(), MPFR_RNDN);
    if (mpfr_zero_p(size.get()) != 0) return false;
    mpfr_atan2(angle.get(), value->im.get(), value->re.get(), MPFR_RNDN);
    mpfr_log(value->re.get(), size.get(), MPFR_RNDN);
    mpfr_swap(value->im.get(), angle.get());
    return Finite(*value);
  }

  static bool TooLarge(const Real& value) {
    constexpr mpfr_exp_t kExponentMax = 40;
    return mpfr_zero_p(value.get()) == 0 && mpfr_get_exp(value.get()) > kExponentMax;
  }

  bool Power(const Node& node, Complex* value) {
    const Node& base = expression_.at(node.children[0]);
    Complex exponent(precision_);
    if (!Run(node.children[1], &exponent)) return false;
    if (base.kind == Kind::kEuler) {
      mpfr_swap(value->re.get(), exponent.re.get());
      mpfr_swap(value->im.get(), exponent.im.get());
      return Exponential(value);
    }
    if (!Run(node.children[0], value)) return false;
    const bool whole = mpfr_zero_p(exponent.im.get()) != 0 &&
                       mpfr_integer_p(exponent.re.get()) != 0 &&
                       mpfr_fits_slong_p(exponent.re.get(), MPFR_RNDN) != 0;
    if (whole) return Whole(mpfr_get_si(exponent.re.get(), MPFR_RNDN), value);
    if (!Logarithm(value)) return false;
    Multiply(exponent, value);
    return Exponential(value);
  }

  bool Whole(long n, Complex* value) {
    constexpr long kMax = 100000;
    if (n > kMax || n < -kMax || !budget_->Spend(100)) return false;
    Complex square(precision_);
    mpfr_swap(square.re.get(), value->re.get());
    mpfr_swap(square.im.get(), value->im.get());
    mpfr_set_ui(value->re.get(), 1, MPFR_RNDN);
    mpfr_set_ui(value->im.get(), 0, MPFR_RNDN);
    if (n < 0) {
      Complex inverse(precision_);
      mpfr_set_ui(inverse.re.get(), 1, MPFR_RNDN);
      mpfr_set_ui(inverse.im.get(), 0, MPFR_RNDN);
      if (!Divide(square, &inverse)) return false;
      mpfr_swap(square.re.get(), inverse.re.get());
      mpfr_swap(square.im.get(), inverse.im.get());
      n = -n;
    }
    for (; n > 0; n /= 2) {
      if (n % 2 == 1) Multiply(square, value);
      if (n > 1) {
        Complex copy(precision_);
        mpfr_set(copy.re.get(), square.re.get(), MPFR_RNDN);
        mpfr_set(copy.im.get(), square.im.get(), MPFR_RNDN);
        Multiply(copy, &square);
      }
    }
    return Finite(*value);
  }

  bool Function(const Node& node, Complex* value) {
    if (node.children.empty() || !Run(node.children[0], value)) return false;
    if (node.name == "sqrt" || node.name == "root") return Root(node, value);
    if (node.name == "abs") {
      mpfr_hypot(value->re.get(), value->re.get(), value->im.get(), MPFR_RNDN);
      mpfr_set_ui(value->im.get(), 0, MPFR_RNDN);
      return true;
    }
    if (node.name == "conjugate") {
      mpfr_neg(value->im.get(), value->im.get(), MPFR_RNDN);
      return true;
    }
    if (node.name == "exp") return Exponential(value);
    if (node.name == "ln") return Logarithm(value);
    if (node.name == "cis") {
      // cos x + i sin x = e^(i x)
      mpfr_swap(value->re.get(), value->im.get());
      mpfr_neg(value->re.get(), value->re.get(), MPFR_RNDN);
      return Exponential(value);
    }
    if (node.name == "sin" || node.name == "cos") return Circular(node.name == "sin", value);
    return false;
  }

  bool Root(const Node& node, Complex* value) {
    Complex degree(precision_);
    mpfr_set_ui(degree.re.get(), 2, MPFR_RNDN);
    mpfr_set_ui(degree.im.get(), 0, MPFR_RNDN);
    if (node.children.size() == 2 && !Run(node.children[1], &degree)) return false;
    if (mpfr_zero_p(value->re.get()) != 0 && mpfr_zero_p(value->im.get()) != 0) return true;
    return Logarithm(value) && Divide(degree, value) && Exponential(value);
  }

  // sin(x + i y) = sin x cosh y + i cos x sinh y, cos(x + i y) = cos x cosh y - i sin x sinh y
  bool Circular(bool sine, Complex* value) {
    if (!budget_->Spend(300) || TooLarge(value->re) || TooLarge(value->im)) return false;
    Real s(precision_), c(precision_), sh(precision_), ch(precision_);
    mpfr_sin_cos(s.get(), c.get(), value->re.get(), MPFR_RNDN);
    mpfr_sinh_cosh(sh.get(), ch.get(), value->im.get(), MPFR_RNDN);
    mpfr_mul(value->re.get(), (sine ? s : c).get(), ch.get(), MPFR_RNDN);
    mpfr_mul(value->im.get(), (sine ? c : s).get(), sh.get(), MPFR_RNDN);
    if (!sine) mpfr_neg(value->im.get(), value->im.get(), MPFR_RNDN);
    return Finite(*value);
  }

  const Expression& expression_;
  const Point& point_;
  const mpfr_prec_t precision_;
  Budget* const budget_;
};

}  // namespace

bool EvaluateComplex(const Expression& expression, int node, const Point& point,
                     mpfr_prec_t precision, Budget* budget, Complex* value) {
  return Evaluator(expression, point, precision, budget).Run(node, value);
}

}  // namespace espalier::reward
