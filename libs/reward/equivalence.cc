// Structure first: assignments are taken off, lists, sets, tuples, intervals, inequalities,
// equations and matrices are compared part by part; single values go to scalar.cc.
#include "libs/reward/equivalence.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "libs/reward/exact.h"
#include "libs/reward/numeric.h"
#include "libs/reward/polynomial.h"
#include "libs/reward/scalar.h"
#include "libs/reward/units.h"

namespace espalier::reward {
namespace {

constexpr size_t kElementsMax = 64;

// The weaker of two decisions that must both hold.
Decision Both(const Decision& a, const Decision& b) {
  Decision both = a.match >= b.match ? a : b;
  both.tested = a.tested || b.tested;
  return both;
}

struct Side {
  const Expression* expression;
  int node;
  const Node& top() const { return expression->at(node); }
  Side child(size_t index) const { return {expression, top().children[index]}; }
  Kind kind() const { return top().kind; }
};

bool IsGroup(const Side& side, char open) {
  return side.kind() == Kind::kGroup && side.top().open == open;
}
bool IsTupleLike(const Side& side) { return side.kind() == Kind::kGroup && side.top().open != '{'; }

bool IsConstant(const Side& side) { return SymbolsOf(*side.expression, side.node).empty(); }

bool AllSymbols(const Side& side) {
  if (side.kind() == Kind::kSymbol) return true;
  if (side.kind() != Kind::kProduct) return false;
  for (size_t i = 0; i < side.top().children.size(); ++i) {
    if (!AllSymbols(side.child(i))) return false;
  }
  return true;
}

// What may stand left of "=" as the name of what stands right: x, f(x), (x, y), AB/CD.
bool IsName(const Side& side) {
  switch (side.kind()) {
    case Kind::kSymbol:
    case Kind::kProduct:
      return AllSymbols(side);
    case Kind::kFunction:
      return !side.top().name.empty() && side.top().name.size() <= 6 && !IsConstant(side) &&
             (side.top().name[0] == 'f' || side.top().name[0] == 'g' || side.top().name[0] == 'h' ||
              side.top().name[0] == 'F' || side.top().name[0] == 'P' || side.top().name[0] == 'Q' ||
              side.top().name[0] == 'W');
    case Kind::kQuotient:
      return AllSymbols(side.child(0)) && AllSymbols(side.child(1));
    case Kind::kGroup:
    case Kind::kList:
      for (size_t i = 0; i < side.top().children.size(); ++i) {
        if (!IsName(side.child(i))) return false;
      }
      return true;
    default:
      return false;
  }
}

bool IsOnly(const Node& relation, char op) {
  return std::all_of(relation.name.begin(), relation.name.end(), [&](char c) { return c == op; });
}

// "x = 5", "sin(pi/2) = 1", "x = 2 + 3 = 5", "x in [0, 1]": the last side; `name` is what it was
// said of.
Side TakeAssignmentOff(Side side, std::string* name) {
  if (side.kind() != Kind::kRelation) return side;
  const Node& relation = side.top();
  const bool member = relation.name == "i";
  if (!member && !IsOnly(relation, '=')) return side;
  const Side left = side.child(0), right = side.child(relation.children.size() - 1);
  if (IsName(left) || (left.kind() == Kind::kFunction && left.top().name == "f")) {
    Budget budget{500};
    *name = ToText(*left.expression, left.node, &budget);
  } else if (!IsConstant(left)) {
    // "5 = x"
    if (relation.children.size() == 2 && IsName(right) && IsConstant(left)) return left;
    return side;
  }
  // "3 = 5" says nothing.
  if (name->empty()) {
    Budget budget{2000};
    mpq_class a, b;
    const bool known = EvaluateExact(*left.expression, left.node, &budget, &a) == Outcome::kValue &&
                       EvaluateExact(*right.expression, right.node, &budget, &b) == Outcome::kValue;
    if (known && a != b) return side;
  }
  return right;
}

struct Element {
  std::string name;  // empty when nothing was assigned
  Side side;
};

// Expansion of plus-minus below `node`: a copy of the tree for either sign.
bool HasPlusMinus(const Expression& expression, int node) {
  if (expression.at(node).kind == Kind::kPlusMinus) return true;
  for (const int child : expression.at(node).children) {
    if (HasPlusMinus(expression, child)) return true;
  }
  return false;
}

int CopyWithSign(const Expression& from, int node, bool plus, Expression* to) {
  Node copy = from.at(node);
  for (int& child : copy.children) child = CopyWithSign(from, child, plus, to);
  if (copy.kind == Kind::kPlusMinus) {
    const bool positive = (copy.name == "+") == plus;
    if (positive) return copy.children[0];
    copy.kind = Kind::kNegate;
    copy.name.clear();
  }
  return to->Add(std::move(copy));
}

class Comparer {
 public:
  Comparer(bool strict_units, Budget* budget) : strict_units_(strict_units), budget_(budget) {}

