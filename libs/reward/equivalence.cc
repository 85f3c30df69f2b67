// Units, names and the choice of the comparison that fits what the two answers are.
#include "libs/reward/equivalence.h"

#include <algorithm>

#include "libs/reward/comparer.h"
#include "libs/reward/exact.h"
#include "libs/reward/real_set.h"
#include "libs/reward/scalar.h"
#include "libs/reward/units.h"

namespace espalier::reward {
namespace {

bool AllSymbols(const Side& side) {
  if (side.kind() == Kind::kSymbol) return true;
  if (side.kind() != Kind::kProduct) return false;
  for (size_t i = 0; i < side.size(); ++i) {
    if (!AllSymbols(side.child(i))) return false;
  }
  return true;
}

// "AB" of "|AB|": the length of a segment.
bool IsSegment(const Side& side) {
  if (side.kind() != Kind::kProduct || side.size() != 2) return false;
  for (size_t i = 0; i < 2; ++i) {
    const Node& letter = side.child(i).top();
    if (letter.kind != Kind::kSymbol || letter.name[0] < 'A' || letter.name[0] > 'Z') return false;
  }
  return true;
}

bool IsFunctionValue(const Side& side) {
  const std::string& name = side.top().name;
  if (name == "lim") return true;
  if (name == "abs") return IsSegment(side.child(0));
  return !name.empty() && name.size() <= 6 && !IsConstant(side) &&
         absl::string_view("fghFPQW").find(name[0]) != absl::string_view::npos;
}

bool IsOnly(const Node& relation, char op) {
  return std::all_of(relation.name.begin(), relation.name.end(), [&](char c) { return c == op; });
}

// "students" and "people", or words that one has in common with the other; apples are no oranges.
bool SameThings(absl::string_view wanted, absl::string_view said) {
  constexpr absl::string_view kGeneral[] = {"people", "person", "item",       "unit", "way",
                                            "total",  "all",    "altogether", "time", "thing",
                                            "piece",  "object", "in",         "of",   "..."};
  for (const absl::string_view words : {wanted, said}) {
    for (const absl::string_view word : kGeneral) {
      if (words.substr(0, word.size()) == word) return true;
    }
  }
  // By the first four letters, so that plurals agree.
  for (size_t at = 0; at < said.size();) {
    const size_t end = std::min(said.find(' ', at), said.size());
    const absl::string_view stem = said.substr(at, std::min<size_t>(end - at, 4));
    if (!stem.empty() && wanted.find(stem) != absl::string_view::npos) return true;
    at = end + 1;
  }
  return false;
}

// "5 m": the number, and the letter as its unit.
Side TakeUnitLetterOff(Side side, std::string* unit) {
  if (side.kind() != Kind::kProduct || side.size() != 2) return side;
  const Side letter = side.child(1);
  if (!IsConstant(side.child(0)) || letter.kind() != Kind::kSymbol ||
      !IsUnitLetter(letter.top().name))
    return side;
  *unit = letter.top().name;
  return side.child(0);
}

int CopyNode(const Expression& from, int node, Expression* to) {
  Node copy = from.at(node);
  for (int& child : copy.children) child = CopyNode(from, child, to);
  return to->Add(std::move(copy));
}

// A copy in which two symbols have changed places.
int CopySwapped(const Expression& from, int node, const std::string& a, const std::string& b,
                Expression* to) {
  Node copy = from.at(node);
  for (int& child : copy.children) child = CopySwapped(from, child, a, b, to);
  if (copy.kind == Kind::kSymbol) copy.name = copy.name == a ? b : copy.name == b ? a : copy.name;
  return to->Add(std::move(copy));
}

}  // namespace

bool IsConstant(const Side& side) {
  const std::vector<std::string> names = SymbolsOf(*side.expression, side.node);
  return names.empty() || (names.size() == 1 && names[0] == "i");
}

int InfinityOf(const Side& side) {
  if (side.kind() == Kind::kInfinity) return 1;
  return side.kind() == Kind::kNegate && side.child(0).kind() == Kind::kInfinity ? -1 : 0;
}

bool IsName(const Side& side) {
  switch (side.kind()) {
    case Kind::kSymbol:
    case Kind::kProduct:
      return AllSymbols(side);
    case Kind::kFunction:
      return IsFunctionValue(side);
    case Kind::kQuotient:
      return AllSymbols(side.child(0)) && AllSymbols(side.child(1));
    case Kind::kGroup:
    case Kind::kList:
      for (size_t i = 0; i < side.size(); ++i) {
        if (!IsName(side.child(i))) return false;
      }
      return side.size() > 0;
    default:
      return false;
  }
}

Side TakeAssignmentOff(Side side, std::string* name) {
  if (side.kind() != Kind::kRelation) return side;
  const Node& relation = side.top();
  const bool member = relation.name == "i";
  if (!member && !IsOnly(relation, '=')) return side;
  const Side left = side.child(0), right = side.child(side.size() - 1);
  if (IsName(left) || (left.kind() == Kind::kFunction && left.top().name == "f")) {
    Budget budget{500};
    *name = ToText(*left.expression, left.node, &budget);
  } else if (!IsConstant(left)) {
    return side;
  } else if (side.size() == 2 && IsName(right) && right.kind() == Kind::kSymbol) {
    *name = right.top().name;  // "5 = x"
    return left;
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

bool HasPlusMinus(const Expression& expression, int node) {
  if (expression.at(node).kind == Kind::kPlusMinus) return true;
  for (const int child : expression.at(node).children) {
    if (HasPlusMinus(expression, child)) return true;
  }
  return false;
}

Decision Comparer::Run(const Expression& reference, const Expression& answer) {
  Side r{&reference, reference.root}, a{&answer, answer.root};
  std::string wanted = reference.unit, said = answer.unit;
  // "2000 m" against "2 km": beside a unit, a letter is one.
  if (said.empty() && !wanted.empty()) a = TakeUnitLetterOff(a, &said);
  if (wanted.empty() && !said.empty()) r = TakeUnitLetterOff(r, &wanted);
  const Decision units = CompareUnits(r, wanted, &a, said);
  if (units.match != Match::kUnknown) return units;
  return CompareSides(r, a, 0);
}

// Decides when the units do not fit; unknown when the values alone decide, of which `answer` is
// then brought to the reference's unit.
Decision Comparer::CompareUnits(Side reference, const std::string& wanted, Side* answer,
                                const std::string& said) {
  if (said == wanted || SameUnitName(said, wanted)) return {};
  const auto a = FindUnit(said), r = FindUnit(wanted);
  if (strict_units_) {
    if (!a || !r || a->dimension != r->dimension || a->factor != r->factor)
      return Different("units");
    return {};
  }
  if (said.empty() || wanted.empty()) return {};
  if (!r) return a || SameThings(wanted, said) ? Decision{} : Different("units");
  // Words that hold the unit ("miles in all") are no other unit; nonsense is.
  if (!a) return said.find(wanted) != std::string::npos ? Decision{} : Different("units");
  if (a->dimension != r->dimension) return Different("units");
  if (a->factor != r->factor) *answer = Scaled(*answer, a->factor / r->factor);
  (void)reference;
  return {};
}

Side Comparer::Scaled(Side side, const mpq_class& factor) {
  copies_.push_back(std::make_unique<Expression>());
  Expression* copy = copies_.back().get();
  Node number{Kind::kNumber}, product{Kind::kProduct};
  number.value = factor;
  product.children = {copy->Add(std::move(number)), CopyNode(*side.expression, side.node, copy)};
  copy->root = copy->Add(std::move(product));
  return {copy, copy->root};
}

// "f(t) = t^2" in the variable of "f(x) = …"; nothing when they are no such definitions.
std::optional<Side> Comparer::WithVariable(Side answer, Side reference) {
  if (answer.kind() != Kind::kRelation || reference.kind() != Kind::kRelation) return std::nullopt;
  const Side a = answer.child(0), r = reference.child(0);
  if (a.kind() != Kind::kFunction || r.kind() != Kind::kFunction || a.top().name != r.top().name ||
      a.size() != 1 || r.size() != 1)
    return std::nullopt;
  const Side from = a.child(0), to = r.child(0);
  if (from.kind() != Kind::kSymbol || to.kind() != Kind::kSymbol ||
      from.top().name == to.top().name || !budget_->Spend(200))
    return std::nullopt;
  copies_.push_back(std::make_unique<Expression>());
  Expression* copy = copies_.back().get();
  copy->root = CopySwapped(*answer.expression, answer.node, from.top().name, to.top().name, copy);
  return Side{copy, copy->root};
}

Decision Comparer::CompareSides(Side reference, Side answer, int depth) {
  if (depth > 8 || !budget_->Spend(4)) return {Match::kUnknown, "budget"};
  if (const auto renamed = WithVariable(answer, reference)) answer = *renamed;
  // "x = 1, y = 2" and "(x, y) = (1, 2)": name by name.
  const std::vector<Element> named_r = AssignmentsOf(reference), named_a = AssignmentsOf(answer);
  if (!named_r.empty() && !named_a.empty()) {
    if (named_r.size() != named_a.size()) return Different("count");
    return CompareUnordered(named_r, named_a, true, depth);
  }
  std::string name_r, name_a;
  const Side r = TakeAssignmentOff(reference, &name_r), a = TakeAssignmentOff(answer, &name_a);
  // "x = 5" against "y = 5" is about something else; f(x) and W(n) may be called otherwise.
  const bool simple = !name_r.empty() && !name_a.empty() && name_r.find('(') == std::string::npos &&
                      name_a.find('(') == std::string::npos && IsConstant(r) && IsConstant(a) &&
                      SymbolsOf(*reference.expression, reference.node).size() == 1 &&
                      SymbolsOf(*answer.expression, answer.node).size() == 1;
  if (simple && name_r != name_a) return Different("other_name");
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

Decision Comparer::CompareUnwrapped(Side r, Side a, int depth) {
  if (r.kind() == Kind::kText || a.kind() == Kind::kText) {
    const bool equal = r.kind() == a.kind() && r.top().name == a.top().name;
    return {equal ? Match::kEqual : Match::kDifferent, "text"};
  }
  if (IsRealSet(r) || IsRealSet(a)) {
    const Decision sets = CompareSets(r, a, depth);
    if (sets.match != Match::kUnknown) return sets;
  }
  if (r.kind() == Kind::kMatrix || a.kind() == Kind::kMatrix) return CompareMatrices(r, a, depth);
  if (r.kind() == Kind::kRelation || a.kind() == Kind::kRelation)
    return CompareRelations(r, a, depth);
  const auto many = [](const Side& side) {
    return side.kind() == Kind::kList || side.kind() == Kind::kGroup ||
           side.kind() == Kind::kUnion || HasPlusMinus(*side.expression, side.node);
  };
  if (many(r) || many(a)) return CompareMany(r, a, depth);
  if (InfinityOf(r) != 0 || InfinityOf(a) != 0)
    return {InfinityOf(r) == InfinityOf(a) ? Match::kEqual : Match::kDifferent, "infinity"};
  const Decision decision =
      CompareScalars({*r.expression, r.node, *a.expression, a.node}, strict_units_, budget_);
  if (decision.match == Match::kDifferent) return WithoutUnitLetter(r, a, decision);
  return decision;
}

// "5 m" against 5.
Decision Comparer::WithoutUnitLetter(Side r, Side a, const Decision& otherwise) {
  if (strict_units_ || IsConstant(r) == IsConstant(a)) return otherwise;
  std::string unit;
  const Side bare_r = TakeUnitLetterOff(r, &unit), bare_a = TakeUnitLetterOff(a, &unit);
  if (unit.empty()) return otherwise;
  const Decision bare = CompareScalars(
      {*bare_r.expression, bare_r.node, *bare_a.expression, bare_a.node}, strict_units_, budget_);
  return IsYes(bare) ? bare : otherwise;
}

Decision Compare(const Expression& reference, const Expression& answer, bool strict_units,
                 Budget* budget) {
  return Comparer(strict_units, budget).Run(reference, answer);
}

}  // namespace espalier::reward
