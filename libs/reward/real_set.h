// Real sets: intervals, unions, differences, inequalities in one unknown and finite sets of
// numbers, as truth values on the cells that their breakpoints cut out of the line.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libs/reward/comparer.h"

namespace espalier::reward {

// Whether the node is written as a set of reals: an interval other than (a, b), a union, an
// inequality, a condition.
bool IsRealSet(const Side& side);

struct Breakpoint {
  Side value;
  double place = 0;  // an approximation, to sort by
  bool from_reference = false;
};

// A set before its breakpoints are merged with another's: a tree of pieces.
struct RealSet {
  enum class Op { kPiece, kUnion, kIntersection, kDifference };
  Op op = Op::kPiece;
  // A piece: all numbers between the breakpoints `low` and `high` (-1: no end on that side).
  int low = -1, high = -1;
  bool low_in = false, high_in = false;
  std::vector<RealSet> parts;
};

class RealSetReader {
 public:
  RealSetReader(Budget* budget, std::vector<std::unique_ptr<Expression>>* copies)
      : budget_(budget), copies_(copies) {}

  // Nothing when the node is no set of reals, or its ends are no numbers.
  std::optional<RealSet> Read(Side side, bool from_reference, int depth = 0);

  const std::vector<Breakpoint>& breakpoints() const { return breakpoints_; }
  // The unknown that the inequalities were about; empty when there was none.
  const std::string& unknown() const { return unknown_; }
  void ForgetUnknown() { unknown_.clear(); }

 private:
  std::optional<RealSet> Interval(Side side);
  std::optional<RealSet> Points(Side side);
  std::optional<RealSet> Relation(Side side);
  std::optional<RealSet> Inequality(Side left, char op, Side right);
  std::optional<RealSet> Solved(Side left, char op, Side right);
  std::optional<RealSet> Quadratic(const mpq_class& a, const mpq_class& b, const mpq_class& c,
                                   char op);
  std::optional<RealSet> Absolute(Side inner, char op, Side bound);
  std::optional<RealSet> Members(Side side, RealSet::Op op, int depth);
  std::optional<int> Point(Side side);
  int PointAt(const mpq_class& value);
  bool Unknown(const std::string& name);
  // All x with x op point.
  static RealSet Ray(char op, int point);

  Budget* const budget_;
  std::vector<std::unique_ptr<Expression>>* const copies_;
  std::vector<Breakpoint> breakpoints_;
  std::string unknown_;
  bool from_reference_ = false;
};

// Whether cell `cell` (even: the gap before breakpoint cell/2, odd: breakpoint cell/2) belongs to
// the set; `rank` maps breakpoints to their places in order.
bool Contains(const RealSet& set, const std::vector<int>& rank, int cell);

}  // namespace espalier::reward