  Decision Run(const Expression& reference, const Expression& answer) {
    Side r{&reference, reference.root}, a{&answer, answer.root};
    std::string wanted = reference.unit, said = answer.unit;
    // "2000 m" against "2 km": beside a unit, a letter is one.
    if (said.empty() && !wanted.empty()) a = TakeUnitLetterOff(a, &said);
    if (wanted.empty() && !said.empty()) r = TakeUnitLetterOff(r, &wanted);
    const Decision units = CompareUnits(r, wanted, a, said);
    if (units.match != Match::kUnknown) return units;
    return CompareSides(r, a, 0);
  }

 private:
  // --- units

  // Decides when units differ or convert; unknown when the values alone decide.
  Decision CompareUnits(Side reference, const std::string& wanted, Side answer,
                        const std::string& said) {
    if (strict_units_ && said != wanted) {
      const auto a = FindUnit(said), r = FindUnit(wanted);
      if (!a || !r || a->dimension != r->dimension || a->factor != r->factor)
        return {Match::kDifferent, "units"};
      return {};
    }
    if (said.empty() || wanted.empty() || said == wanted) return {};
    const auto a = FindUnit(said), r = FindUnit(wanted);
    if (!r) return {};
    // Words that hold the unit ("miles in all") are no other unit; nonsense is.
    if (!a)
      return said.find(wanted) != std::string::npos ? Decision{}
                                                    : Decision{Match::kDifferent, "units"};
    if (a->dimension != r->dimension) return {Match::kDifferent, "units"};
    if (a->factor == r->factor) return {};
    mpq_class value_a, value_r;
    if (EvaluateExact(*answer.expression, answer.node, budget_, &value_a) != Outcome::kValue ||
        EvaluateExact(*reference.expression, reference.node, budget_, &value_r) !=
            Outcome::kValue) {
      return {Match::kDifferent, "units"};
    }
    const mpq_class converted = value_a * a->factor / r->factor;
    const mpq_class half = HalfPlace(*reference.expression, reference.node);
    const bool equal = converted == value_r || (half != 0 && RoundsTo(converted, value_r, half));
    return {equal ? Match::kEqual : Match::kDifferent, "units_converted"};
  }

  // --- structure

  Decision CompareSides(Side reference, Side answer, int depth) {
    if (depth > 8 || !budget_->Spend(4)) return {Match::kUnknown, "budget"};
    std::string name_r, name_a;
    const Side r = TakeAssignmentOff(reference, &name_r), a = TakeAssignmentOff(answer, &name_a);
    // "x = 5" against "y = 5" is about something else; f(x) and W(n) may be called otherwise.
    const bool simple = !name_r.empty() && !name_a.empty() &&
                        reference.child(0).kind() == Kind::kSymbol &&
                        answer.child(0).kind() == Kind::kSymbol && IsConstant(r) && IsConstant(a);
    if (simple && name_r != name_a) return {Match::kDifferent, "other_name"};
    const Decision decision = CompareUnwrapped(r, a, depth);
    if (IsYes(decision)) return decision;
    // Equations with the same meaning, written otherwise: y = 1 - x and x + y = 1.
    if (reference.kind() == Kind::kRelation && answer.kind() == Kind::kRelation &&
        !(IsConstant(r) && IsConstant(a))) {
      const Decision relation = CompareRelations(reference, answer, depth);
      if (relation.match != Match::kUnknown) return relation;
    }
    return decision;
  }

