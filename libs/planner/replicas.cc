// Copies are tried by placing their parts.
#include "libs/planner/replicas.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "libs/planner/planner.h"

namespace espalier::planner {
namespace {

// Another copy must lower the heaviest rank by this share.
constexpr double kWorthCopying = 0.01;

double WithCopies(const std::vector<double>& loads, const std::vector<int>& copies,
                  int rank_count) {
  std::vector<double> parts;
  for (size_t i = 0; i < loads.size(); ++i) {
    for (int copy = 0; copy < copies[i]; ++copy) parts.push_back(loads[i] / copies[i]);
  }
  PlacementOptions options;
  options.rank_count = rank_count;
  return PlaceExperts(parts, {}, options).max_over_mean;
}

}  // namespace

std::vector<ReplicaAdvice> AdviseReplicas(const std::vector<int>& experts,
                                          const std::vector<double>& loads, int rank_count) {
  std::vector<ReplicaAdvice> advice;
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / rank_count;
  if (rank_count < 2 || !(mean > 0)) return advice;
  std::vector<int> copies(loads.size(), 1);
  std::vector<size_t> heavy;
  for (size_t i = 0; i < loads.size(); ++i) {
    if (loads[i] <= mean * (1 + 1e-9)) continue;
    heavy.push_back(i);
    copies[i] = std::clamp(static_cast<int>(std::ceil(loads[i] / mean - 1e-9)), 2, rank_count);
  }
  if (heavy.empty()) return advice;
  double peak = WithCopies(loads, copies, rank_count);
  while (true) {
    std::vector<int> more = copies;
    for (const size_t i : heavy) more[i] = std::min(copies[i] + 1, rank_count);
    if (more == copies) break;
    const double lower = WithCopies(loads, more, rank_count);
    if (lower > peak * (1 - kWorthCopying)) break;
    copies = std::move(more);
    peak = lower;
  }
  for (const size_t i : heavy) advice.push_back({experts[i], loads[i] / mean, copies[i], peak});
  return advice;
}

}  // namespace espalier::planner
