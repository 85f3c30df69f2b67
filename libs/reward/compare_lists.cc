// Lists, sets, tuples and matrices: order counts in tuples and points, not in sets; values that
// were assigned to names are compared name by name.
#include <algorithm>

#include "libs/reward/comparer.h"

namespace espalier::reward {
namespace {

// A copy of the tree for one sign of its plus-minus.
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

// Distinct names in order of appearance; "x_1" and "x_2" name two values of one x.
std::vector<std::string> NamesOf(const std::vector<Element>& elements) {
  std::vector<std::string> names;
  for (const Element& element : elements) {
    // In "(x, y) = (5, 8), (8, 5)" the name holds for all.
    if (element.name.empty()) continue;
    const std::string name = element.name.substr(0, element.name.find('_'));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

// "x = -1 or x = 5": values of one unknown, which are no point.
bool AreAlternatives(const Side& side, const std::vector<Element>& elements) {
  if (side.kind() != Kind::kList) return false;
  if (side.top().name == "or") return true;
  return elements.size() > 1 && !elements[0].name.empty() && elements[0].name == elements[1].name &&
         elements[0].side.kind() != Kind::kGroup && side.child(1).kind() == Kind::kRelation;
}

bool IsVector(const Side& side) {
  if (side.kind() == Kind::kMatrix) return side.top().columns == 1;
  return IsTupleLike(side) ||
         (side.kind() == Kind::kFunction && side.top().name == "binom" && side.size() == 2);
}

}  // namespace

std::vector<Element> Comparer::ElementsOf(Side side) {
  std::vector<Element> elements;
  Gather(side, &elements, 0);
  return elements;
}

void Comparer::Gather(Side side, std::vector<Element>* elements, int depth) {
  if (depth > 4 || elements->size() > kElementsMax || !budget_->Spend()) return;
  const bool list = side.kind() == Kind::kList || side.kind() == Kind::kUnion ||
                    (depth == 0 && side.kind() == Kind::kGroup);
  if (list) {
    for (size_t i = 0; i < side.size(); ++i) Gather(side.child(i), elements, depth + 1);
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

// "x = 1, y = 2" or "(x, y) = (1, 2)" as x and y with their values; empty when it is neither.
std::vector<Element> Comparer::AssignmentsOf(Side side) {
  std::vector<Element> elements;
  if (side.kind() == Kind::kRelation && side.top().name == "=") {
    const Side left = side.child(0), right = side.child(1);
    if (left.kind() != Kind::kGroup || right.kind() != Kind::kGroup || left.size() != right.size())
      return {};
    for (size_t i = 0; i < left.size(); ++i) {
      if (left.child(i).kind() != Kind::kSymbol) return {};
      elements.push_back({left.child(i).top().name, right.child(i)});
    }
    return elements;
  }
  if (side.kind() != Kind::kList) return {};
  for (size_t i = 0; i < side.size(); ++i) {
    const Side part = side.child(i);
    if (part.kind() != Kind::kRelation || part.top().name != "=" ||
        part.child(0).kind() != Kind::kSymbol)
      return {};
    const Element element{part.child(0).top().name, part.child(1)};
    const auto same = [&](const Element& other) { return other.name == element.name; };
    if (std::any_of(elements.begin(), elements.end(), same)) return {};
    elements.push_back(element);
  }
  return elements;
}

Decision Comparer::CompareMany(Side r, Side a, int depth) {
  if (IsGroup(r, '{') != IsGroup(a, '{') && IsTupleLike(r) != IsTupleLike(a) &&
      r.kind() == a.kind())
    return Different("set_or_tuple");
  if (IsTupleLike(r) && IsTupleLike(a) && r.size() == 2 &&
      (r.top().open != a.top().open || r.top().close != a.top().close))
    return Different("brackets");
  const std::vector<Element> elements_r = ElementsOf(r), elements_a = ElementsOf(a);
  if (elements_r.size() > kElementsMax || elements_a.size() > kElementsMax)
    return {Match::kUnknown, "budget"};
  const std::vector<std::string> names_r = NamesOf(elements_r), names_a = NamesOf(elements_a);
  const bool named_r = names_r.size() > 1, named_a = names_a.size() > 1;
  if (named_r != named_a) {
    const Decision tuples = named_r
                                ? CompareNamed(elements_r, names_r.size(), elements_a, false, depth)
                                : CompareNamed(elements_a, names_a.size(), elements_r, true, depth);
    if (tuples.match != Match::kUnknown) return tuples;
  }
  if (elements_r.size() != elements_a.size()) return Different("count");
  const bool ordered = IsTupleLike(r) || IsTupleLike(a);
  if (ordered && (AreAlternatives(r, elements_r) || AreAlternatives(a, elements_a)))
    return Different("set_or_tuple");
  return ordered ? CompareOrdered(elements_r, elements_a, depth)
                 : CompareUnordered(elements_r, elements_a, named_r && named_a, depth);
}

// "p=5, q=2; p=7, q=2" against "(5,2), (7,2)", or "p=5, q=2" against "(5,2)": values name by name.
Decision Comparer::CompareNamed(const std::vector<Element>& named, size_t names,
                                const std::vector<Element>& bare, bool swap, int depth) {
  if (named.size() % names != 0) return {};
  const bool tuples = !bare.empty() && bare[0].side.kind() == Kind::kGroup;
  if (!tuples) {
    if (named.size() != bare.size()) return Different("count");
    return swap ? CompareOrdered(bare, named, depth) : CompareOrdered(named, bare, depth);
  }
  if (bare.size() != named.size() / names) return Different("count");
  Decision all{Match::kEqual, "named_tuples"};
  std::vector<bool> used(bare.size());
  for (size_t first = 0; first < named.size(); first += names) {
    bool found = false, tested = false;
    const auto begin = named.begin() + static_cast<std::ptrdiff_t>(first);
    const std::vector<Element> part(begin, begin + static_cast<std::ptrdiff_t>(names));
    for (size_t j = 0; j < bare.size() && !found; ++j) {
      if (used[j]) continue;
      const std::vector<Element> values = ElementsOf(bare[j].side);
      if (values.size() != names) return Different("count");
      const Decision one =
          swap ? CompareOrdered(values, part, depth) : CompareOrdered(part, values, depth);
      tested = tested || one.tested;
      if (!IsYes(one)) continue;
      used[j] = found = true;
      all = Both(all, one);
    }
    if (!found) return Different("named_tuples", tested);
  }
  return all;
}

Decision Comparer::CompareOrdered(const std::vector<Element>& r, const std::vector<Element>& a,
                                  int depth) {
  if (r.size() != a.size()) return Different("count");
  Decision all{Match::kEqual, "ordered"};
  for (size_t i = 0; i < r.size(); ++i) {
    const Decision one = CompareSides(r[i].side, a[i].side, depth + 1);
    if (one.match == Match::kDifferent) return Different("ordered", one.tested);
    all = Both(all, one);
  }
  return all;
}

Decision Comparer::CompareUnordered(const std::vector<Element>& r, const std::vector<Element>& a,
                                    bool names_count, int depth) {
  Decision all{Match::kEqual, "unordered"};
  std::vector<bool> used(a.size());
  for (const Element& element : r) {
    bool found = false, unknown = false, tested = false;
    for (size_t j = 0; j < a.size() && !found; ++j) {
      if (used[j] || (names_count && element.name != a[j].name)) continue;
      const Decision one = CompareSides(element.side, a[j].side, depth + 1);
      unknown = unknown || one.match == Match::kUnknown;
      tested = tested || one.tested;
      if (!IsYes(one)) continue;
      used[j] = found = true;
      all = Both(all, one);
    }
    if (!found && unknown) return {Match::kUnknown, "unordered"};
    if (!found) return Different("unordered", tested);
  }
  return all;
}

Decision Comparer::CompareMatrices(Side r, Side a, int depth) {
  // A column is a vector, however it is written.
  const bool vectors = IsVector(r) && IsVector(a);
  if (!vectors && (r.kind() != a.kind() || r.top().columns != a.top().columns))
    return Different("matrix");
  if (r.size() != a.size()) return Different("matrix");
  Decision all{Match::kEqual, "matrix"};
  for (size_t i = 0; i < r.size(); ++i) {
    const Decision one = CompareSides(r.child(i), a.child(i), depth + 1);
    if (one.match == Match::kDifferent) return Different("matrix", one.tested);
    all = Both(all, one);
  }
  return all;
}

}  // namespace espalier::reward
