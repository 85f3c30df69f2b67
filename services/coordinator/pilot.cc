// Pilot: tumbling windows of loads, the stability of each layer, and the triggers of the two
// policies.
#include "services/coordinator/pilot.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "services/coordinator/plan_builder.h"

namespace espalier::coordinator {

Pilot::Pilot(const v1::RunSpec& spec)
    : prune_(spec.prune()),
      placement_(spec.placement()),
      tracker_(ToStabilityOptions(spec.prune())) {}

void Pilot::Restart(uint64_t base_step) {
  base_step_ = base_step;
  observed_step_ = base_step;
  tracker_ = planner::StabilityTracker(ToStabilityOptions(prune_));
  prune_window_.Clear();
  placement_window_.Clear();
  prune_checked_ = true;
  imbalance_.reset();
  window_filled_ = false;
}

void Pilot::AddTo(Window* window, uint64_t steps, const std::vector<LayerStep>& layers) {
  window->steps += steps;
  for (const LayerStep& layer : layers) {
    std::vector<double> alive;
    for (size_t i = 0; i < layer.tokens.size(); ++i) {
      if (layer.ranks[i] >= 0) alive.push_back(static_cast<double>(layer.tokens[i]));
    }
    std::vector<double>& sums = window->loads[layer.layer];
    // The experts changed without a decision of ours (a run that went back): what was summed means
    // something else.
    if (sums.size() != alive.size()) sums.assign(alive.size(), 0);
    for (size_t i = 0; i < alive.size(); ++i) sums[i] += alive[i];
    std::vector<double>& ranks = window->rank_loads[layer.layer];
    ranks.resize(layer.rank_tokens.size(), 0);
    for (size_t i = 0; i < ranks.size(); ++i) ranks[i] += static_cast<double>(layer.rank_tokens[i]);
  }
}

void Pilot::Observe(uint64_t last_step, const std::vector<LayerStep>& layers) {
  if (last_step <= observed_step_) return;
  const uint64_t steps = last_step - observed_step_;
  observed_step_ = last_step;
  for (const LayerStep& layer : layers) layers_.insert(layer.layer);

  AddTo(&prune_window_, steps, layers);
  if (prune_window_.steps >= prune_.window_steps()) {
    for (const auto& [layer, loads] : prune_window_.loads)
      tracker_.Observe(static_cast<int>(layer), loads);
    prune_window_.Clear();
    prune_checked_ = false;
  }
  AddTo(&placement_window_, steps, layers);
  if (placement_window_.steps >= placement_.window_steps()) {
    double sum = 0;
    for (const auto& [layer, ranks] : placement_window_.rank_loads) {
      const double total = std::accumulate(ranks.begin(), ranks.end(), 0.0);
      const double heaviest = *std::max_element(ranks.begin(), ranks.end());
      sum += total > 0 ? heaviest * static_cast<double>(ranks.size()) / total : 1;
    }
    imbalance_ = placement_window_.rank_loads.empty()
                     ? 1
                     : sum / static_cast<double>(placement_window_.rank_loads.size());
    placement_window_.Clear();
    window_filled_ = true;
  }
}

bool Pilot::PrunePast(uint64_t step) const {
  return !prune_.enabled() || (prune_.latest_step() > 0 && step > prune_.latest_step());
}

uint64_t Pilot::MemorySteps() const {
  return std::max<uint64_t>(uint64_t{prune_.window_steps()} * (prune_.stable_checks() + 2),
                            2 * uint64_t{placement_.window_steps()});
}

std::optional<Intent> Pilot::Decide(const Situation& situation) {
  if (!situation.pretraining || layers_.empty() || situation.step >= situation.stage_end)
    return std::nullopt;
  if (situation.step <= base_step_) return std::nullopt;
  if (prune_.enabled() && !situation.prune_closed) return DecidePrune(situation);
  return DecidePlacement(situation);
}

std::optional<Intent> Pilot::DecidePrune(const Situation& situation) {
  const bool window_done = !prune_checked_;
  prune_checked_ = true;
  if (situation.step < prune_.earliest_step()) return std::nullopt;
  Intent intent;
  intent.place = placement_.enabled();
  intent.window_steps = prune_.window_steps();
  if (prune_.fixed_step() > 0) {
    if (situation.step < prune_.fixed_step()) return std::nullopt;
    intent.prunable = layers_;
    intent.why = absl::StrCat("prune.fixed_step ", prune_.fixed_step(), " is reached");
    return intent;
  }
  const bool latest = prune_.latest_step() > 0 && situation.step >= prune_.latest_step();
  if (!window_done && !latest) return std::nullopt;
  for (const uint32_t layer : layers_) {
    if (tracker_.IsStable(static_cast<int>(layer))) intent.prunable.insert(layer);
  }
  const double share =
      static_cast<double>(intent.prunable.size()) / static_cast<double>(layers_.size());
  if (intent.prunable.empty() || (share + 1e-9 < prune_.stable_layers() && !latest))
    return std::nullopt;
  intent.why = absl::StrCat(intent.prunable.size(), " of ", layers_.size(),
                            " layers are stable at step ", situation.step);
  return intent;
}

std::optional<Intent> Pilot::DecidePlacement(const Situation& situation) {
  if (!placement_.enabled() || !imbalance_.has_value()) return std::nullopt;
  const double imbalance = *imbalance_;
  imbalance_.reset();
  if (imbalance <= placement_.trigger()) return std::nullopt;
  if (situation.last_decision_step > 0 &&
      situation.step < situation.last_decision_step + placement_.interval_steps()) {
    return std::nullopt;
  }
  // Moves made just before the end pay for nothing.
  if (situation.step + placement_.window_steps() > situation.stage_end) return std::nullopt;
  Intent intent;
  intent.place = true;
  intent.window_steps = placement_.window_steps();
  intent.why = absl::StrCat("max/mean rank load ", imbalance, " is above placement.trigger ",
                            placement_.trigger());
  return intent;
}

}  // namespace espalier::coordinator
