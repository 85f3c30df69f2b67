// Two sets of reals are equal when they agree on every cell that the breakpoints of both cut out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "libs/reward/comparer.h"
#include "libs/reward/real_set.h"

namespace espalier::reward {
namespace {

// Ends that are no numbers are compared as they are written: "(a, b)" and "[a, b)".
bool IsInterval(const Side& side) { return IsTupleLike(side) && side.size() == 2; }

// "x < -14, x > -3" are two rays; commas join them, unless nothing lies in both.
void CommasMeanOr(const Side& side, const std::vector<int>& rank, int cells, RealSet* set) {
  if (side.kind() != Kind::kList || side.top().name == "and" ||
      set->op != RealSet::Op::kIntersection)
    return;
  for (int cell = 0; cell < cells; ++cell) {
    if (Contains(*set, rank, cell)) return;
  }
  set->op = RealSet::Op::kUnion;
}

}  // namespace

Decision Comparer::CompareSets(Side r, Side a, int depth) {
  RealSetReader reader(budget_, &copies_);
  auto set_r = reader.Read(r, true);
  const std::string unknown_r = reader.unknown();
  reader.ForgetUnknown();
  auto set_a = set_r ? reader.Read(a, false) : std::nullopt;
  if (!set_r || !set_a) {
    if (!IsInterval(r) || !IsInterval(a)) return {};
    // Whether infinity belongs to an interval is a matter of style.
    for (const size_t end : {0, 1}) {
      if (InfinityOf(r.child(end)) != InfinityOf(a.child(end))) return Different("interval");
      const char mark_r = end == 0 ? r.top().open : r.top().close;
      const char mark_a = end == 0 ? a.top().open : a.top().close;
      if (InfinityOf(r.child(end)) == 0 && mark_r != mark_a) return Different("interval");
    }
    return CompareOrdered({{"", r.child(0)}, {"", r.child(1)}},
                          {{"", a.child(0)}, {"", a.child(1)}}, depth);
  }
  // Two inequalities name what they bound.
  if (!unknown_r.empty() && !reader.unknown().empty() && unknown_r != reader.unknown())
    return Different("other_name");
  // Breakpoints in order; those of the two sides that are equal share a place.
  const std::vector<Breakpoint>& points = reader.breakpoints();
  std::vector<int> order(points.size()), rank(points.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int x, int y) { return points[x].place < points[y].place; });
  Decision all{Match::kEqual, "interval"};
  int places = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0) {
      const Breakpoint &before = points[order[i - 1]], &here = points[order[i]];
      const bool swap = here.from_reference && !before.from_reference;
      // Rounding counts between the two sides only.
      const bool one_side = here.from_reference == before.from_reference;
      if (one_side && here.place - before.place > 1e-9 * (1 + std::abs(here.place))) {
        rank[order[i]] = places++;
        continue;
      }
      const Decision same = CompareSides(swap ? here.value : before.value,
                                         swap ? before.value : here.value, depth + 1);
      if (same.match == Match::kUnknown) return same;
      all.tested = all.tested || same.tested;
      if (same.match == Match::kProbable) all.match = Match::kProbable;
      if (IsYes(same)) --places;
    }
    rank[order[i]] = places++;
  }
  const int cells = 2 * places + 1;
  if (!budget_->Spend(cells * static_cast<int64_t>(points.size() + 1))) return {};
  CommasMeanOr(r, rank, cells, &*set_r);
  CommasMeanOr(a, rank, cells, &*set_a);
  for (int cell = 0; cell < cells; ++cell) {
    if (Contains(*set_r, rank, cell) != Contains(*set_a, rank, cell))
      return Different("interval", all.tested);
  }
  return all;
}

}  // namespace espalier::reward