  Decision CompareUnwrapped(Side r, Side a, int depth) {
    if (r.kind() == Kind::kText || a.kind() == Kind::kText) {
      return {
          r.kind() == a.kind() && r.top().name == a.top().name ? Match::kEqual : Match::kDifferent,
          "text"};
    }
    if (IsIntervalLike(r) || IsIntervalLike(a)) {
      const Decision intervals = CompareIntervals(r, a, depth);
      if (intervals.match != Match::kUnknown) return intervals;
    }
    if (r.kind() == Kind::kMatrix || a.kind() == Kind::kMatrix) return CompareMatrices(r, a, depth);
    if (r.kind() == Kind::kRelation || a.kind() == Kind::kRelation)
      return CompareRelations(r, a, depth);
    const bool many = r.kind() == Kind::kList || a.kind() == Kind::kList ||
                      r.kind() == Kind::kGroup || a.kind() == Kind::kGroup ||
                      HasPlusMinus(*r.expression, r.node) || HasPlusMinus(*a.expression, a.node);
    if (many) return CompareMany(r, a, depth);
    if (r.kind() == Kind::kInfinity || a.kind() == Kind::kInfinity || IsMinusInfinity(r) ||
        IsMinusInfinity(a)) {
      const bool equal = r.kind() == a.kind() && IsMinusInfinity(r) == IsMinusInfinity(a);
      return {equal ? Match::kEqual : Match::kDifferent, "infinity"};
    }
    const Decision decision =
        CompareScalars({*r.expression, r.node, *a.expression, a.node}, strict_units_, budget_);
    if (decision.match == Match::kDifferent) return WithoutUnitLetter(r, a, decision);
    return decision;
  }

  static bool IsMinusInfinity(const Side& side) {
    return side.kind() == Kind::kNegate && side.child(0).kind() == Kind::kInfinity;
  }

  // "5 m": the number, and the letter as its unit.
  static Side TakeUnitLetterOff(Side side, std::string* unit) {
    if (side.kind() != Kind::kProduct || side.top().children.size() != 2) return side;
    const Side letter = side.child(1);
    if (!IsConstant(side.child(0)) || letter.kind() != Kind::kSymbol ||
        !IsUnitLetter(letter.top().name))
      return side;
    *unit = letter.top().name;
    return side.child(0);
  }

  // "5 m" against 5.
  Decision WithoutUnitLetter(Side r, Side a, const Decision& otherwise) {
    if (strict_units_ || IsConstant(r) == IsConstant(a)) return otherwise;
    std::string unit;
    const Side bare_r = TakeUnitLetterOff(r, &unit), bare_a = TakeUnitLetterOff(a, &unit);
    if (unit.empty()) return otherwise;
    const Decision bare = CompareScalars(
        {*bare_r.expression, bare_r.node, *bare_a.expression, bare_a.node}, strict_units_, budget_);
    return IsYes(bare) ? bare : otherwise;
  }

  // --- lists, sets, tuples

  std::vector<Element> ElementsOf(Side side) {
    std::vector<Element> elements;
    Gather(side, &elements, 0);
    return elements;
  }

  void Gather(Side side, std::vector<Element>* elements, int depth) {
    if (depth > 4 || elements->size() > kElementsMax || !budget_->Spend()) return;
    const bool list = side.kind() == Kind::kList || (depth == 0 && side.kind() == Kind::kGroup);
    if (list) {
      for (size_t i = 0; i < side.top().children.size(); ++i)
        Gather(side.child(i), elements, depth + 1);
      return;
    }
    std::string name;
    const Side value = TakeAssignmentOff(side, &name);
    if (value.kind() == Kind::kList) return Gather(value, elements, depth + 1);
    if (value.kind() != Kind::kGroup && value.kind() != Kind::kRelation &&
        HasPlusMinus(*value.expression, value.node)) {
      for (const bool plus : {true, false}) {
        copies_.push_back(std::make_unique<Expression>());
        Expression* copy = copies_.back().get();
        if (!budget_->Spend(static_cast<int64_t>(value.expression->nodes.size()))) return;
        copy->root = CopyWithSign(*value.expression, value.node, plus, copy);
        elements->push_back({name, {copy, copy->root}});
      }
      return;
    }
    elements->push_back({name, value});
  }

