// The coordinator's metrics.
#include "services/coordinator/coordinator_metrics.h"

#include <cmath>

#include "absl/strings/ascii.h"

namespace espalier::coordinator {
namespace {

using observe::MetricKind;

const observe::MetricSpec kTable[] = {
    {"espalier_run_step",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Newest step that every rank reported."},
    {"espalier_run_steps_total", MetricKind::kCounter, "1", {"run"}, "Steps recorded."},
    {"espalier_run_tokens_total",
     MetricKind::kCounter,
     "tokens",
     {"run"},
     "Tokens trained on, over all ranks."},
    {"espalier_run_step_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"run"},
     "Duration of a step on its slowest rank.",
     observe::Buckets(0.001, 2, 18)},
    {"espalier_run_tokens_per_second",
     MetricKind::kGauge,
     "tokens/second",
     {"run"},
     "Throughput of the newest step, over all ranks."},
    {"espalier_run_imbalance",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Load of the heaviest rank over the mean, mean over layers, newest step."},
    {"espalier_run_experts_alive",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Experts that have not been pruned, over all layers."},
    {"espalier_run_loss", MetricKind::kGauge, "nats", {"run"}, "Training loss of the newest step."},
    {"espalier_run_heldout_loss", MetricKind::kGauge, "nats", {"run"}, "Newest held-out loss."},
    {"espalier_run_skipped_steps",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Steps whose gradient was not finite, so that they changed no weight."},
    {"espalier_run_lost_steps_total",
     MetricKind::kCounter,
     "1",
     {"run"},
     "Steps that were not reported by every rank."},
    {"espalier_run_recoveries_total",
     MetricKind::kCounter,
     "1",
     {"run"},
     "Times that the run went back to a checkpoint."},
    {"espalier_decisions_total",
     MetricKind::kCounter,
     "1",
     {"run", "state"},
     "Decisions that came into a state: waiting, rejected, lapsed, commanded, applied, observed, "
     "verified, failed, rolled_back."},
    {"espalier_decisions_waiting",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Decisions that wait for somebody's approval."},
    {"espalier_policy_answers_total",
     MetricKind::kCounter,
     "1",
     {"run", "outcome"},
     "Answers of the run's PolicyService: plan, no_change, invalid, deadline, unreachable, error, "
     "late (the run had changed meanwhile)."},
    {"espalier_decision_step_error_ratio",
     MetricKind::kHistogram,
     "1",
     {"run"},
     "Distance of the realised step time from the predicted one, over the predicted one.",
     {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1}},
    {"espalier_decision_pause_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"run"},
     "Time that the slowest rank stood still for a decision.",
     observe::Buckets(0.001, 2, 18)},
    {"espalier_runs", MetricKind::kGauge, "1", {"state"}, "Runs that have not ended, by state."},
    {"espalier_workers", MetricKind::kGauge, "1", {"state"}, "Attached workers: idle or busy."},
    {"espalier_reports_total", MetricKind::kCounter, "1", {}, "Step reports taken in."},
    {"espalier_store_commit_seconds",
     MetricKind::kHistogram,
     "seconds",
     {},
     "Duration of one synced commit.",
     observe::Buckets(0.0001, 2, 16)},
    {"espalier_store_commit_failures_total",
     MetricKind::kCounter,
     "1",
     {},
     "Commits that failed; after one the store refuses writes."},
    {"espalier_store_bytes",
     MetricKind::kGauge,
     "bytes",
     {"what"},
     "RocksDB: live_data, memtables, pending_compaction, table_readers."},
};

std::string StateLabel(const std::string& name, const char* prefix) {
  return absl::AsciiStrToLower(name.substr(std::string(prefix).size()));
}

}  // namespace

std::span<const observe::MetricSpec> CoordinatorMetricTable() { return kTable; }

void CoordinatorMetrics::Step(const LiveRun& run, const CompleteStep& step) {
  if (metrics_ == nullptr) return;
  const std::string& id = run.id();
  metrics_->Set("espalier_run_step", {id}, static_cast<double>(step.last_step));
  metrics_->Add("espalier_run_steps_total", {id},
                static_cast<double>(step.last_step - step.first_step + 1));
  metrics_->Add("espalier_run_tokens_total", {id}, step.tokens);
  metrics_->Observe("espalier_run_step_seconds", {id}, step.StepSeconds());
  metrics_->Set("espalier_run_tokens_per_second", {id}, step.TokensPerSecond());
  if (!step.layers.empty()) {
    metrics_->Set("espalier_run_imbalance", {id}, step.Imbalance());
    metrics_->Set("espalier_run_experts_alive", {id}, static_cast<double>(step.ExpertsAlive()));
  }
  if (!step.metrics.has_value()) return;
  metrics_->Set("espalier_run_loss", {id}, step.metrics->loss());
  metrics_->Set("espalier_run_skipped_steps", {id},
                static_cast<double>(step.metrics->skipped_steps()));
  if (step.metrics->has_heldout_loss())
    metrics_->Set("espalier_run_heldout_loss", {id}, step.metrics->heldout_loss());
}

void CoordinatorMetrics::LostSteps(const LiveRun& run, uint64_t count) {
  if (metrics_ != nullptr)
    metrics_->Add("espalier_run_lost_steps_total", {run.id()}, static_cast<double>(count));
}

void CoordinatorMetrics::Decision(const LiveRun& run, const v1::Decision& decision) {
  if (metrics_ == nullptr) return;
  metrics_->Add(
      "espalier_decisions_total",
      {run.id(), StateLabel(v1::DecisionState_Name(decision.state()), "DECISION_STATE_")});
  if (decision.state() != v1::DECISION_STATE_VERIFIED) return;
  if (decision.has_pause_seconds())
    metrics_->Observe("espalier_decision_pause_seconds", {run.id()}, decision.pause_seconds());
  const double predicted = decision.plan().step_seconds_predicted();
  if (predicted > 0 && decision.has_step_seconds_realised()) {
    metrics_->Observe("espalier_decision_step_error_ratio", {run.id()},
                      std::abs(decision.step_seconds_realised() - predicted) / predicted);
  }
}

void CoordinatorMetrics::Waiting(const LiveRun& run, bool waits) {
  if (metrics_ != nullptr) metrics_->Set("espalier_decisions_waiting", {run.id()}, waits ? 1 : 0);
}

void CoordinatorMetrics::PolicyAnswer(const LiveRun& run, const std::string& outcome) {
  if (metrics_ != nullptr) metrics_->Add("espalier_policy_answers_total", {run.id(), outcome});
}

void CoordinatorMetrics::Recovery(const LiveRun& run) {
  if (metrics_ != nullptr) metrics_->Add("espalier_run_recoveries_total", {run.id()});
}

void CoordinatorMetrics::Commit(absl::Duration duration, bool ok) {
  if (metrics_ == nullptr) return;
  metrics_->Observe("espalier_store_commit_seconds", {}, absl::ToDoubleSeconds(duration));
  if (!ok) metrics_->Add("espalier_store_commit_failures_total", {});
}

void CoordinatorMetrics::Reports(uint64_t count) {
  if (metrics_ != nullptr) metrics_->Add("espalier_reports_total", {}, static_cast<double>(count));
}

void CoordinatorMetrics::Runs(v1::RunState state, double count) {
  if (metrics_ != nullptr) metrics_->Set("espalier_runs", {StateWord(state)}, count);
}

void CoordinatorMetrics::Workers(double idle, double busy) {
  if (metrics_ == nullptr) return;
  metrics_->Set("espalier_workers", {"idle"}, idle);
  metrics_->Set("espalier_workers", {"busy"}, busy);
}

void CoordinatorMetrics::Store(const std::string& figure, double value) {
  if (metrics_ != nullptr) metrics_->Set("espalier_store_bytes", {figure}, value);
}

void CoordinatorMetrics::Forget(const std::string& run_id) {
  if (metrics_ != nullptr) metrics_->Forget("run", run_id);
}

}  // namespace espalier::coordinator
