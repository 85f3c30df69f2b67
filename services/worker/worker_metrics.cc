// The worker's metrics. A report covers one step or several: each of them counts with their mean.
#include "services/worker/worker_metrics.h"

#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace espalier::worker {
namespace {

using observe::MetricKind;

constexpr double kJoulesPerKwh = 3.6e6;
constexpr double kTokensPerQuote = 1e6;  // cost and carbon are per million tokens

const observe::MetricSpec kTable[] = {
    {"espalier_worker_rank",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Rank that this worker trains, or trained last."},
    {"espalier_worker_step", MetricKind::kGauge, "1", {"run"}, "Newest step of this rank."},
    {"espalier_worker_steps_total", MetricKind::kCounter, "1", {"run"}, "Steps of this rank."},
    {"espalier_worker_tokens_total",
     MetricKind::kCounter,
     "tokens",
     {"run"},
     "Tokens that this rank fed through the model."},
    {"espalier_worker_tokens_per_second",
     MetricKind::kGauge,
     "tokens/second",
     {"run"},
     "Throughput of this rank over its newest report."},
    {"espalier_worker_step_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"run", "stage"},
     "Duration of a step on this rank, by stage: pretrain, finetune, reinforce.",
     observe::Buckets(0.001, 2, 18)},
    {"espalier_worker_phase_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"run", "phase"},
     "Time that a step spent in a phase: data, attention, router, dispatch, experts, combine, "
     "head, "
     "gradient_sync, optimizer, rollout, reward. Phases that took no time are not counted.",
     observe::Buckets(0.0001, 2, 20)},
    {"espalier_worker_held_experts",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Experts that this rank holds, over all layers, copies included."},
    {"espalier_worker_expert_tokens_total",
     MetricKind::kCounter,
     "tokens",
     {"run"},
     "Tokens that all ranks routed to the experts held here."},
    {"espalier_worker_skipped_steps",
     MetricKind::kGauge,
     "1",
     {"run"},
     "Steps whose gradient was not finite, so that they changed no weight; rank 0 tells."},
    {"espalier_worker_energy_joules_total",
     MetricKind::kCounter,
     "joules",
     {"source"},
     "Energy that the machine used since the worker started, by counter: rapl:package-N, "
     "rapl:package-N-dram, nvml:N. Workers of one machine count the same joules."},
    {"espalier_worker_energy_joules_per_token",
     MetricKind::kGauge,
     "joules/token",
     {"run"},
     "Energy of the machine over tokens of this rank, newest report."},
    {"espalier_worker_energy_cost_per_million_tokens",
     MetricKind::kGauge,
     "currency",
     {"run"},
     "Cost of a million tokens at --energy-price, newest report."},
    {"espalier_worker_energy_gco2_per_million_tokens",
     MetricKind::kGauge,
     "grams",
     {"run"},
     "CO2 of a million tokens at --grid-gco2, newest report."},
};

constexpr const char* kDerivedFromEnergy[] = {"espalier_worker_energy_joules_per_token",
                                              "espalier_worker_energy_cost_per_million_tokens",
                                              "espalier_worker_energy_gco2_per_million_tokens"};

std::string StageLabel(v1::StageKind stage) {
  return absl::AsciiStrToLower(
      v1::StageKind_Name(stage).substr(std::string_view("STAGE_KIND_").size()));
}

absl::Status CheckRate(const char* flag, const std::optional<double>& rate) {
  if (!rate.has_value() || (std::isfinite(*rate) && *rate >= 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": ", *rate, " is not a number of 0 or more"));
}

}  // namespace

std::span<const observe::MetricSpec> WorkerMetricTable() { return kTable; }

absl::Status EnergyRates::Validate() const {
  const absl::Status price = CheckRate("--energy-price", price_per_kwh);
  return price.ok() ? CheckRate("--grid-gco2", grid_gco2_per_kwh) : price;
}

WorkerMetrics::WorkerMetrics(observe::Metrics* metrics, observe::EnergyMeter* meter,
                             EnergyRates rates)
    : metrics_(metrics), meter_(meter), rates_(rates) {
  metrics_->SetScrapeHook([this] {
    absl::MutexLock lock(&mutex_);
    CountEnergy();
  });
}

WorkerMetrics::~WorkerMetrics() { metrics_->SetScrapeHook(nullptr); }

void WorkerMetrics::Begin(const std::string& run, uint32_t rank) {
  absl::MutexLock lock(&mutex_);
  if (!run_.empty() && run_ != run) metrics_->Forget("run", run_);
  run_ = run;
  at_report_.reset();
  metrics_->Set("espalier_worker_rank", {run}, rank);
}

void WorkerMetrics::Report(const std::string& run, v1::StepReport* sent) {
  const v1::StepReport& report = *sent;
  absl::MutexLock lock(&mutex_);
  // A word of a run that this worker has left, while the next one began.
  if (run != run_) return;
  ReportTimes(run, report);
  const auto steps = static_cast<double>(report.last_step() - report.first_step() + 1);
  metrics_->Set("espalier_worker_step", {run}, static_cast<double>(report.last_step()));
  metrics_->Add("espalier_worker_steps_total", {run}, steps);
  metrics_->Add("espalier_worker_tokens_total", {run}, static_cast<double>(report.tokens()));
  double held = 0, routed = 0;
  for (const v1::LayerLoads& layer : report.loads()) {
    held += layer.experts_size();
    for (const uint64_t tokens : layer.tokens()) routed += static_cast<double>(tokens);
  }
  metrics_->Set("espalier_worker_held_experts", {run}, held);
  metrics_->Add("espalier_worker_expert_tokens_total", {run}, routed);
  if (report.has_metrics()) {
    metrics_->Set("espalier_worker_skipped_steps", {run},
                  static_cast<double>(report.metrics().skipped_steps()));
  }
  if (const auto joules = ReportEnergy(run, report.tokens()); joules.has_value())
    sent->set_joules(*joules);
}

void WorkerMetrics::ReportTimes(const std::string& run, const v1::StepReport& report) {
  const auto steps = report.last_step() - report.first_step() + 1;
  const double seconds = static_cast<double>(report.duration().seconds()) +
                         1e-9 * static_cast<double>(report.duration().nanos());
  if (seconds > 0) {
    metrics_->Set("espalier_worker_tokens_per_second", {run},
                  static_cast<double>(report.tokens()) / seconds);
  }
  const v1::PhaseTimes& times = report.phases();
  const std::pair<const char*, double> phases[] = {
      {"data", times.data_seconds()},           {"attention", times.attention_seconds()},
      {"router", times.router_seconds()},       {"dispatch", times.dispatch_seconds()},
      {"experts", times.experts_seconds()},     {"combine", times.combine_seconds()},
      {"head", times.head_seconds()},           {"gradient_sync", times.gradient_sync_seconds()},
      {"optimizer", times.optimizer_seconds()}, {"rollout", times.rollout_seconds()},
      {"reward", times.reward_seconds()},
  };
  const std::string stage = StageLabel(report.stage());
  for (uint64_t step = 0; step < steps; ++step) {
    metrics_->Observe("espalier_worker_step_seconds", {run, stage},
                      seconds / static_cast<double>(steps));
    for (const auto& [phase, sum] : phases) {
      if (sum <= 0) continue;
      metrics_->Observe("espalier_worker_phase_seconds", {run, phase},
                        sum / static_cast<double>(steps));
    }
  }
}

std::optional<double> WorkerMetrics::CountEnergy() {
  const std::map<std::string, double> readings = meter_->Read();
  double sum = 0;
  for (const auto& [source, joules] : readings) {
    double& counted = counted_[source];
    metrics_->Add("espalier_worker_energy_joules_total", {source}, joules - counted);
    counted = joules;
    sum += joules;
  }
  for (auto it = counted_.begin(); it != counted_.end();) {
    if (readings.count(it->first) != 0) {
      ++it;
      continue;
    }
    // It can no longer be read: what is told of energy would be too little from here on.
    metrics_->Forget("source", it->first);
    for (const char* derived : kDerivedFromEnergy) metrics_->Drop(derived);
    at_report_.reset();
    it = counted_.erase(it);
  }
  if (readings.empty()) return std::nullopt;
  return sum;
}

std::optional<double> WorkerMetrics::ReportEnergy(const std::string& run, uint64_t tokens) {
  const std::optional<double> joules = CountEnergy();
  const std::optional<double> before = std::exchange(at_report_, joules);
  if (!joules.has_value() || !before.has_value()) return std::nullopt;
  const double used = *joules - *before;
  if (tokens == 0) return used;
  const double per_token = used / static_cast<double>(tokens);
  metrics_->Set("espalier_worker_energy_joules_per_token", {run}, per_token);
  const double kwh_per_million = per_token * kTokensPerQuote / kJoulesPerKwh;
  if (rates_.price_per_kwh.has_value()) {
    metrics_->Set("espalier_worker_energy_cost_per_million_tokens", {run},
                  kwh_per_million * *rates_.price_per_kwh);
  }
  if (rates_.grid_gco2_per_kwh.has_value()) {
    metrics_->Set("espalier_worker_energy_gco2_per_million_tokens", {run},
                  kwh_per_million * *rates_.grid_gco2_per_kwh);
  }
  return used;
}

}  // namespace espalier::worker
