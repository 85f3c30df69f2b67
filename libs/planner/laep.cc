// SelectPruned: layer-adaptive expert pruning. The lightest experts go while two constraints hold.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "libs/observe/log.h"
#include "libs/planner/planner.h"

namespace espalier::planner {
namespace {

// Indexes of experts that may go, lightest first; of equals, the lower index first.
std::vector<size_t> Candidates(const std::vector<int>& experts, const std::vector<double>& loads,
                               const PruneOptions& options) {
  std::vector<size_t> order;
  for (size_t i = 0; i < experts.size(); ++i) {
    const auto& shielded = options.protected_experts;
    if (std::find(shielded.begin(), shielded.end(), experts[i]) == shielded.end()) {
      order.push_back(i);
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return loads[a] < loads[b]; });
  return order;
}

}  // namespace

std::vector<int> SelectPruned(const std::vector<int>& experts, const std::vector<double>& loads,
                              const PruneOptions& options) {
  CHECK_EQ(experts.size(), loads.size());
  CHECK_GE(options.keep_multiple_of, 1);
  const size_t count = experts.size();
  if (count == 0) return {};
  for (const double load : loads) CHECK(std::isfinite(load) && load >= 0) << load;

  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  const double mean = total / static_cast<double>(count);
  const std::vector<size_t> order = Candidates(experts, loads, options);
  // Both constraints only get harder along ascending loads, so the first failure ends the search:
  // that is min(k_alpha, k_beta).
  size_t chosen = 0;
  double sum = 0;
  for (const size_t i : order) {
    sum += loads[i];
    const bool individual = std::isinf(options.alpha) || loads[i] <= options.alpha * mean;
    if (!individual || !(sum < options.beta * total)) break;
    ++chosen;
  }

  const size_t multiple = static_cast<size_t>(options.keep_multiple_of);
  size_t kept = std::max(count - chosen, static_cast<size_t>(std::max(options.keep_min, 1)));
  kept = std::min(count, (kept + multiple - 1) / multiple * multiple);

  std::vector<int> pruned;
  for (size_t i = 0; i < count - kept; ++i) pruned.push_back(experts[order[i]]);
  std::sort(pruned.begin(), pruned.end());
  return pruned;
}

}  // namespace espalier::planner
