// Checks are by layer; the first fault ends them.
#include "services/coordinator/policy_answer.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::coordinator {
namespace {

absl::Status Fault(uint32_t layer, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat("layer ", layer, ": ", text));
}

// Ranks by expert kept, in ascending order of experts.
absl::StatusOr<std::map<int, int>> ReadLayer(const PlanInput& input,
                                             const planner::LayerState& state,
                                             const v1::LayerLayout& wanted) {
  const uint32_t layer = wanted.layer();
  if (wanted.experts_size() != wanted.ranks_size()) {
    return Fault(layer, absl::StrCat(wanted.experts_size(), " experts but ", wanted.ranks_size(),
                                     " ranks; give one rank for each expert"));
  }
  if (wanted.masked_size() > 0)
    return Fault(layer, "`masked` is given; leave it empty, the run's prune.soft_steps decides it");
  std::map<int, int> ranks;
  for (int i = 0; i < wanted.experts_size(); ++i) {
    const auto expert = static_cast<int>(wanted.experts(i));
    if (!std::binary_search(state.experts.begin(), state.experts.end(), expert)) {
      return Fault(layer, absl::StrCat("expert ", wanted.experts(i), " is not alive in it"));
    }
    if (wanted.ranks(i) >= input.rank_count) {
      return Fault(layer, absl::StrCat("expert ", expert, " is put on rank ", wanted.ranks(i),
                                       "; there are ", input.rank_count, " ranks"));
    }
    if (!ranks.emplace(expert, static_cast<int>(wanted.ranks(i))).second)
      return Fault(layer, absl::StrCat("expert ", expert, " is named twice"));
  }
  return ranks;
}

absl::Status CheckPruned(const PlanInput& input, const planner::LayerState& state,
                         const std::map<int, int>& kept) {
  const auto layer = static_cast<uint32_t>(state.layer);
  if (kept.size() == state.experts.size()) return absl::OkStatus();
  if (!input.prunable.contains(layer)) {
    return Fault(layer, absl::StrCat("it would lose ", state.experts.size() - kept.size(),
                                     " experts, but may not be pruned now"));
  }
  const auto keep_min = static_cast<size_t>(KeepMin(input.prune, input.model));
  if (kept.size() < keep_min)
    return Fault(layer, absl::StrCat("it would keep ", kept.size(), " experts; at least ", keep_min,
                                     " must stay (top_k, prune.keep_min, keep_min_fraction)"));
  const uint32_t multiple = std::max(1u, input.prune.keep_multiple_of());
  if (kept.size() % multiple != 0)
    return Fault(layer, absl::StrCat("it would keep ", kept.size(),
                                     " experts; prune.keep_multiple_of is ", multiple));
  for (const uint32_t expert : input.prune.protected_experts()) {
    const auto id = static_cast<int>(expert);
    if (std::binary_search(state.experts.begin(), state.experts.end(), id) && !kept.contains(id))
      return Fault(layer,
                   absl::StrCat("expert ", expert, " would go; prune.protected_experts keeps it"));
  }
  const auto masked = input.masked.find(layer);
  if (masked != input.masked.end() && !masked->second.empty())
    return Fault(layer, "experts of it are masked and wait for their end; prune when that is over");
  return absl::OkStatus();
}

absl::Status CheckPlaced(const PlanInput& input, const planner::LayerState& state,
                         const std::map<int, int>& kept) {
  const auto layer = static_cast<uint32_t>(state.layer);
  std::vector<size_t> held(input.rank_count, 0), before(input.rank_count, 0);
  size_t moves = 0;
  for (size_t i = 0; i < state.experts.size(); ++i) {
    ++before[static_cast<size_t>(state.ranks[i])];
    const auto it = kept.find(state.experts[i]);
    if (it == kept.end()) continue;
    ++held[static_cast<size_t>(it->second)];
    moves += it->second != state.ranks[i] ? 1 : 0;
  }
  const size_t even = (kept.size() + input.rank_count - 1) / input.rank_count;
  const size_t most = even + input.placement.extra_slots();
  for (size_t rank = 0; rank < held.size(); ++rank) {
    // A rank that held more already may keep what it has.
    if (held[rank] <= most || held[rank] <= before[rank]) continue;
    return Fault(
        layer,
        absl::StrCat("rank ", rank, " would hold ", held[rank], " experts; an even share is ", even,
                     " and placement.extra_slots is ", input.placement.extra_slots()));
  }
  const double share =
      input.placement.has_moves_max_share() ? input.placement.moves_max_share() : 1;
  const auto moves_max =
      static_cast<size_t>(std::floor(share * static_cast<double>(kept.size()) + 1e-9));
  if (moves > moves_max)
    return Fault(
        layer, absl::StrCat("it would move ", moves, " experts; placement.moves_max_share ", share,
                            " allows ", moves_max));
  if (moves > 0 && !input.place)
    return Fault(layer,
                 absl::StrCat("it would move ", moves, " experts, but placement.enabled is false"));
  return absl::OkStatus();
}

}  // namespace