  // Distinct names in order of appearance.
  static std::vector<std::string> NamesOf(const std::vector<Element>& elements) {
    std::vector<std::string> names;
    for (const Element& element : elements) {
      // In "(x, y) = (5, 8), (8, 5)" the name holds for all.
      if (element.name.empty()) continue;
      if (std::find(names.begin(), names.end(), element.name) == names.end())
        names.push_back(element.name);
    }
    return names;
  }

  Decision CompareMany(Side r, Side a, int depth) {
    if (IsGroup(r, '{') != IsGroup(a, '{') && IsTupleLike(r) != IsTupleLike(a) &&
        r.kind() == a.kind()) {
      return {Match::kDifferent, "set_or_tuple"};
    }
    if (IsTupleLike(r) && IsTupleLike(a) && r.top().children.size() == 2 &&
        (r.top().open != a.top().open || r.top().close != a.top().close)) {
      return {Match::kDifferent, "brackets"};
    }
    std::vector<Element> elements_r = ElementsOf(r), elements_a = ElementsOf(a);
    if (elements_r.size() > kElementsMax || elements_a.size() > kElementsMax)
      return {Match::kUnknown, "budget"};
    const std::vector<std::string> names_r = NamesOf(elements_r), names_a = NamesOf(elements_a);
    const bool named_r = names_r.size() > 1, named_a = names_a.size() > 1;
    if (named_r != named_a) {
      const Decision tuples =
          named_r ? CompareNamed(elements_r, names_r.size(), elements_a, false, depth)
                  : CompareNamed(elements_a, names_a.size(), elements_r, true, depth);
      if (tuples.match != Match::kUnknown) return tuples;
    }
    if (elements_r.size() != elements_a.size()) return {Match::kDifferent, "count"};
    const bool ordered = IsTupleLike(r) || IsTupleLike(a);
    return ordered ? CompareOrdered(elements_r, elements_a, depth)
                   : CompareUnordered(elements_r, elements_a, named_r && named_a, depth);
  }

  // "p=5, q=2; p=7, q=2" against "(5,2), (7,2)", or "p=5, q=2" against "(5,2)": values name by
  // name.
  Decision CompareNamed(const std::vector<Element>& named, size_t names,
                        const std::vector<Element>& bare, bool swap, int depth) {
    if (named.size() % names != 0) return {};
    const bool tuples = !bare.empty() && bare[0].side.kind() == Kind::kGroup;
    if (!tuples) {
      if (named.size() != bare.size()) return {Match::kDifferent, "count"};
      return swap ? CompareOrdered(bare, named, depth) : CompareOrdered(named, bare, depth);
    }
    if (bare.size() != named.size() / names) return {Match::kDifferent, "count"};
    Decision all{Match::kEqual, "named_tuples"};
    std::vector<bool> used(bare.size());
    for (size_t first = 0; first < named.size(); first += names) {
      bool found = false;
      const std::vector<Element> part(named.begin() + first, named.begin() + first + names);
      for (size_t j = 0; j < bare.size() && !found; ++j) {
        if (used[j]) continue;
        const std::vector<Element> values = ElementsOf(bare[j].side);
        if (values.size() != names) return {Match::kDifferent, "count"};
        const Decision one =
            swap ? CompareOrdered(values, part, depth) : CompareOrdered(part, values, depth);
        if (!IsYes(one)) continue;
        used[j] = found = true;
        all = Both(all, one);
      }
      if (!found) return {Match::kDifferent, "named_tuples"};
    }
    return all;
  }

  Decision CompareOrdered(const std::vector<Element>& r, const std::vector<Element>& a, int depth) {
    Decision all{Match::kEqual, "ordered"};
    for (size_t i = 0; i < r.size(); ++i) {
      const Decision one = CompareSides(r[i].side, a[i].side, depth + 1);
      if (one.match == Match::kDifferent) return {Match::kDifferent, "ordered"};
      all = Both(all, one);
    }
    return all;
  }

