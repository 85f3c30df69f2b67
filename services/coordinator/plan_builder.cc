// BuildPlan: the policy and the measured loads as a planner's request, and its plan as a message.
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

planner::PlanRequest ToRequest(const PlanInput& input) {
  planner::PlanRequest request;
  request.layers = input.layers;
  for (planner::LayerState& layer : request.layers) {
    const auto dropped = input.dropped.find(static_cast<uint32_t>(layer.layer));
    if (dropped == input.dropped.end()) continue;
    planner::LayerState kept;
    kept.layer = layer.layer;
    for (size_t i = 0; i < layer.experts.size(); ++i) {
      if (dropped->second.contains(static_cast<uint32_t>(layer.experts[i]))) continue;
      kept.experts.push_back(layer.experts[i]);
      kept.ranks.push_back(layer.ranks[i]);
      kept.loads.push_back(layer.loads[i]);
      if (!layer.previous_loads.empty()) kept.previous_loads.push_back(layer.previous_loads[i]);
      if (!layer.scores.empty()) kept.scores.push_back(layer.scores[i]);
    }
    layer = std::move(kept);
  }
  for (const uint32_t layer : input.prunable) request.prunable.insert(static_cast<int>(layer));
  request.prune = ToPruneOptions(input.prune, input.model);
  request.place = input.place;
  request.topology = {static_cast<int>(input.rank_count), input.nodes};
  request.extra_slots = static_cast<int>(input.placement.extra_slots());
  request.tolerance = input.placement.tolerance();
  request.trigger = input.needs_trigger ? input.placement.trigger() : 0;
  request.min_gain = input.placement.min_gain();
  request.moves_max_share =
      input.placement.has_moves_max_share() ? input.placement.moves_max_share() : 1;
  planner::CostModel& cost = request.cost;
  cost.step_seconds = input.step_seconds;
  cost.experts_seconds = std::min(input.experts_seconds, input.step_seconds);
  cost.expert_bytes = ExpertBytes(input.placement, input.model);
  if (input.measured_bytes_per_second > 0) {
    cost.bytes_per_second = input.measured_bytes_per_second;
  } else if (input.placement.bytes_per_second() > 0) {
    cost.bytes_per_second = input.placement.bytes_per_second();
  }
  if (input.placement.horizon_steps() > 0) cost.horizon_steps = input.placement.horizon_steps();
  if (input.steps_left > 0) {
    cost.horizon_steps = std::min(cost.horizon_steps, static_cast<double>(input.steps_left));
  }
  return request;
}

v1::LayerCertificate ToCertificate(const PlanInput& input, const planner::LayerPlan& layer) {
  v1::LayerCertificate certificate;
  certificate.set_layer(static_cast<uint32_t>(layer.layer));
  std::set<uint32_t> pruned(layer.pruned.begin(), layer.pruned.end());
  if (const auto dropped = input.dropped.find(certificate.layer()); dropped != input.dropped.end())
    pruned.insert(dropped->second.begin(), dropped->second.end());
  certificate.set_experts_before(static_cast<uint32_t>(layer.experts.size() + pruned.size()));
  certificate.set_experts_after(static_cast<uint32_t>(layer.experts.size()));
  for (const uint32_t expert : pruned) certificate.add_pruned(expert);
  certificate.set_pruned_load_share(layer.pruned_load_share);
  certificate.set_max_over_mean_before(layer.max_over_mean_before);
  certificate.set_max_over_mean_after(layer.max_over_mean_after);
  certificate.set_lower_bound_over_mean(layer.lower_bound_over_mean);
  certificate.set_node_max_over_mean_before(layer.node_max_over_mean_before);
  certificate.set_node_max_over_mean_after(layer.node_max_over_mean_after);
  certificate.set_moves(static_cast<uint32_t>(layer.moves));
  certificate.set_rank_correlation(layer.stability.rank_correlation);
  certificate.set_shift(layer.stability.shift);
  certificate.set_stable(layer.stability.rank_correlation >=
                             input.prune.stable_rank_correlation() &&
                         layer.stability.shift <= input.prune.stable_shift());
  for (const planner::ReplicaAdvice& advice : layer.replicas) {
    v1::ReplicaAdvice* out = certificate.add_replicas();
    out->set_expert(static_cast<uint32_t>(advice.expert));
    out->set_load_over_rank_mean(advice.load_over_rank_mean);
    out->set_copies(static_cast<uint32_t>(advice.copies));
    out->set_max_over_mean_with_copies(advice.max_over_mean_with_copies);
  }
  return certificate;
}

