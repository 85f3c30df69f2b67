// The cheapest method that can decide goes first; only the numeric one answers "probable".
#include "libs/reward/scalar.h"

#include "libs/reward/exact.h"
#include "libs/reward/numeric.h"
#include "libs/reward/plain_number.h"
#include "libs/reward/polynomial.h"

namespace espalier::reward {
namespace {

// A decimal stands for what rounds to it, but never for something this far away: 0.5 is not 0.51.
const mpq_class& LargestRelativeRounding() {
  static const mpq_class* const kLargest = new mpq_class(3, 200);
  return *kLargest;
}

Decision ByNormalForm(const NodePair& pair, Budget* budget) {
  const auto a = Normalise(pair.reference, pair.reference_node, budget);
  const auto b = Normalise(pair.answer, pair.answer_node, budget);
  if (!a || !b) return {};
  const auto left = Multiply(a->over, b->under, budget),
             right = Multiply(b->over, a->under, budget);
  if (!left || !right) return {};
  if (*left == *right) return {Match::kEqual, "normal_form"};
  if (!a->opaque && !b->opaque) return {Match::kDifferent, "normal_form"};
  return {};
}

Decision ByNumbers(const NodePair& pair, const mpq_class& half, Budget* budget) {
  // Only constants are rounded.
  const bool constant = SymbolsOf(pair.reference, pair.reference_node).empty() &&
                        SymbolsOf(pair.answer, pair.answer_node).empty();
  const double tolerance = constant ? half.get_d() : 0;
  switch (CompareNumerically(pair.reference, pair.reference_node, pair.answer, pair.answer_node,
                             tolerance, budget)) {
    case Comparison::kEqual:
      return {tolerance > 0 ? Match::kEqual : Match::kProbable,
              tolerance > 0 ? "decimal_rounded" : "numeric_identity", true};
    case Comparison::kDifferent:
      return {Match::kDifferent, "numeric_identity", true};
    case Comparison::kUnknown:
      break;
  }
  return {Match::kUnknown, budget->spent() ? "budget" : "undefined"};
}

Decision CompareAsWritten(const NodePair& pair, Budget* budget) {
  const mpq_class half = HalfPlace(pair.reference, pair.reference_node);
  mpq_class a, b;
  const Outcome outcome_a = EvaluateExact(pair.reference, pair.reference_node, budget, &a);
  const Outcome outcome_b = EvaluateExact(pair.answer, pair.answer_node, budget, &b);
  if (outcome_a == Outcome::kUndefined || outcome_b == Outcome::kUndefined) {
    return {outcome_a == Outcome::kUndefined ? Match::kUnknown : Match::kDifferent, "undefined"};
  }
  if (outcome_a == Outcome::kValue && outcome_b == Outcome::kValue) {
    if (a == b) return {Match::kEqual, "exact_number"};
    if (half != 0 && RoundsTo(b, a, half)) return {Match::kEqual, "decimal_rounded"};
    return {Match::kDifferent, "exact_number"};
  }
  // One is rational and the other too large to be written out: numbers of such size are told apart
  // by their logarithms.
  const Decision by_form = outcome_a == Outcome::kBudget || outcome_b == Outcome::kBudget
                               ? Decision{}
                               : ByNormalForm(pair, budget);
  if (by_form.match != Match::kUnknown && half == 0) return by_form;
  if (by_form.match == Match::kEqual) return by_form;
  if (budget->spent()) return {Match::kUnknown, "budget"};
  const Decision by_numbers = ByNumbers(pair, half, budget);
  // Equal leading digits of numbers beyond the exact range prove nothing.
  const bool huge = outcome_a == Outcome::kBudget || outcome_b == Outcome::kBudget;
  if (huge && by_numbers.match != Match::kDifferent) return {Match::kUnknown, "budget"};
  return by_numbers;
}

// The child of a percent or degree sign at the top (or below one sign), or -1.
int Below(const Expression& expression, int node, Kind kind) {
  return expression.at(node).kind == kind ? expression.at(node).children[0] : -1;
}

}  // namespace

mpq_class HalfPlace(const Expression& expression, int node) {
  const Node& n = expression.at(node);
  if (n.kind == Kind::kNegate) return HalfPlace(expression, n.children[0]);
  if (n.kind == Kind::kPercent) return HalfPlace(expression, n.children[0]) / 100;
  if (n.kind == Kind::kNumber && n.decimal) return HalfPlace(n.digits);
  // "1.5 * 10^8"
  if (n.kind == Kind::kProduct && n.children.size() == 2) {
    const Node& power = expression.at(n.children[1]);
    const mpq_class half = HalfPlace(expression, n.children[0]);
    if (half == 0 || power.kind != Kind::kPower) return 0;
    Budget budget{1000};
    mpq_class factor;
    if (EvaluateExact(expression, n.children[1], &budget, &factor) != Outcome::kValue ||
        factor <= 0)
      return 0;
    return half * factor;
  }
  return 0;
}

bool RoundsTo(const mpq_class& answer, const mpq_class& reference, const mpq_class& half) {
  const mpq_class distance = abs(answer - reference);
  return distance <= half && distance <= abs(reference) * LargestRelativeRounding();
}

Decision CompareScalars(const NodePair& pair, bool strict_units, Budget* budget) {
  const Decision decision = CompareAsWritten(pair, budget);
  // "28%" is written as 28 or as 0.28, "90°" as 90 or as pi/2.
  for (const Kind kind : {Kind::kPercent, Kind::kDegree}) {
    const int below_reference = Below(pair.reference, pair.reference_node, kind);
    const int below_answer = Below(pair.answer, pair.answer_node, kind);
    if ((below_reference < 0) == (below_answer < 0)) continue;
    if (strict_units) return {Match::kDifferent, "units"};
    if (IsYes(decision)) return decision;
    // A reference below 1 without the sign is no percentage.
    mpq_class value;
    if (kind == Kind::kPercent && below_reference < 0 &&
        EvaluateExact(pair.reference, pair.reference_node, budget, &value) == Outcome::kValue &&
        abs(value) < 1)
      continue;
    const NodePair bare{pair.reference, below_reference < 0 ? pair.reference_node : below_reference,
                        pair.answer, below_answer < 0 ? pair.answer_node : below_answer};
    const Decision without = CompareAsWritten(bare, budget);
    if (IsYes(without)) return without;
  }
  return decision;
}

}  // namespace espalier::reward