  Decision CompareUnordered(const std::vector<Element>& r, const std::vector<Element>& a,
                            bool names_count, int depth) {
    Decision all{Match::kEqual, "unordered"};
    std::vector<bool> used(a.size());
    for (const Element& element : r) {
      bool found = false, unknown = false;
      for (size_t j = 0; j < a.size() && !found; ++j) {
        if (used[j] || (names_count && element.name != a[j].name)) continue;
        const Decision one = CompareSides(element.side, a[j].side, depth + 1);
        unknown = unknown || one.match == Match::kUnknown;
        if (!IsYes(one)) continue;
        used[j] = found = true;
        all = Both(all, one);
      }
      if (!found) return {unknown ? Match::kUnknown : Match::kDifferent, "unordered"};
    }
    return all;
  }

  Decision CompareMatrices(Side r, Side a, int depth) {
    if (r.kind() != a.kind() || r.top().columns != a.top().columns ||
        r.top().children.size() != a.top().children.size()) {
      return {Match::kDifferent, "matrix"};
    }
    Decision all{Match::kEqual, "matrix"};
    for (size_t i = 0; i < r.top().children.size(); ++i) {
      const Decision one = CompareSides(r.child(i), a.child(i), depth + 1);
      if (one.match == Match::kDifferent) return {Match::kDifferent, "matrix"};
      all = Both(all, one);
    }
    return all;
  }

  // --- intervals

  struct Interval {
    bool open_low = true, open_high = true;
    Side low, high;
    int infinite_low = 0, infinite_high = 0;  // -1, 0, +1
  };

  static bool IsIntervalLike(const Side& side) {
    if (side.kind() == Kind::kUnion) return true;
    if (side.kind() == Kind::kRelation) return IsInequality(side.top());
    return IsTupleLike(side) && side.top().children.size() == 2 &&
           (side.top().open != '(' || side.top().close != ')' || Infinite(side.child(0)) != 0 ||
            Infinite(side.child(1)) != 0);
  }

  static bool IsInequality(const Node& relation) {
    return std::all_of(relation.name.begin(), relation.name.end(),
                       [](char c) { return c == '<' || c == 'l' || c == '>' || c == 'g'; });
  }

  static int Infinite(const Side& side) {
    if (side.kind() == Kind::kInfinity) return 1;
    return IsMinusInfinity(side) ? -1 : 0;
  }

  bool ToIntervals(Side side, std::vector<Interval>* intervals) {
    if (side.kind() == Kind::kUnion) {
      for (size_t i = 0; i < side.top().children.size(); ++i) {
        if (!ToIntervals(side.child(i), intervals)) return false;
      }
      return true;
    }
    if (IsTupleLike(side) && side.top().children.size() == 2) {
      Interval interval{side.top().open == '(', side.top().close == ')', side.child(0),
                        side.child(1)};
      interval.infinite_low = Infinite(interval.low);
      interval.infinite_high = Infinite(interval.high);
      intervals->push_back(interval);
      return true;
    }
    return side.kind() == Kind::kRelation && InequalityToInterval(side, intervals);
  }

  // "x < 3" and "-2 <= x <= 7" over one symbol with constant bounds.
  bool InequalityToInterval(Side side, std::vector<Interval>* intervals) {
    const Node& relation = side.top();
    if (!IsInequality(relation) || relation.children.size() > 3) return false;
    Interval interval{true, true, side, side, -1, 1};
    size_t symbol = 0;
    while (symbol < relation.children.size() && side.child(symbol).kind() != Kind::kSymbol)
      ++symbol;
    if (symbol == relation.children.size() || (relation.children.size() == 3 && symbol != 1))
      return false;
    for (size_t i = 0; i < relation.children.size(); ++i) {
      if (i == symbol) continue;
      if (!IsConstant(side.child(i))) return false;
      const char op = relation.name[std::min(i, symbol)];
      const bool less = op == '<' || op == 'l';
      const bool low = less == (i < symbol);
      (low ? interval.low : interval.high) = side.child(i);
      (low ? interval.open_low : interval.open_high) = op == '<' || op == '>';
      (low ? interval.infinite_low : interval.infinite_high) = Infinite(side.child(i));
    }
    intervals->push_back(interval);
    return true;
  }

