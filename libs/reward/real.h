// Real: an MPFR number that frees itself, and the evaluation of a tree at one point.
#pragma once

#include <mpfr.h>

#include <string>
#include <vector>

#include "libs/reward/expression.h"

namespace espalier::reward {

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

// Which of the points, the symbols that are whole numbers there, and precision beyond the usual.
struct Point {
  int index;
  const std::vector<std::string>* integers;
  long extra_bits;
};

// The value of a symbol at a point, from its name alone.
void SetPoint(const std::string& name, const Point& point, Real* value);

// False when undefined, not real, or out of budget.
bool EvaluateReal(const Expression& expression, int node, const Point& point, mpfr_prec_t precision,
                  Budget* budget, Real* value);

}  // namespace espalier::reward
