// A service that gets a table of its own is added here; metrics_golden_test then asks for the
// files.
#include "tests/unit/observe/all_metrics.h"

#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/observe/metrics.h"
#include "libs/observe/otlp_exporter.h"
#include "libs/rpc/call_metrics.h"
#include "services/coordinator/coordinator_metrics.h"
#include "services/reward/reward_metrics.h"
#include "services/worker/worker_metrics.h"

namespace espalier::observe {
namespace {

struct Service {
  const char* title;
  std::span<const MetricSpec> table;
};

std::vector<Service> Services() {
  return {{"Coordinator", coordinator::CoordinatorMetricTable()},
          {"Worker", worker::WorkerMetricTable()},
          {"Reward service", reward::RewardMetricTable()},
          {"gRPC, of coordinator and reward service", rpc::CallMetricTable()},
          {"Traces, of all three", TraceMetricTable()}};
}

}  // namespace

std::string GoldenOfAllMetrics() {
  std::vector<std::span<const MetricSpec>> tables;
  for (const Service& service : Services()) tables.push_back(service.table);
  return DescribeMetrics(tables);
}

std::string ReferenceOfAllMetrics() {
  std::string text =
      "# Metrics\n\n"
      "Every metric that the services serve at `/metrics` of their `--metrics-listen`. Made by\n"
      "`describe_metrics markdown > deploy/monitoring/METRICS.md` from the tables that the\n"
      "services register; a test compares.\n\n"
      "Metrics of a run leave the coordinator some minutes after its end, and a worker when it\n"
      "takes another run. Energy is exported where the machine has a counter that the worker may\n"
      "read (RAPL, NVML); elsewhere its metrics are absent, and the worker's log says why.\n";
  for (const Service& service : Services()) {
    absl::StrAppend(&text, "\n## ", service.title, "\n\n",
                    DescribeMetricsAsMarkdown(service.table));
  }
  return text;
}

}  // namespace espalier::observe
