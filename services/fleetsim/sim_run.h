// SimRun: one simulated training on the event loop: when its steps are done, what its ranks report
// of them, and what happens to it when a rank is lost.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "espalier/v1/fleet_service.pb.h"
#include "services/fleetsim/event_loop.h"
#include "services/fleetsim/group.h"
#include "services/fleetsim/load_process.h"
#include "services/fleetsim/options.h"
#include "services/fleetsim/stats.h"

namespace espalier::fleetsim {

class SimWorker;

// Belongs to the event loop's thread.
class SimRun {
 public:
  SimRun(const SimulationOptions& options, const GroupOptions& group, uint64_t index,
         EventLoop* loop, FleetStats* stats);

  // `worker` was given a rank; the group begins when all are there. An error: the run cannot go on.
  absl::Status Enter(SimWorker* worker, const v1::Assignment& assignment);
  // The rank is gone from the epoch; its peers notice a moment later.
  void Leave(uint64_t epoch, uint32_t rank, const std::string& reason);
  void Receive(uint64_t epoch, uint32_t rank, const v1::Command& command);
  // The report of a rank that was in the group when the step was taken; the same whenever asked.
  v1::StepReport MakeReport(uint64_t epoch, uint32_t rank, uint64_t step);

  // A rank's stream broke, or stands again: acks wait for it meanwhile.
  void Detached(uint32_t rank);
  void Reattached(uint32_t rank);
  // All ranks have been attached since then.
  absl::Time calm_since() const { return calm_since_; }

  const Group& group() const { return group_; }
  const LoadProcess& process() const { return process_; }
  uint64_t index() const { return index_; }
  uint64_t late_steps() const { return late_steps_; }

 private:
  // What the ranks saw of one step.
  struct Drawn {
    uint64_t step = 0;
    std::shared_ptr<const Layout> layout;
    std::vector<uint64_t> tokens;
    std::vector<double> rank_share;  // of the mean rank's load, mean over layers
    double step_seconds = 0;
  };
  static constexpr size_t kDrawnMax = 4;

  const Drawn& DrawnOf(uint64_t step);
  double Straggle(uint64_t step) const;  // factor on the step's time
  double Loss(uint64_t step) const;
  void Schedule(absl::Time time);
  void Tick();
  void Say(const Progress& progress);
  void SayApplied(const Applied& applied);
  void SayModelEvent(const std::string& name);
  void SayCheckpoint(const std::string& path);
  void Interrupt(uint64_t epoch, const std::string& reason);

  const SimulationOptions& options_;
  const uint64_t index_;
  EventLoop* const loop_;
  FleetStats* const stats_;
  Group group_;
  const LoadProcess process_;
  std::vector<SimWorker*> workers_;  // by rank, of the epoch; null once left
  std::deque<Drawn> drawn_;          // newest last
  absl::Time next_step_;
  uint64_t generation_ = 0;  // of the timer that counts
  std::set<uint32_t> detached_;
  absl::Time calm_since_ = absl::InfiniteFuture();
  uint64_t late_steps_ = 0;
};

}  // namespace espalier::fleetsim
