// What the coordinator counts for Prometheus: one declared table, and one call for each thing that
// happens.
#pragma once

#include <span>
#include <string>

#include "absl/time/time.h"
#include "libs/observe/metrics.h"
#include "services/coordinator/load_book.h"
#include "services/coordinator/run.h"

namespace espalier::coordinator {

std::span<const observe::MetricSpec> CoordinatorMetricTable();

// Without `metrics`, every call does nothing. Used from the executor's thread.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(observe::Metrics* metrics) : metrics_(metrics) {}

  void Step(const LiveRun& run, const CompleteStep& step);
  void LostSteps(const LiveRun& run, uint64_t count);
  // `decision` has come into a new state.
  void Decision(const LiveRun& run, const v1::Decision& decision);
  // Whether a decision waits for approval.
  void Waiting(const LiveRun& run, bool waits);
  // How a question to the run's PolicyService ended.
  void PolicyAnswer(const LiveRun& run, const std::string& outcome);
  void Recovery(const LiveRun& run);
  // One commit of everything that a batch of tasks wrote.
  void Commit(absl::Duration duration, bool ok);
  void Reports(uint64_t count);
  void Runs(v1::RunState state, double count);
  void Workers(double idle, double busy);
  void Store(const std::string& figure, double value);
  // The run is over and was scraped for a while since.
  void Forget(const std::string& run_id);

 private:
  observe::Metrics* const metrics_;
};

}  // namespace espalier::coordinator
