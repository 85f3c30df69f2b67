// Inequalities in one unknown are solved when they are linear, quadratic with rational roots, or
// the absolute value of something linear.
#include "libs/reward/real_set.h"

#include <algorithm>
#include <utility>

#include "libs/reward/exact.h"
#include "libs/reward/numeric.h"

namespace espalier::reward {
namespace {

constexpr size_t kBreakpointsMax = 40;

bool IsInequality(const Node& relation) {
  return std::all_of(relation.name.begin(), relation.name.end(),
                     [](char c) { return c == '<' || c == 'l' || c == '>' || c == 'g'; });
}

bool IsReals(const Side& side) { return side.kind() == Kind::kSymbol && side.top().name == "\\R"; }

bool IsSetFunction(const Side& side) {
  return side.kind() == Kind::kFunction &&
         (side.top().name == "difference" || side.top().name == "intersection");
}

// "R - {1}"
bool IsRealsMinus(const Side& side) {
  return side.kind() == Kind::kSum && side.size() == 2 && IsReals(side.child(0)) &&
         side.child(1).kind() == Kind::kNegate && IsGroup(side.child(1).child(0), '{');
}

char Flipped(char op) {
  return op == '<' ? '>' : op == '>' ? '<' : op == 'l' ? 'g' : op == 'g' ? 'l' : op;
}

// The 3 of "x != -2, 3".
bool IsExcluded(const Side& list, size_t part) {
  const Side first = list.child(0);
  return first.kind() == Kind::kRelation && first.top().name == "#" &&
         list.child(part).kind() != Kind::kRelation && IsConstant(list.child(part));
}

RealSet Combined(RealSet::Op op, std::vector<RealSet> parts) {
  RealSet set;
  set.op = op;
  set.parts = std::move(parts);
  return set;
}

}  // namespace

bool IsRealSet(const Side& side) {
  if (side.kind() == Kind::kUnion || IsReals(side) || IsSetFunction(side) || IsRealsMinus(side))
    return true;
  if (side.kind() == Kind::kRelation)
    return IsInequality(side.top()) || side.top().name == "#" || side.top().name == "i";
  if (side.kind() == Kind::kList && side.size() > 0) {
    for (size_t i = 0; i < side.size(); ++i) {
      const Side part = side.child(i);
      if (i > 0 && IsExcluded(side, i)) continue;
      if (part.kind() != Kind::kRelation || !IsRealSet(part)) return false;
    }
    return true;
  }
  return IsTupleLike(side) && side.size() == 2 &&
         (side.top().open != '(' || side.top().close != ')' || InfinityOf(side.child(0)) != 0 ||
          InfinityOf(side.child(1)) != 0);
}

RealSet RealSetReader::Ray(char op, int point) {
  RealSet ray;
  const bool below = op == '<' || op == 'l';
  (below ? ray.high : ray.low) = point;
  (below ? ray.high_in : ray.low_in) = op == 'l' || op == 'g';
  return ray;
}

std::optional<int> RealSetReader::Point(Side side) {
  if (!IsConstant(side) || breakpoints_.size() >= kBreakpointsMax) return std::nullopt;
  const auto place = Approximate(*side.expression, side.node, budget_);
  if (!place) return std::nullopt;
  breakpoints_.push_back({side, *place, from_reference_});
  return static_cast<int>(breakpoints_.size()) - 1;
}

int RealSetReader::PointAt(const mpq_class& value) {
  copies_->push_back(std::make_unique<Expression>());
  Expression* copy = copies_->back().get();
  Node number{Kind::kNumber};
  number.value = value;
  copy->root = copy->Add(std::move(number));
  breakpoints_.push_back({{copy, copy->root}, value.get_d(), from_reference_});
  return static_cast<int>(breakpoints_.size()) - 1;
}

bool RealSetReader::Unknown(const std::string& name) {
  if (unknown_.empty()) unknown_ = name;
  return unknown_ == name;
}

std::optional<RealSet> RealSetReader::Read(Side side, bool from_reference, int depth) {
  from_reference_ = from_reference;
  if (depth > 6 || !budget_->Spend(4)) return std::nullopt;
  if (IsReals(side)) return RealSet{};
  if (side.kind() == Kind::kUnion) return Members(side, RealSet::Op::kUnion, depth);
  if (IsSetFunction(side)) {
    return Members(
        side,
        side.top().name == "difference" ? RealSet::Op::kDifference : RealSet::Op::kIntersection,
        depth);
  }
  if (IsRealsMinus(side)) {
    const auto points = Points(side.child(1).child(0));
    if (!points) return std::nullopt;
    return Combined(RealSet::Op::kDifference, {RealSet{}, *points});
  }
  if (IsGroup(side, '{') || side.kind() == Kind::kList) {
    const bool conditions = side.size() > 0 && side.child(0).kind() == Kind::kRelation;
    if (!conditions) return Points(side);
    return Members(side, side.top().name == "or" ? RealSet::Op::kUnion : RealSet::Op::kIntersection,
                   depth);
  }
  if (IsTupleLike(side) && side.size() == 2) return Interval(side);
  if (side.kind() != Kind::kRelation) return std::nullopt;
  if (side.top().name == "i") {
    // "x in R" and "x in [0, 1]"
    if (side.child(0).kind() != Kind::kSymbol || !Unknown(side.child(0).top().name))
      return std::nullopt;
    return Read(side.child(1), from_reference, depth + 1);
  }
  return Relation(side);
}

std::optional<RealSet> RealSetReader::Members(Side side, RealSet::Op op, int depth) {
  std::vector<RealSet> parts;
  for (size_t i = 0; i < side.size(); ++i) {
    const bool excluded = side.kind() == Kind::kList && i > 0 && IsExcluded(side, i);
    auto part = excluded ? Inequality(side.child(0).child(0), '#', side.child(i))
                         : Read(side.child(i), from_reference_, depth + 1);
    if (!part) return std::nullopt;
    parts.push_back(*std::move(part));
  }
  return Combined(op, std::move(parts));
}

std::optional<RealSet> RealSetReader::Interval(Side side) {
  RealSet set;
  set.low_in = side.top().open == '[';
  set.high_in = side.top().close == ']';
  const Side low = side.child(0), high = side.child(1);
  if (InfinityOf(low) > 0 || InfinityOf(high) < 0) return std::nullopt;
  for (const bool is_low : {true, false}) {
    const Side& end = is_low ? low : high;
    if (InfinityOf(end) != 0) continue;
    const auto point = Point(end);
    if (!point) return std::nullopt;
    (is_low ? set.low : set.high) = *point;
  }
  const bool turned =
      set.low >= 0 && set.high >= 0 && breakpoints_[set.low].place > breakpoints_[set.high].place;
  if (turned) return std::nullopt;
  return set;
}

std::optional<RealSet> RealSetReader::Points(Side side) {
  std::vector<RealSet> points;
  for (size_t i = 0; i < side.size(); ++i) {
    const auto point = Point(side.child(i));
    if (!point) return std::nullopt;
    points.push_back({RealSet::Op::kPiece, *point, *point, true, true, {}});
  }
  return Combined(RealSet::Op::kUnion, std::move(points));
}

std::optional<RealSet> RealSetReader::Relation(Side side) {
  const Node& relation = side.top();
  std::vector<RealSet> all;
  for (size_t i = 0; i + 1 < relation.children.size(); ++i) {
    const char op = relation.name[i];
    if (op == '=' || op == ':' || op == 'i' || op == 'n' || op == 't') return std::nullopt;
    auto one = Inequality(side.child(i), op, side.child(i + 1));
    if (!one) return std::nullopt;
    all.push_back(*std::move(one));
  }
  return all.size() == 1 ? all[0] : Combined(RealSet::Op::kIntersection, std::move(all));
}

std::optional<RealSet> RealSetReader::Inequality(Side left, char op, Side right) {
  if (IsConstant(left)) {
    std::swap(left, right);
    op = Flipped(op);
  }
  if (left.kind() != Kind::kSymbol || !IsConstant(right)) {
    const bool absolute = left.kind() == Kind::kFunction && left.top().name == "abs";
    return absolute && IsConstant(right) ? Absolute(left.child(0), op, right)
                                         : Solved(left, op, right);
  }
  if (!Unknown(left.top().name)) return std::nullopt;
  // "x < infinity" bounds nothing.
  if (InfinityOf(right) != 0) {
    const bool below = op == '<' || op == 'l';
    if (below != (InfinityOf(right) > 0)) return std::nullopt;
    return RealSet{};
  }
  const auto point = Point(right);
  if (!point) return std::nullopt;
  if (op == '#')
    return Combined(RealSet::Op::kDifference,
                    {RealSet{}, RealSet{RealSet::Op::kPiece, *point, *point, true, true, {}}});
  return Ray(op, *point);
}

// left - right as a polynomial of degree one or two in one unknown.
std::optional<RealSet> RealSetReader::Solved(Side left, char op, Side right) {
  const auto over = [&](Side side) -> std::optional<Polynomial> {
    const auto form = Normalise(*side.expression, side.node, budget_);
    const bool plain = form && !form->opaque && form->under.size() == 1 &&
                       form->under.begin()->first.empty() && form->under.begin()->second != 0;
    if (!plain) return std::nullopt;
    Polynomial scaled = form->over;
    for (auto& [monomial, coefficient] : scaled) coefficient /= form->under.begin()->second;
    return scaled;
  };
  const auto a = over(left), b = over(right);
  if (!a || !b) return std::nullopt;
  mpq_class coefficients[3];
  for (const auto& [monomial, coefficient] : Subtract(*a, *b)) {
    if (monomial.size() > 1) return std::nullopt;
    const int degree = monomial.empty() ? 0 : monomial[0].second;
    if (degree > 2 || (degree > 0 && !Unknown(monomial[0].first))) return std::nullopt;
    coefficients[degree] = coefficient;
  }
  if (coefficients[2] != 0) return Quadratic(coefficients[2], coefficients[1], coefficients[0], op);
  if (coefficients[1] == 0) return std::nullopt;
  const int point = PointAt(-coefficients[0] / coefficients[1]);
  if (op == '#')
    return Combined(RealSet::Op::kDifference,
                    {RealSet{}, RealSet{RealSet::Op::kPiece, point, point, true, true, {}}});
  return Ray(coefficients[1] < 0 ? Flipped(op) : op, point);
}

std::optional<RealSet> RealSetReader::Quadratic(const mpq_class& a, const mpq_class& b,
                                                const mpq_class& c, char op) {
  const mpq_class discriminant = b * b - 4 * a * c;
  if (discriminant <= 0 || op == '#') return std::nullopt;
  if (mpz_perfect_square_p(discriminant.get_num_mpz_t()) == 0 ||
      mpz_perfect_square_p(discriminant.get_den_mpz_t()) == 0)
    return std::nullopt;
  const mpq_class root(sqrt(discriminant.get_num()), sqrt(discriminant.get_den()));
  const mpq_class first = (-b - root) / (2 * a), second = (-b + root) / (2 * a);
  const int low = PointAt(std::min(first, second)), high = PointAt(std::max(first, second));
  const bool closed = op == 'l' || op == 'g', below = op == '<' || op == 'l';
  if (below == (a > 0)) return RealSet{RealSet::Op::kPiece, low, high, closed, closed, {}};
  return Combined(RealSet::Op::kUnion,
                  {Ray(closed ? 'l' : '<', low), Ray(closed ? 'g' : '>', high)});
}

// |inner| op bound, for a positive bound: inner lies between -bound and bound, or outside.
std::optional<RealSet> RealSetReader::Absolute(Side inner, char op, Side bound) {
  mpq_class value;
  if (EvaluateExact(*bound.expression, bound.node, budget_, &value) != Outcome::kValue ||
      value <= 0 || op == '#')
    return std::nullopt;
  copies_->push_back(std::make_unique<Expression>());
  Expression* negative = copies_->back().get();
  Node number{Kind::kNumber};
  number.value = -value;
  negative->root = negative->Add(std::move(number));
  auto upper = Inequality(inner, op, bound);
  auto lower = Inequality(inner, Flipped(op), {negative, negative->root});
  if (!upper || !lower) return std::nullopt;
  const bool inside = op == '<' || op == 'l';
  return Combined(inside ? RealSet::Op::kIntersection : RealSet::Op::kUnion,
                  {*std::move(upper), *std::move(lower)});
}

bool Contains(const RealSet& set, const std::vector<int>& rank, int cell) {
  const auto in = [&](const RealSet& part) { return Contains(part, rank, cell); };
  switch (set.op) {
    case RealSet::Op::kPiece: {
      // Breakpoint i in order is cell 2 i + 1.
      const int low = set.low < 0 ? -1 : 2 * rank[set.low] + 1;
      const int high = set.high < 0 ? 1 << 20 : 2 * rank[set.high] + 1;
      return (cell > low || (set.low_in && cell == low)) &&
             (cell < high || (set.high_in && cell == high));
    }
    case RealSet::Op::kUnion:
      return std::any_of(set.parts.begin(), set.parts.end(), in);
    case RealSet::Op::kIntersection:
      return std::all_of(set.parts.begin(), set.parts.end(), in);
    case RealSet::Op::kDifference:
      return !set.parts.empty() && in(set.parts[0]) &&
             std::none_of(set.parts.begin() + 1, set.parts.end(), in);
  }
  return false;
}

}  // namespace espalier::reward
