// Comparer: structure first. Assignments are taken off; lists, sets, tuples, intervals,
// inequalities, equations and matrices are compared part by part; single values go to scalar.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libs/reward/equivalence.h"
#include "libs/reward/polynomial.h"

namespace espalier::reward {

inline constexpr size_t kElementsMax = 64;

// One node of the reference or of the answer.
struct Side {
  const Expression* expression;
  int node;
  const Node& top() const { return expression->at(node); }
  Side child(size_t index) const { return {expression, top().children[index]}; }
  size_t size() const { return top().children.size(); }
  Kind kind() const { return top().kind; }
};

// A part of a list, and the name that it was assigned to, if any.
struct Element {
  std::string name;
  Side side;
};

inline bool IsGroup(const Side& side, char open) {
  return side.kind() == Kind::kGroup && side.top().open == open;
}
inline bool IsTupleLike(const Side& side) {
  return side.kind() == Kind::kGroup && side.top().open != '{';
}
// No symbol but the imaginary unit.
bool IsConstant(const Side& side);
// +1, -1 for an infinity of either sign, else 0.
int InfinityOf(const Side& side);
// What may stand left of "=" as the name of what stands right: x, f(x), (x, y), AB/CD.
bool IsName(const Side& side);
// "x = 5", "sin(pi/2) = 1", "x = 2 + 3 = 5", "x in [0, 1]": the last side; `name` is what it was
// said of.
Side TakeAssignmentOff(Side side, std::string* name);
bool HasPlusMinus(const Expression& expression, int node);

// The weaker of two decisions that must both hold.
inline Decision Both(const Decision& a, const Decision& b) {
  Decision both = a.match >= b.match ? a : b;
  both.tested = a.tested || b.tested;
  return both;
}
inline Decision Different(const char* rule, bool tested = false) {
  return {Match::kDifferent, rule, tested};
}

// One comparison; not thread-safe, the expressions must outlive it.
class Comparer {
 public:
  Comparer(bool strict_units, Budget* budget) : strict_units_(strict_units), budget_(budget) {}

  Decision Run(const Expression& reference, const Expression& answer);
  // Parts of structures; `depth` bounds the nesting.
  Decision CompareSides(Side reference, Side answer, int depth);

 private:
  // --- units and dispatch (equivalence.cc)
  Decision CompareUnits(Side reference, const std::string& wanted, Side* answer,
                        const std::string& said);
  Decision CompareUnwrapped(Side r, Side a, int depth);
  Decision WithoutUnitLetter(Side r, Side a, const Decision& otherwise);
  Side Scaled(Side side, const mpq_class& factor);
  std::optional<Side> WithVariable(Side answer, Side reference);

  // --- lists, sets, tuples, matrices (compare_lists.cc)
  std::vector<Element> ElementsOf(Side side);
  void Gather(Side side, std::vector<Element>* elements, int depth);
  std::vector<Element> AssignmentsOf(Side side);
  Decision CompareMany(Side r, Side a, int depth);
  Decision CompareNamed(const std::vector<Element>& named, size_t names,
                        const std::vector<Element>& bare, bool swap, int depth);
  Decision CompareOrdered(const std::vector<Element>& r, const std::vector<Element>& a, int depth);
  Decision CompareUnordered(const std::vector<Element>& r, const std::vector<Element>& a,
                            bool names_count, int depth);
  Decision CompareMatrices(Side r, Side a, int depth);

  // --- intervals (compare_sets.cc)
  Decision CompareSets(Side r, Side a, int depth);

  // --- equations and inequalities (compare_relations.cc)
  Decision CompareRelations(Side r, Side a, int depth);
  Decision CompareRatios(Side r, Side a);
  Decision CompareByDifference(Side r, Side a);
  std::optional<Polynomial> Difference(Side side);

  const bool strict_units_;
  Budget* const budget_;
  std::vector<std::unique_ptr<Expression>> copies_;  // rewritten parts, while they are compared
};

}  // namespace espalier::reward
