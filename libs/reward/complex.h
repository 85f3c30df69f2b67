// Complex values of trees: principal branches, for expressions that hold the imaginary unit or
// leave the reals.
#pragma once

#include "libs/reward/real.h"

namespace espalier::reward {

struct Complex {
  explicit Complex(mpfr_prec_t precision) : re(precision), im(precision) {}
  Real re, im;
};

// False when undefined or out of budget. Parts that are real are evaluated as such.
bool EvaluateComplex(const Expression& expression, int node, const Point& point,
                     mpfr_prec_t precision, Budget* budget, Complex* value);

}  // namespace espalier::reward
