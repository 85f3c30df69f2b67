// LoadBook: collects what each rank saw of a step into complete steps, in order.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/fleet_service.pb.h"

namespace espalier::coordinator {

// One layer in one step (or range of steps).
struct LayerStep {
  uint32_t layer = 0;
  std::vector<uint64_t> tokens;  // by original expert id; 0 for those that are gone
  std::vector<int> ranks;        // by original expert id; -1 for those that are gone
  std::vector<uint64_t> rank_tokens;
  // Thousandths of gate times output norm, by original expert id; empty when no rank sent any.
  std::vector<uint64_t> output_norms;
};

// Steps first .. last.
struct StepSpan {
  uint64_t first = 0;
  uint64_t last = 0;
  friend bool operator==(const StepSpan&, const StepSpan&) = default;
};

// What all ranks together saw in steps first_step .. last_step.
struct CompleteStep {
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  v1::StageKind stage = v1::STAGE_KIND_UNSPECIFIED;
  uint32_t stage_index = 0;
  double tokens = 0;           // over all ranks and steps covered
  double seconds = 0;          // slowest rank, all steps covered
  double experts_seconds = 0;  // most seconds in expert computation of any rank, all steps covered
  std::optional<double> joules;  // over all ranks and steps covered; absent unless each told it
  std::optional<v1::StepMetrics> metrics;
  std::vector<LayerStep> layers;

  double StepSeconds() const { return seconds / static_cast<double>(last_step - first_step + 1); }
  double TokensPerSecond() const { return seconds > 0 ? tokens / seconds : 0; }
  // Max over mean of the rank loads, mean over layers; 1 without loads.
  double Imbalance() const;
  uint64_t ExpertsAlive() const;
};

// Not thread-safe. A report is joined into its step at once and not kept. Memory: at most
// kPendingMax incomplete steps, each of one number a layer and expert (two with output norms).
class LoadBook {
 public:
  static constexpr size_t kPendingMax = 1024;
  // Complete steps that may wait behind an incomplete or missing one before that one is given up.
  static constexpr size_t kPatience = 64;
  // Layers are numbered below this, as in a RunSpec.
  static constexpr uint32_t kLayersMax = 1024;

  LoadBook(uint32_t rank_count, uint32_t expert_count)
      : rank_count_(rank_count), expert_count_(expert_count) {}

  // Forgets what is incomplete; steps up to `step` count as known.
  void Restart(uint64_t step);
  // Returns the steps that became complete, in order; none for a report that was seen before.
  // InvalidArgument for one that contradicts itself or the others; it changes nothing.
  absl::StatusOr<std::vector<CompleteStep>> Add(const v1::StepReport& report);
  // Every step up to here was complete and returned (or given up).
  uint64_t complete_step() const { return complete_step_; }
  size_t pending() const { return pending_.size(); }
  // Steps given up because a rank (or every rank) never reported them.
  uint64_t lost_steps() const { return lost_steps_; }
  // Those given up since the last call, in order, neighbours as one span.
  std::vector<StepSpan> TakeLost();

 private:
  struct Partial {
    std::vector<bool> reported;  // by rank
    uint32_t count = 0;          // of reported
    uint32_t told_joules = 0;    // ranks that did
    int metrics_rank = -1;       // rank that step.metrics is of
    CompleteStep step;           // of the ranks so far
  };
  absl::Status Check(const v1::StepReport& report) const;
  void Join(const v1::StepReport& report, Partial* partial) const;
  // The joined layer; `hint` is where it stands when all ranks report the same layers in order.
  LayerStep* FindLayer(uint32_t layer, size_t hint, CompleteStep* step) const;
  void Finish(CompleteStep* step) const;
  // Moves the steps that wait for nothing any more to `complete`, or gives them up.
  void Advance(std::vector<CompleteStep>* complete);
  void GiveUp(uint64_t first, uint64_t last);

  const uint32_t rank_count_;
  const uint32_t expert_count_;
  uint64_t complete_step_ = 0;
  uint64_t lost_steps_ = 0;
  std::vector<StepSpan> lost_;
  std::map<uint64_t, Partial> pending_;  // by first step
  size_t whole_count_ = 0;               // of pending_, those that every rank has reported
};

}  // namespace espalier::coordinator