  Decision CompareIntervals(Side r, Side a, int depth) {
    std::vector<Interval> intervals_r, intervals_a;
    if (!ToIntervals(r, &intervals_r) || !ToIntervals(a, &intervals_a)) return {};
    if (intervals_r.size() > kElementsMax || intervals_a.size() > kElementsMax)
      return {Match::kUnknown, "budget"};
    // Two inequalities name what they bound.
    if (r.kind() == Kind::kRelation && a.kind() == Kind::kRelation &&
        SymbolsOf(*r.expression, r.node) != SymbolsOf(*a.expression, a.node)) {
      return {Match::kDifferent, "other_name"};
    }
    if (intervals_r.size() != intervals_a.size()) return {Match::kDifferent, "interval"};
    Decision all{Match::kEqual, "interval"};
    std::vector<bool> used(intervals_a.size());
    for (const Interval& interval : intervals_r) {
      bool found = false;
      for (size_t j = 0; j < intervals_a.size() && !found; ++j) {
        if (used[j]) continue;
        const Decision one = CompareInterval(interval, intervals_a[j], depth);
        if (one.match == Match::kUnknown) return one;
        if (!IsYes(one)) continue;
        used[j] = found = true;
        all = Both(all, one);
      }
      if (!found) return {Match::kDifferent, "interval"};
    }
    return all;
  }

  Decision CompareInterval(const Interval& r, const Interval& a, int depth) {
    if (r.infinite_low != a.infinite_low || r.infinite_high != a.infinite_high)
      return {Match::kDifferent, "interval"};
    // Whether infinity belongs to an interval is a matter of style.
    if ((r.infinite_low == 0 && r.open_low != a.open_low) ||
        (r.infinite_high == 0 && r.open_high != a.open_high)) {
      return {Match::kDifferent, "interval"};
    }
    Decision both{Match::kEqual, "interval"};
    if (r.infinite_low == 0) both = Both(both, CompareSides(r.low, a.low, depth + 1));
    if (r.infinite_high == 0) both = Both(both, CompareSides(r.high, a.high, depth + 1));
    return both;
  }

  // --- equations and inequalities

  Decision CompareRelations(Side r, Side a, int depth) {
    if (r.kind() != Kind::kRelation || a.kind() != Kind::kRelation)
      return {Match::kDifferent, "relation"};
    const Node &relation_r = r.top(), &relation_a = a.top();
    if (relation_r.name == relation_a.name) {
      Decision all{Match::kEqual, "relation"};
      for (size_t i = 0; i < relation_r.children.size(); ++i)
        all = Both(all, CompareSides(r.child(i), a.child(i), depth + 1));
      if (IsYes(all)) return all;
    }
    if (relation_r.children.size() != 2 || relation_a.children.size() != 2)
      return {Match::kDifferent, "relation"};
    return CompareByDifference(r, a);
  }

  // Both brought to "difference (op) 0": equal when one difference is a multiple of the other, and
  // the signs fit.
  Decision CompareByDifference(Side r, Side a) {
    const auto difference_r = Difference(r), difference_a = Difference(a);
    if (!difference_r || !difference_a) return {Match::kUnknown, "relation"};
    char op_r = r.top().name[0], op_a = a.top().name[0];
    const auto factor = Proportion(*difference_r, *difference_a);
    if (!factor) return {Match::kDifferent, "relation"};
    if (*factor < 0) op_a = Flipped(op_a);
    return {op_r == op_a ? Match::kEqual : Match::kDifferent, "relation"};
  }

  static char Flipped(char op) {
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

  // left - right as a polynomial; nothing when a denominator holds symbols, whose sign would
  // matter.
  std::optional<Polynomial> Difference(Side side) {
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

  const bool strict_units_;
  Budget* const budget_;
  std::vector<std::unique_ptr<Expression>>
      copies_;  // own the expansions of plus-minus while they are compared
};

}  // namespace

Decision Compare(const Expression& reference, const Expression& answer, bool strict_units,
                 Budget* budget) {
  return Comparer(strict_units, budget).Run(reference, answer);
}

}  // namespace espalier::reward
