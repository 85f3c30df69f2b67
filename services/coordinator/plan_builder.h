// From measured loads and a policy to one v1::Plan: the same code for the policy, for dry runs and
// for requests. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "espalier/v1/plan_service.pb.h"
#include "espalier/v1/run_spec.pb.h"
#include "libs/planner/joint.h"
#include "libs/planner/planner.h"

namespace espalier::coordinator {

struct PlanInput {
  v1::ModelSpec model;
  v1::PrunePolicy prune;          // defaults filled in
  v1::PlacementPolicy placement;  // likewise
  uint32_t rank_count = 1;
  std::vector<int> nodes;  // by rank; empty: all on one
  // Layers that may be pruned; empty leaves pruning out.
  std::set<uint32_t> prunable;
  // Experts that go whatever their load: they were masked before.
  std::map<uint32_t, std::set<uint32_t>> dropped;
  bool place = true;
  // Leave the placement alone while the measured imbalance is at most placement.trigger and nothing
  // is pruned.
  bool needs_trigger = false;
  std::vector<planner::LayerState>
      layers;  // loads of the newest window; previous_loads may be empty
  std::map<uint32_t, std::vector<uint32_t>> masked;
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  double step_seconds = 0;  // measured; 0 when unknown
  double experts_seconds =
      0;  // part of it in which ranks wait for the heaviest one; 0 when unknown
  double measured_bytes_per_second = 0;  // 0: placement.bytes_per_second stands in
  uint64_t steps_left = 0;  // in which moves can pay; 0: as placement.horizon_steps says
};

// Never keeps fewer than top_k experts. `empty` and `reason` say when there is nothing worth doing.
v1::Plan BuildPlan(const PlanInput& input);

// A plan that somebody else made, with the same certificate: `targets` as in planner::CertifyPlan.
v1::Plan CertifyLayout(const PlanInput& input,
                       const std::map<int, planner::LayerTarget>& targets);

planner::StabilityOptions ToStabilityOptions(const v1::PrunePolicy& policy);
// Weights and optimizer state that move with one expert.
double ExpertBytes(const v1::PlacementPolicy& policy, const v1::ModelSpec& model);
// Fewest experts that the policy lets a layer keep: top_k at least.
int KeepMin(const v1::PrunePolicy& policy, const v1::ModelSpec& model);

}  // namespace espalier::coordinator