void AddLayout(const PlanInput& input, const planner::LayerPlan& layer, v1::ExpertLayout* out) {
  v1::LayerLayout* layout = out->add_layers();
  layout->set_layer(static_cast<uint32_t>(layer.layer));
  for (const int expert : layer.experts) layout->add_experts(static_cast<uint32_t>(expert));
  for (const int rank : layer.ranks) layout->add_ranks(static_cast<uint32_t>(rank));
  const auto masked = input.masked.find(static_cast<uint32_t>(layer.layer));
  if (masked == input.masked.end()) return;
  for (const uint32_t expert : masked->second) {
    if (std::binary_search(layer.experts.begin(), layer.experts.end(), static_cast<int>(expert))) {
      layout->add_masked(expert);
    }
  }
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

double ExpertBytes(const v1::PlacementPolicy& policy, const v1::ModelSpec& model) {
  if (policy.expert_bytes() > 0) return policy.expert_bytes();
  return 3.0 * model.width() * model.expert_width() * kBytesPerParameter;
}

namespace {

v1::Plan StartPlan(const PlanInput& input) {
  v1::Plan plan;
  plan.set_first_step(input.first_step);
  plan.set_last_step(input.last_step);
  plan.set_score(input.prune.score());
  if (!input.layers.empty()) return plan;
  plan.set_empty(true);
  plan.set_reason("no loads are recorded yet; let the run take some steps first");
  return plan;
}

v1::Plan ToPlan(const PlanInput& input, const planner::PlanRequest& request,
                const planner::JointPlan& joint) {
  v1::Plan plan = StartPlan(input);
  uint64_t dropped = 0;
  for (const planner::LayerPlan& layer : joint.layers) {
    const v1::LayerCertificate& certificate = *plan.add_layers() = ToCertificate(input, layer);
    dropped += static_cast<uint64_t>(certificate.pruned_size());
    AddLayout(input, layer, plan.mutable_layout());
  }
  plan.set_imbalance_before(joint.imbalance_before);
  plan.set_imbalance_after(joint.imbalance_after);
  plan.set_gap_to_lower_bound(joint.gap_to_lower_bound);
  plan.set_experts_moved(static_cast<uint64_t>(joint.experts_moved));
  plan.set_experts_pruned(dropped);
  plan.set_soft(dropped > 0 && input.dropped.empty() && input.prune.soft_steps() > 0);
  plan.set_bytes_moved(static_cast<uint64_t>(joint.bytes_moved));
  plan.set_bytes_per_second(request.cost.bytes_per_second);
  plan.set_bandwidth_measured(input.measured_bytes_per_second > 0);
  plan.set_move_seconds(joint.move_seconds);
  plan.set_horizon_steps(static_cast<uint64_t>(request.cost.horizon_steps));
  if (joint.payback_steps.has_value()) plan.set_payback_steps(*joint.payback_steps);
  plan.set_step_seconds_before(input.step_seconds);
  plan.set_step_seconds_predicted(joint.step_seconds_predicted);
  // What was masked before goes, whether anything moves or not.
  plan.set_empty(joint.empty && dropped == 0);
  plan.set_reason(joint.reason);
  return plan;
}

}  // namespace

v1::Plan BuildPlan(const PlanInput& input) {
  if (input.layers.empty()) return StartPlan(input);
  const planner::PlanRequest request = ToRequest(input);
  return ToPlan(input, request, planner::MakePlan(request));
}

v1::Plan CertifyLayout(const PlanInput& input, const std::map<int, planner::LayerTarget>& targets) {
  if (input.layers.empty()) return StartPlan(input);
  const planner::PlanRequest request = ToRequest(input);
  return ToPlan(input, request, planner::CertifyPlan(request, targets));
}

}  // namespace espalier::coordinator
