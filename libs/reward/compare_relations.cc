// Equations up to a factor that is not zero, inequalities up to one whose sign turns them, chains
// read from either end, ratios in proportion.
#include <algorithm>

#include "libs/reward/comparer.h"
#include "libs/reward/exact.h"

namespace espalier::reward {
namespace {

char Flipped(char op) {
  switch (op) {
    case '<':
      return '>';
    case '>':
      return '<';
    case 'l':
      return 'g';
    case 'g':
      return 'l';
    default:
      return op;
  }
}

// The operators of a chain that is read from its end; empty when one has no mirror.
std::string Reversed(const std::string& operators) {
  std::string reversed(operators.rbegin(), operators.rend());
  for (char& op : reversed) {
    if (op == 'i' || op == 'n' || op == 't' || op == ':') return "";
    op = Flipped(op);
  }
  return reversed;
}

std::vector<Element> PartsOf(const Side& side) {
  std::vector<Element> parts;
  for (size_t i = 0; i < side.size(); ++i) parts.push_back({"", side.child(i)});
  return parts;
}

}  // namespace

Decision Comparer::CompareRelations(Side r, Side a, int depth) {
  if (r.kind() != Kind::kRelation || a.kind() != Kind::kRelation) return Different("relation");
  const Node &relation_r = r.top(), &relation_a = a.top();
  if (relation_r.name.find(':') != std::string::npos && relation_r.name == relation_a.name)
    return CompareRatios(r, a);
  const size_t size = relation_r.children.size();
  bool unknown = false;
  for (const bool backwards : {false, true}) {
    const std::string operators = backwards ? Reversed(relation_a.name) : relation_a.name;
    if (operators != relation_r.name) continue;
    Decision all{Match::kEqual, "relation"};
    for (size_t i = 0; i < size; ++i)
      all = Both(all, CompareSides(r.child(i), a.child(backwards ? size - 1 - i : i), depth + 1));
    if (IsYes(all)) return all;
    unknown = unknown || all.match == Match::kUnknown;
  }
  if (size != 2 || relation_a.children.size() != 2)
    return unknown ? Decision{Match::kUnknown, "relation"} : Different("relation");
  return CompareByDifference(r, a);
}

Decision Comparer::CompareRatios(Side r, Side a) {
  if (r.size() != a.size()) return Different("count");
  mpq_class first_r, first_a;
  for (size_t i = 0; i < r.size(); ++i) {
    mpq_class value_r, value_a;
    const Side side_r = r.child(i), side_a = a.child(i);
    if (EvaluateExact(*side_r.expression, side_r.node, budget_, &value_r) != Outcome::kValue ||
        EvaluateExact(*side_a.expression, side_a.node, budget_, &value_a) != Outcome::kValue ||
        value_r == 0 || value_a == 0) {
      return CompareOrdered(PartsOf(r), PartsOf(a), 0);
    }
    if (i == 0) first_r = value_r, first_a = value_a;
    if (value_r * first_a != value_a * first_r || sgn(value_r) != sgn(value_a))
      return Different("ratio");
  }
  return {Match::kEqual, "ratio"};
}

// Both brought to "difference (op) 0": equal when one difference is a multiple of the other, and
// the signs fit.
Decision Comparer::CompareByDifference(Side r, Side a) {
  const auto difference_r = Difference(r), difference_a = Difference(a);
  if (!difference_r || !difference_a) return {Match::kUnknown, "relation"};
  const char op_r = r.top().name[0];
  char op_a = a.top().name[0];
  const auto factor = Proportion(*difference_r, *difference_a);
  if (!factor) return Different("relation");
  if (*factor < 0) op_a = Flipped(op_a);
  return {op_r == op_a ? Match::kEqual : Match::kDifferent, "relation"};
}

// left - right as a polynomial; nothing when a denominator holds symbols, whose sign would matter.
std::optional<Polynomial> Comparer::Difference(Side side) {
  const auto left = Normalise(*side.expression, side.child(0).node, budget_);
  const auto right = Normalise(*side.expression, side.child(1).node, budget_);
  if (!left || !right) return std::nullopt;
  const bool equation = side.top().name == "=";
  const auto plain = [](const Polynomial& p) {
    return p.size() == 1 && p.begin()->first.empty() && p.begin()->second > 0;
  };
  if (!equation && (!plain(left->under) || !plain(right->under))) return std::nullopt;
  const auto a = Multiply(left->over, right->under, budget_),
             b = Multiply(right->over, left->under, budget_);
  if (!a || !b) return std::nullopt;
  return Subtract(*a, *b);
}

}  // namespace espalier::reward
