// Pilot: the policy. Watches the loads of complete steps and says when to prune and when to
// re-place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "espalier/v1/run_spec.pb.h"
#include "libs/planner/planner.h"
#include "services/coordinator/load_book.h"

namespace espalier::coordinator {

// What the pilot must know beside the loads.
struct Situation {
  uint64_t step = 0;          // newest complete step
  bool pretraining = false;   // that step was of a pretrain stage
  uint64_t stage_end = 0;     // last step of that stage
  bool prune_closed = false;  // the policy has pruned, or may not any more
  uint64_t last_decision_step = 0;
};

// What the pilot wants planned.
struct Intent {
  std::set<uint32_t> prunable;  // layers; empty: placement only
  bool place = false;
  uint32_t window_steps = 0;
  std::string why;
};

// Not thread-safe. Memory: a few windows of sums per layer. What it knows follows from the steps it
// was fed since Restart, so it can be rebuilt from the recorded loads.
class Pilot {
 public:
  explicit Pilot(const v1::RunSpec& spec);
  // The loads changed meaning after `base_step` (a layout took effect, or the run begins): windows
  // start anew behind it.
  void Restart(uint64_t base_step);
  uint64_t base_step() const { return base_step_; }
  // Steps up to base_step are ignored.
  void Observe(uint64_t last_step, const std::vector<LayerStep>& layers);
  // At most one intent; asks again at the next window when nothing came of it.
  std::optional<Intent> Decide(const Situation& situation);
  // Whether a placement window has filled since this was last asked.
  bool TakeWindow() { return std::exchange(window_filled_, false); }
  // Nothing is prunable after policy.latest_step any more.
  bool PrunePast(uint64_t step) const;
  // Steps of recorded loads that are enough to rebuild after a restart.
  uint64_t MemorySteps() const;

 private:
  struct Window {
    uint64_t steps = 0;
    std::map<uint32_t, std::vector<double>> loads;  // by layer, experts alive in order
    std::map<uint32_t, std::vector<double>> rank_loads;
    void Clear() { *this = Window(); }
  };
  static void AddTo(Window* window, uint64_t steps, const std::vector<LayerStep>& layers);
  std::optional<Intent> DecidePrune(const Situation& situation);
  std::optional<Intent> DecidePlacement(const Situation& situation);

  const v1::PrunePolicy prune_;
  const v1::PlacementPolicy placement_;
  uint64_t base_step_ = 0;
  uint64_t observed_step_ = 0;
  planner::StabilityTracker tracker_;
  std::set<uint32_t> layers_;
  Window prune_window_;
  Window placement_window_;
  bool prune_checked_ = true;  // the newest prune window was judged by Decide
  // Imbalance of the newest full placement window until Decide has judged it.
  std::optional<double> imbalance_;
  bool window_filled_ = false;
};

}  // namespace espalier::coordinator
