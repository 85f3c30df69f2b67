// FigureBook: the figures of a run's steps, bounded in memory, and the medians and means that its
// summary is made of.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <vector>

#include "espalier/v1/history_service.pb.h"
#include "espalier/v1/run_service.pb.h"
#include "espalier/v1/run_spec.pb.h"

namespace espalier::coordinator {

struct StepFigure {
  uint64_t step = 0;
  v1::StageKind stage = v1::STAGE_KIND_UNSPECIFIED;
  bool evaluated = false;  // the step held an evaluation
  double tokens_per_second = 0;
  double step_seconds = 0;
  double experts_seconds = 0;  // 0 when unknown (rebuilt from the series)
  double imbalance = 1;
};

// Where the summary's "before" ends and its "after" begins.
struct Cuts {
  std::optional<uint64_t> first;  // step of the first prune (or layout, where nothing was pruned)
  std::optional<uint64_t> last;   // step of the newest applied layout
  uint64_t window_steps = 50;     // steps that imbalance_before is averaged over
};

// Not thread-safe. Above kFiguresMax, every second one of the older half is dropped: medians stay
// medians.
class FigureBook {
 public:
  static constexpr size_t kFiguresMax = 1 << 16;
  // The first steps of a run pay for cold caches and page faults.
  static constexpr uint64_t kWarmupSteps = 5;
  static constexpr size_t kRecent = 16;

  void Add(const StepFigure& figure);
  void TruncateAfter(uint64_t step);
  // A command, a checkpoint or an evaluation stood between this step and the next: neither is
  // typical.
  void Disturb(uint64_t step);
  const std::vector<StepFigure>& figures() const { return figures_; }

  // Median over the undisturbed steps in [first, last] (all of them when each was disturbed);
  // absent when there are none.
  std::optional<double> Median(uint64_t first, uint64_t last, v1::StageKind stage,
                               const std::function<double(const StepFigure&)>& of) const;
  std::optional<double> Mean(uint64_t first, uint64_t last, v1::StageKind stage,
                             const std::function<double(const StepFigure&)>& of) const;

  // Fills the parts of the summary that follow from the figures.
  void Summarise(const Cuts& cuts, v1::RunSummary* summary) const;
  // Fills the parts of the progress that follow from the newest steps.
  void DescribeRecent(v1::RunProgress* progress) const;

 private:
  bool Typical(const StepFigure& figure) const;

  std::vector<StepFigure> figures_;  // by step, ascending
  std::set<uint64_t> disturbed_;
};

// Stage and total steps at `step` of the whole run.
void DescribePlace(const v1::RunSpec& spec, uint64_t step, v1::RunProgress* progress);
// Last step of the stage that `step` belongs to.
uint64_t StageEnd(const v1::RunSpec& spec, uint64_t step);

}  // namespace espalier::coordinator
