// Stability of a layer's loads: how much ranking and shares changed from one window to the next.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "libs/observe/log.h"
#include "libs/planner/planner.h"

namespace espalier::planner {
namespace {

// Ranks 1..n; equal values share the average of the ranks that they span.
std::vector<double> AverageRanks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = 0.5 * static_cast<double>(begin + 1 + end);
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = rank;
    begin = end;
  }
  return ranks;
}

// Pearson correlation; of constants, 1 when both are (nothing changed), else 0.
double Correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const double mean = 0.5 * static_cast<double>(x.size() + 1);  // of ranks, ties or not
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  if (xx == 0 && yy == 0) return 1;
  if (xx == 0 || yy == 0) return 0;
  return xy / std::sqrt(xx * yy);
}

}  // namespace

Stability MeasureStability(const std::vector<double>& previous,
                           const std::vector<double>& current) {
  // Different lengths: experts went or came, so the windows do not compare. No tokens: no evidence.
  if (previous.empty() || previous.size() != current.size()) return {};
  const double previous_total = std::accumulate(previous.begin(), previous.end(), 0.0);
  const double current_total = std::accumulate(current.begin(), current.end(), 0.0);
  if (!(previous_total > 0) || !(current_total > 0)) return {};
  Stability stability;
  stability.rank_correlation = Correlation(AverageRanks(previous), AverageRanks(current));
  double distance = 0;
  for (size_t i = 0; i < current.size(); ++i) {
    distance += std::abs(current[i] / current_total - previous[i] / previous_total);
  }
  stability.shift = 0.5 * distance;
  return stability;
}

bool StabilityTracker::Observe(int layer, const std::vector<double>& loads) {
  CHECK_GE(layer, 0);
  if (static_cast<size_t>(layer) >= entries_.size()) entries_.resize(layer + 1);
  Entry& entry = entries_[layer];
  entry.last = MeasureStability(entry.previous, loads);
  const bool holds = entry.last.rank_correlation >= options_.rank_correlation_min &&
                     entry.last.shift <= options_.shift_max;
  entry.held = holds ? std::min(entry.held + 1, std::max(options_.checks, 1)) : 0;
  entry.previous = loads;
  return IsStable(layer);
}

bool StabilityTracker::IsStable(int layer) const {
  if (layer < 0 || static_cast<size_t>(layer) >= entries_.size()) return false;
  return entries_[layer].held >= std::max(options_.checks, 1);
}

Stability StabilityTracker::Last(int layer) const {
  if (layer < 0 || static_cast<size_t>(layer) >= entries_.size()) return {};
  return entries_[layer].last;
}

void StabilityTracker::Reset(int layer) {
  if (layer >= 0 && static_cast<size_t>(layer) < entries_.size()) entries_[layer] = {};
}

}  // namespace espalier::planner
