// What a worker counts for Prometheus: one declared table, fed by the reports of its rank and by
// the energy counters of its machine.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "espalier/v1/fleet_service.pb.h"
#include "libs/observe/energy.h"
#include "libs/observe/metrics.h"

namespace espalier::worker {

std::span<const observe::MetricSpec> WorkerMetricTable();

// What energy costs here; what was not said is not exported.
struct EnergyRates {
  std::optional<double> price_per_kwh;
  std::optional<double> grid_gco2_per_kwh;

  // InvalidArgument names the flag.
  absl::Status Validate() const;
};

// Thread-safe. Without a counter that can be read, no series about energy exists: 0 would be a lie.
class WorkerMetrics {
 public:
  // Neither is owned; both outlive this. Scrapes read `meter` from now on.
  WorkerMetrics(observe::Metrics* metrics, observe::EnergyMeter* meter, EnergyRates rates);
  ~WorkerMetrics();
  WorkerMetrics(const WorkerMetrics&) = delete;
  WorkerMetrics& operator=(const WorkerMetrics&) = delete;

  // This worker trains rank `rank` of `run` from now on; what it told of other runs is dropped.
  void Begin(const std::string& run, uint32_t rank);
  // The run's `report` as the trainer made it, before it is sent: gets its joules.
  void Report(const std::string& run, v1::StepReport* report);

 private:
  void ReportTimes(const std::string& run, const v1::StepReport& report);
  // Brings the joules up to date; their sum over the sources, absent without one.
  std::optional<double> CountEnergy() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Joules since the run's last report, absent without a counter or before the first.
  std::optional<double> ReportEnergy(const std::string& run, uint64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  observe::Metrics* const metrics_;
  observe::EnergyMeter* const meter_;
  const EnergyRates rates_;

  absl::Mutex mutex_;
  std::string run_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, double> counted_ ABSL_GUARDED_BY(mutex_);  // joules exported, by source
  // Joules at the run's last report; absent before its first, whose steps began at an unknown time.
  std::optional<double> at_report_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace espalier::worker
