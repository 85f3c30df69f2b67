// BuildPlan: prune, place, and the certificate of both, layer by layer.
#include "services/coordinator/plan_builder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace espalier::coordinator {
namespace {

// Weights and both moments of AdamW in fp32, three matrices an expert.
constexpr uint64_t kBytesPerParameter = 3 * sizeof(float);

planner::PruneOptions ToPruneOptions(const v1::PrunePolicy& policy, const v1::ModelSpec& model) {
  planner::PruneOptions options;
  options.alpha = policy.alpha() > 0 ? policy.alpha() : std::numeric_limits<double>::infinity();
  options.beta = policy.beta();
  options.keep_multiple_of = static_cast<int>(std::max(1u, policy.keep_multiple_of()));
  options.keep_min = KeepMin(policy, model);
  for (const uint32_t expert : policy.protected_experts()) {
    options.protected_experts.push_back(static_cast<int>(expert));
  }
  return options;
}

struct LayerPlan {
  std::vector<int> experts, ranks, pruned;
  v1::LayerCertificate certificate;
};

LayerPlan PlanLayer(const PlanInput& input, const planner::LayerState& layer,
                    const planner::PruneOptions& prune, bool place) {
  const int rank_count = static_cast<int>(input.rank_count);
  LayerPlan plan;
  v1::LayerCertificate& certificate = plan.certificate;
  certificate.set_layer(static_cast<uint32_t>(layer.layer));
  certificate.set_experts_before(static_cast<uint32_t>(layer.experts.size()));
  const double before = planner::MaxOverMean(layer.loads, layer.ranks, rank_count);
  certificate.set_max_over_mean_before(before);
  if (layer.previous_loads.size() == layer.loads.size()) {
    const planner::Stability stability =
        planner::MeasureStability(layer.previous_loads, layer.loads);
    certificate.set_rank_correlation(stability.rank_correlation);
    certificate.set_shift(stability.shift);
    certificate.set_stable(stability.rank_correlation >= input.prune.stable_rank_correlation() &&
                           stability.shift <= input.prune.stable_shift());
  }

  const bool may_prune = input.prunable.contains(static_cast<uint32_t>(layer.layer));
  if (may_prune) plan.pruned = planner::SelectPruned(layer.experts, layer.loads, prune);
  const double total = std::accumulate(layer.loads.begin(), layer.loads.end(), 0.0);
  double gone = 0;
  std::vector<double> loads;
  std::vector<int> current;
  for (size_t i = 0; i < layer.experts.size(); ++i) {
    if (std::binary_search(plan.pruned.begin(), plan.pruned.end(), layer.experts[i])) {
      certificate.add_pruned(static_cast<uint32_t>(layer.experts[i]));
      gone += layer.loads[i];
      continue;
    }
    plan.experts.push_back(layer.experts[i]);
    loads.push_back(layer.loads[i]);
    current.push_back(layer.ranks[i]);
  }
  certificate.set_pruned_load_share(total > 0 ? gone / total : 0);
  certificate.set_experts_after(static_cast<uint32_t>(plan.experts.size()));

  const double kept = planner::MaxOverMean(loads, current, rank_count);
  planner::PlacementOptions options;
  options.rank_count = rank_count;
  options.extra_slots = static_cast<int>(input.placement.extra_slots());
  const planner::Placement placement = planner::PlaceExperts(loads, current, options);
  certificate.set_lower_bound_over_mean(placement.lower_bound_over_mean);
  // A layer whose heaviest rank would hardly get lighter is not worth its moves.
  const bool worth =
      place && placement.moves > 0 && kept > 0 &&
      (kept - placement.max_over_mean) / kept >= std::max(input.placement.min_gain(), 1e-9);
  plan.ranks = worth ? placement.ranks : current;
  certificate.set_max_over_mean_after(worth ? placement.max_over_mean : kept);
  certificate.set_moves(worth ? static_cast<uint32_t>(placement.moves) : 0);
  return plan;
}

}  // namespace

planner::StabilityOptions ToStabilityOptions(const v1::PrunePolicy& policy) {
  planner::StabilityOptions options;
  options.rank_correlation_min = policy.stable_rank_correlation();
  options.shift_max = policy.stable_shift();
  options.checks = static_cast<int>(std::max(1u, policy.stable_checks()));
  return options;
}

int KeepMin(const v1::PrunePolicy& policy, const v1::ModelSpec& model) {
  const int share =
      static_cast<int>(std::ceil(policy.keep_min_fraction() * model.experts() - 1e-9));
  return std::max({1, static_cast<int>(model.top_k()), static_cast<int>(policy.keep_min()), share});
}

v1::Plan BuildPlan(const PlanInput& input) {
  v1::Plan plan;
  plan.set_first_step(input.first_step);
  plan.set_last_step(input.last_step);
  if (input.layers.empty()) {
    plan.set_empty(true);
    plan.set_reason("no loads are recorded yet; let the run take some steps first");
    return plan;
  }

  double before = 0;
  for (const planner::LayerState& layer : input.layers) {
    before += planner::MaxOverMean(layer.loads, layer.ranks, static_cast<int>(input.rank_count));
  }
  before /= static_cast<double>(input.layers.size());
  const bool triggered = !input.needs_trigger || before > input.placement.trigger();
  const planner::PruneOptions prune = ToPruneOptions(input.prune, input.model);

  double after = 0;
  for (const planner::LayerState& layer : input.layers) {
    const LayerPlan part = PlanLayer(input, layer, prune, input.place && triggered);
    after += part.certificate.max_over_mean_after();
    plan.set_experts_moved(plan.experts_moved() + part.certificate.moves());
    plan.set_experts_pruned(plan.experts_pruned() + part.pruned.size());
    *plan.add_layers() = part.certificate;
    v1::LayerLayout* layout = plan.mutable_layout()->add_layers();
    layout->set_layer(static_cast<uint32_t>(layer.layer));
    for (const int expert : part.experts) layout->add_experts(static_cast<uint32_t>(expert));
    for (const int rank : part.ranks) layout->add_ranks(static_cast<uint32_t>(rank));
    const auto masked = input.masked.find(static_cast<uint32_t>(layer.layer));
    if (masked == input.masked.end()) continue;
    for (const uint32_t expert : masked->second) {
      if (std::binary_search(part.experts.begin(), part.experts.end(), static_cast<int>(expert))) {
        layout->add_masked(expert);
      }
    }
  }
  after /= static_cast<double>(input.layers.size());
  plan.set_imbalance_before(before);
  plan.set_imbalance_after(after);
  plan.set_bytes_moved(plan.experts_moved() * 3 * input.model.width() * input.model.expert_width() *
                       kBytesPerParameter);
  plan.set_step_seconds_before(input.step_seconds);
  // Ranks meet after the experts, so the step waits for the heaviest rank: that part scales with
  // max over mean.
  const double waited = std::min(input.experts_seconds, input.step_seconds);
  plan.set_step_seconds_predicted(before > 0 ? input.step_seconds - waited * (1 - after / before)
                                             : input.step_seconds);
  if (plan.experts_pruned() == 0 && plan.experts_moved() == 0) {
    plan.set_empty(true);
    plan.set_reason(!triggered
                        ? absl::StrCat("max/mean rank load is ", before,
                                       ", not above placement.trigger ", input.placement.trigger())
                        : absl::StrCat("no change lowers the heaviest rank (max/mean ", before,
                                       ") by placement.min_gain ", input.placement.min_gain(),
                                       " and no expert falls under the prune policy"));
  }
  return plan;
}

}  // namespace espalier::coordinator