v1::DecidePlanRequest ToQuestion(const PlanInput& input) {
  v1::DecidePlanRequest question;
  *question.mutable_model() = input.model;
  *question.mutable_prune() = input.prune;
  *question.mutable_placement() = input.placement;
  question.set_rank_count(input.rank_count);
  for (const int node : input.nodes) question.add_nodes(static_cast<uint32_t>(node));
  question.set_first_step(input.first_step);
  question.set_last_step(input.last_step);
  question.set_steps_left(input.steps_left);
  question.set_step_seconds(input.step_seconds);
  question.set_experts_seconds(input.experts_seconds);
  question.set_bytes_per_second(input.measured_bytes_per_second > 0
                                    ? input.measured_bytes_per_second
                                    : input.placement.bytes_per_second());
  question.set_expert_bytes(ExpertBytes(input.placement, input.model));
  for (const planner::LayerState& state : input.layers) {
    v1::PolicyLayer* layer = question.add_layers();
    layer->set_layer(static_cast<uint32_t>(state.layer));
    for (const int expert : state.experts) layer->add_experts(static_cast<uint32_t>(expert));
    for (const int rank : state.ranks) layer->add_ranks(static_cast<uint32_t>(rank));
    layer->mutable_loads()->Add(state.loads.begin(), state.loads.end());
    layer->mutable_previous_loads()->Add(state.previous_loads.begin(), state.previous_loads.end());
    layer->mutable_output_norms()->Add(state.scores.begin(), state.scores.end());
    if (const auto masked = input.masked.find(layer->layer()); masked != input.masked.end())
      layer->mutable_masked()->Add(masked->second.begin(), masked->second.end());
    layer->set_prunable(input.prunable.contains(layer->layer()));
    layer->set_keep_min(static_cast<uint32_t>(KeepMin(input.prune, input.model)));
  }
  return question;
}

absl::StatusOr<v1::Plan> PlanOfAnswer(const PlanInput& input,
                                      const v1::DecidePlanResponse& answer) {
  if (answer.no_change() && answer.layers_size() > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no_change is set together with ", answer.layers_size(), " layers"));
  }
  std::map<int, planner::LayerTarget> targets;
  for (const v1::LayerLayout& wanted : answer.layers()) {
    const auto state =
        std::find_if(input.layers.begin(), input.layers.end(), [&](const planner::LayerState& one) {
          return one.layer == static_cast<int>(wanted.layer());
        });
    if (state == input.layers.end()) return Fault(wanted.layer(), "the run has no such MoE layer");
    ASSIGN_OR_RETURN(const auto kept, ReadLayer(input, *state, wanted));
    RETURN_IF_ERROR(CheckPruned(input, *state, kept));
    RETURN_IF_ERROR(CheckPlaced(input, *state, kept));
    planner::LayerTarget target;
    for (const auto& [expert, rank] : kept) {
      target.experts.push_back(expert);
      target.ranks.push_back(rank);
    }
    if (!targets.emplace(state->layer, std::move(target)).second)
      return Fault(wanted.layer(), "named twice");
  }
  v1::Plan plan = CertifyLayout(input, targets);
  if (plan.empty() && !answer.reason().empty()) plan.set_reason(answer.reason());
  return plan;
}

}  // namespace espalier::coordinator
