// MakePlan: pruning and placement of each layer in one pass, the cost of its moves against what
// they save, and the figures that certify it.
#include "libs/planner/joint.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <numeric>

#include "libs/observe/log.h"
#include "libs/planner/replicas.h"

namespace espalier::planner {
namespace {

// A layer's plan while it is made: what is kept, where it is, and where it would go.
struct Draft {
  LayerPlan plan;
  std::vector<double> loads;  // kept
  std::vector<int> current;   // their ranks; empty for a fresh model
  Placement best;
  double kept_max_over_mean = 1;  // after the prune, before any move
  bool moves_wanted = false;
};

PlacementOptions ToPlacement(const PlanRequest& request, size_t experts) {
  PlacementOptions options;
  options.rank_count = request.topology.rank_count;
  options.extra_slots = request.extra_slots;
  options.tolerance = request.tolerance;
  options.node_of_rank = request.topology.node_of_rank;
  if (request.moves_max_share < 1) {
    options.moves_max =
        static_cast<int>(std::floor(request.moves_max_share * static_cast<double>(experts) + 1e-9));
  }
  return options;
}

// The layer with what `pruned` names taken away; where the rest would go best is not known yet.
Draft StartDraft(const LayerState& state, const PlanRequest& request, std::vector<int> pruned) {
  const int rank_count = request.topology.rank_count;
  CHECK_EQ(state.experts.size(), state.loads.size());
  const bool placed = !state.ranks.empty();
  if (placed) CHECK_EQ(state.ranks.size(), state.loads.size());
  Draft draft;
  LayerPlan& plan = draft.plan;
  plan.layer = state.layer;
  plan.stability = MeasureStability(state.previous_loads, state.loads);
  plan.pruned = std::move(pruned);
  if (placed) {
    plan.max_over_mean_before = MaxOverMean(state.loads, state.ranks, rank_count);
    plan.node_max_over_mean_before =
        NodeMaxOverMean(state.loads, state.ranks, request.topology.node_of_rank);
  }
  double gone = 0;
  for (size_t i = 0; i < state.experts.size(); ++i) {
    if (std::binary_search(plan.pruned.begin(), plan.pruned.end(), state.experts[i])) {
      gone += state.loads[i];
      continue;
    }
    plan.experts.push_back(state.experts[i]);
    draft.loads.push_back(state.loads[i]);
    if (placed) draft.current.push_back(state.ranks[i]);
  }
  const double total = std::accumulate(state.loads.begin(), state.loads.end(), 0.0);
  plan.pruned_load_share = total > 0 ? gone / total : 0;
  plan.replicas = AdviseReplicas(plan.experts, draft.loads, rank_count);
  if (placed) draft.kept_max_over_mean = MaxOverMean(draft.loads, draft.current, rank_count);
  return draft;
}

Draft PlanLayer(const LayerState& state, const PlanRequest& request, bool place) {
  if (!state.scores.empty()) CHECK_EQ(state.scores.size(), state.loads.size());
  std::vector<int> pruned;
  if (request.prunable.contains(state.layer)) {
    pruned = SelectPruned(state.experts, state.scores.empty() ? state.loads : state.scores,
                          request.prune);
  }
  Draft draft = StartDraft(state, request, std::move(pruned));
  draft.best = PlaceExperts(draft.loads, draft.current, ToPlacement(request, draft.loads.size()));
  draft.plan.lower_bound_over_mean = draft.best.lower_bound_over_mean;
  if (state.ranks.empty()) {
    // A fresh model must be put somewhere.
    draft.kept_max_over_mean = draft.plan.max_over_mean_before;
    draft.moves_wanted = true;
    return draft;
  }
  const double kept = draft.kept_max_over_mean;
  draft.moves_wanted = place && draft.best.moves > 0 && kept > 0 &&
                       (kept - draft.best.max_over_mean) / kept >= std::max(request.min_gain, 1e-9);
  return draft;
}

Draft TakeTarget(const LayerState& state, const PlanRequest& request, const LayerTarget* target) {
  CHECK_EQ(state.ranks.size(), state.experts.size());
  std::vector<int> pruned;
  if (target != nullptr) {
    std::set_difference(state.experts.begin(), state.experts.end(), target->experts.begin(),
                        target->experts.end(), std::back_inserter(pruned));
  }
  Draft draft = StartDraft(state, request, std::move(pruned));
  draft.plan.lower_bound_over_mean =
      PlaceExperts(draft.loads, draft.current, ToPlacement(request, draft.loads.size()))
          .lower_bound_over_mean;
  if (target == nullptr) return draft;
  CHECK(draft.plan.experts == target->experts) << "a target is a subset of its layer";
  draft.best.ranks = target->ranks;
  draft.best.max_over_mean =
      MaxOverMean(draft.loads, target->ranks, request.topology.rank_count);
  for (size_t i = 0; i < target->ranks.size(); ++i)
    draft.best.moves += draft.current[i] != target->ranks[i] ? 1 : 0;
  draft.moves_wanted = draft.best.moves > 0;
  return draft;
}

// Experts that each rank sends or receives, whichever is more, by rank.
void CountTraffic(const Draft& draft, std::vector<int>* sent, std::vector<int>* received) {
  for (size_t i = 0; i < draft.current.size(); ++i) {
    const int from = draft.current[i], to = draft.best.ranks[i];
    if (from == to) continue;
    if (from >= 0 && from < static_cast<int>(sent->size())) ++(*sent)[from];
    ++(*received)[to];
  }
}

// Seconds of the busiest rank's transfers.
double MoveSeconds(const std::vector<const Draft*>& drafts, const PlanRequest& request) {
  const auto ranks = static_cast<size_t>(request.topology.rank_count);
  std::vector<int> sent(ranks, 0), received(ranks, 0);
  for (const Draft* draft : drafts) CountTraffic(*draft, &sent, &received);
  int busiest = 0;
  for (size_t rank = 0; rank < ranks; ++rank)
    busiest = std::max({busiest, sent[rank], received[rank]});
  return busiest * request.cost.expert_bytes / request.cost.bytes_per_second;
}

// Seconds that a step gets shorter by when the layer's heaviest rank gets lighter: the layers share
// the experts' time evenly.
double SecondsSaved(const Draft& draft, const PlanRequest& request) {
  const double share = request.cost.experts_seconds / static_cast<double>(request.layers.size());
  return share * (1 - draft.best.max_over_mean / draft.kept_max_over_mean);
}

void Settle(const PlanRequest& request, Draft* draft) {
  LayerPlan& plan = draft->plan;
  const bool moved = draft->moves_wanted;
  plan.ranks = moved ? draft->best.ranks : draft->current;
  plan.moves = moved && !draft->current.empty() ? draft->best.moves : 0;
  plan.max_over_mean_after = moved ? draft->best.max_over_mean : draft->kept_max_over_mean;
  plan.node_max_over_mean_after =
      NodeMaxOverMean(draft->loads, plan.ranks, request.topology.node_of_rank);
}

std::string Format(const char* format, auto... values) {
  char text[400];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

double ImbalanceOf(const PlanRequest& request) {
  double sum = 0;
  for (const LayerState& state : request.layers) {
    sum += state.ranks.empty()
               ? 1
               : MaxOverMean(state.loads, state.ranks, request.topology.rank_count);
  }
  return sum / static_cast<double>(request.layers.size());
}

// Whether steps were measured, so that what moves save is known.
bool Timed(const CostModel& cost) { return cost.step_seconds > 0 && cost.experts_seconds > 0; }

// Settles the drafts and adds them up. `plan` has its imbalance_before.
void AddUp(const PlanRequest& request, std::vector<Draft>* drafts, JointPlan* plan) {
  const CostModel& cost = request.cost;
  const auto layer_count = static_cast<double>(request.layers.size());
  std::vector<const Draft*> moving;
  double saved = 0, after = 0, gap = 0;
  for (Draft& draft : *drafts) {
    Settle(request, &draft);
    const LayerPlan& layer = draft.plan;
    plan->experts_pruned += static_cast<int>(layer.pruned.size());
    plan->experts_moved += layer.moves;
    after += layer.max_over_mean_after;
    if (layer.lower_bound_over_mean > 0)
      gap += layer.max_over_mean_after / layer.lower_bound_over_mean - 1;
    if (layer.moves > 0) {
      moving.push_back(&draft);
      saved += SecondsSaved(draft, request);
    }
  }
  plan->imbalance_after = after / layer_count;
  plan->gap_to_lower_bound = gap / layer_count;
  plan->bytes_moved = plan->experts_moved * cost.expert_bytes;
  plan->move_seconds = MoveSeconds(moving, request);
  if (Timed(cost) && saved > 0) plan->payback_steps = plan->move_seconds / saved;
  // Ranks meet after the experts, so the step waits for the heaviest one: that part scales with max
  // over mean.
  plan->step_seconds_predicted =
      plan->imbalance_before > 0
          ? cost.step_seconds -
                cost.experts_seconds * (1 - plan->imbalance_after / plan->imbalance_before)
          : cost.step_seconds;
}

}  // namespace

JointPlan CertifyPlan(const PlanRequest& request, const std::map<int, LayerTarget>& targets) {
  CHECK_GT(request.cost.bytes_per_second, 0);
  JointPlan plan;
  if (request.layers.empty()) {
    plan.empty = true;
    plan.reason = "there are no layers to plan for";
    return plan;
  }
  plan.imbalance_before = ImbalanceOf(request);
  std::vector<Draft> drafts;
  for (const LayerState& state : request.layers) {
    const auto target = targets.find(state.layer);
    drafts.push_back(
        TakeTarget(state, request, target == targets.end() ? nullptr : &target->second));
  }
  AddUp(request, &drafts, &plan);
  plan.empty = plan.experts_pruned == 0 && plan.experts_moved == 0;
  if (plan.empty) plan.reason = "the layout asked for is the one in effect";
  for (Draft& draft : drafts) plan.layers.push_back(std::move(draft.plan));
  return plan;
}

JointPlan MakePlan(const PlanRequest& request) {
  const CostModel& cost = request.cost;
  CHECK_GT(cost.bytes_per_second, 0);
  JointPlan plan;
  if (request.layers.empty()) {
    plan.empty = true;
    plan.reason = "there are no layers to plan for";
    return plan;
  }
  plan.imbalance_before = ImbalanceOf(request);
  const bool triggered = plan.imbalance_before > request.trigger;

  std::vector<Draft> drafts;
  for (const LayerState& state : request.layers)
    drafts.push_back(PlanLayer(state, request, request.place && triggered));

  // Layers whose own moves would not have paid in time stay as they are. The busiest rank of
  // several layers together is never busier than those of each added up, so what is left pays as a
  // whole.
  const bool timed = Timed(cost);
  int unpaid_moves = 0;
  double unpaid_seconds = 0, unpaid_saving = 0;
  for (Draft& draft : drafts) {
    if (!timed || !draft.moves_wanted || draft.current.empty()) continue;
    const double seconds = MoveSeconds({&draft}, request);
    const double saved = SecondsSaved(draft, request);
    if (saved * cost.horizon_steps >= seconds) continue;
    draft.moves_wanted = false;
    unpaid_moves += draft.best.moves;
    unpaid_seconds += seconds;
    unpaid_saving += saved;
  }

  AddUp(request, &drafts, &plan);
  const bool fresh = std::any_of(request.layers.begin(), request.layers.end(),
                                 [](const LayerState& state) { return state.ranks.empty(); });
  plan.empty = plan.experts_pruned == 0 && plan.experts_moved == 0 && !fresh;
  if (unpaid_moves > 0) {
    plan.reason = Format(
        "moving %d experts %swould take %.3g s and save %.3g s a step, %.3g s in the %.0f steps of "
        "the horizon: that does not pay",
        unpaid_moves, plan.empty ? "" : "more ", unpaid_seconds, unpaid_saving,
        unpaid_saving * cost.horizon_steps, cost.horizon_steps);
  } else if (plan.empty && !triggered) {
    plan.reason = Format("max/mean rank load is %.4g, not above placement.trigger %.4g",
                         plan.imbalance_before, request.trigger);
  } else if (plan.empty) {
    plan.reason = Format(
        "no change lowers the heaviest rank (max/mean %.4g) by placement.min_gain %.4g and no "
        "expert falls under the prune policy",
        plan.imbalance_before, request.min_gain);
  }
  for (Draft& draft : drafts) plan.layers.push_back(std::move(draft.plan));
  return plan;
}

}  // namespace espalier::planner
