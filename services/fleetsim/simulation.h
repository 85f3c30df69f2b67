// Simulation: submits the runs, lets the fleet live, ends it, and compares what the coordinator has
// recorded with what was drawn.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/fleetsim/coordinator_process.h"
#include "services/fleetsim/event_loop.h"
#include "services/fleetsim/options.h"
#include "services/fleetsim/stats.h"

namespace espalier::fleetsim {

class SimRun;
class SimWorker;

// What became of one run, in the coordinator's books against the simulator's.
struct RunOutcome {
  std::string run_id;
  std::string state;
  std::string detail;
  uint32_t ranks = 0;
  uint64_t epochs = 0;
  uint64_t steps = 0;           // taken by the group, in its last epoch's line
  uint64_t recorded_steps = 0;  // the coordinator's newest
  uint64_t values_compared = 0;
  uint64_t values_wrong = 0;
  uint64_t steps_missing = 0;  // of the layers compared
  uint64_t digest = 0;         // of the loads that the coordinator stored
};

struct DecisionOutcome {
  std::string run_id, decision_id, state, error;
  uint64_t applied_step = 0, moved = 0, pruned = 0;
  double imbalance_before = 0, imbalance_predicted = 0, imbalance_realised = 0;
  double step_predicted = 0, step_realised = 0;
};

struct SimulationResult {
  FleetStats stats;                // latencies: from then on
  Latencies ack_at_start;          // until all runs ran
  uint64_t reports_meanwhile = 0;  // said during `seconds`
  double seconds = 0;              // from the moment all runs ran to the last step
  uint64_t reports_lost = 0;       // of steps taken and not recorded by the end
  uint64_t late_steps = 0;         // the simulator itself fell behind
  std::vector<RunOutcome> runs;
  std::vector<DecisionOutcome> decisions;
  ProcessUse coordinator;  // cpu: during `seconds`; zeros when it is not of this machine
  double simulator_cpu_seconds = 0;
  uint64_t disk_bytes = 0;
  bool ok() const;
};

// One use. Run() belongs to one thread; the fleet lives on the event loop.
class Simulation {
 public:
  // `progress` gets a line about once a second.
  Simulation(const SimulationOptions& options, std::function<void(const std::string&)> progress);
  ~Simulation();
  absl::StatusOr<SimulationResult> Run();

 private:
  struct Wire;  // channels and stubs

  absl::Status Connect();
  absl::Status Submit();
  void AttachFleet();
  absl::Status AwaitAllRunning();
  // Until the time or the steps are over.
  absl::Status Live();
  void Fault(absl::Duration elapsed, absl::Duration since);
  absl::Status StopRuns();
  absl::Status AwaitAllEnded();
  void LeaveFleet();
  std::string ProgressLine();
  absl::Status CompareRun(SimRun* run, RunOutcome* outcome);
  absl::Status ReadDecisions(const std::string& run_id, std::vector<DecisionOutcome>* decisions);
  double SimulatorCpu() const;

  const SimulationOptions options_;
  const std::function<void(const std::string&)> progress_;
  std::unique_ptr<CoordinatorProcess> process_;
  std::unique_ptr<Wire> wire_;
  FleetStats stats_;                                     // of the loop's thread
  std::map<std::string, std::unique_ptr<SimRun>> runs_;  // of the loop's thread once workers attach
  std::vector<SimRun*> runs_in_order_;
  std::vector<std::unique_ptr<SimWorker>> workers_;     // of the loop's thread
  std::vector<std::pair<ScriptedFault, bool>> script_;  // true: restart
  uint64_t fault_draws_ = 0;
  absl::Time began_;
  // Last, so that it ends first: its tasks use all of the above.
  EventLoop loop_;
};

// Everything a reader wants to know, as text and as JSON.
std::string ToText(const SimulationOptions& options, const SimulationResult& result);
std::string ToJson(const SimulationOptions& options, const SimulationResult& result);

}  // namespace espalier::fleetsim
