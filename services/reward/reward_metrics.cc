// Counters only grow: what is exported is the difference to the scrape before.
#include "services/reward/reward_metrics.h"

#include <algorithm>

#include "absl/time/time.h"

namespace espalier::reward {
namespace {

using observe::MetricKind;

// 10 us to 5 s.
const std::vector<double>& StageBounds() {
  static const auto& bounds = *new std::vector<double>(observe::Buckets(1e-5, 2, 20));
  return bounds;
}

const observe::MetricSpec kTable[] = {
    {"espalier_reward_requests_total",
     MetricKind::kCounter,
     "1",
     {"outcome"},
     "Requests that ended, gRPC and HTTP, by outcome: answered, invalid, busy, draining, expired, "
     "cancelled. A batch of a stream is a request."},
    {"espalier_reward_verdicts_total",
     MetricKind::kCounter,
     "1",
     {"verdict"},
     "Verdicts given: correct, wrong, abstain."},
    {"espalier_reward_stage_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"stage"},
     "Time that a request spent in a stage: queue (until its first part is on a thread), score "
     "(one "
     "part), write (from scored to handed over), call (all of it).",
     StageBounds()},
    {"espalier_reward_slow_samples_total",
     MetricKind::kCounter,
     "1",
     {},
     "Traces that took more of a core than --slow-ms."},
    {"espalier_reward_queue_jobs", MetricKind::kGauge, "1", {}, "Jobs that wait for a thread."},
    {"espalier_reward_threads", MetricKind::kGauge, "1", {}, "Threads that score."},
};

constexpr v1::Verdict kVerdicts[] = {v1::VERDICT_CORRECT, v1::VERDICT_WRONG, v1::VERDICT_ABSTAIN};
constexpr const char* kVerdictNames[] = {"correct", "wrong", "abstain"};

}  // namespace

std::span<const observe::MetricSpec> RewardMetricTable() { return kTable; }

std::vector<uint64_t> Coarsen(const std::vector<uint64_t>& counts, std::span<const double> bounds) {
  std::vector<uint64_t> coarse(bounds.size() + 1, 0);
  size_t at = 0;
  for (size_t bucket = 0; bucket < counts.size(); ++bucket) {
    const double largest = absl::ToDoubleSeconds(Histogram::LargestOf(bucket));
    // The last of the fine buckets holds everything above, too.
    const bool open = bucket + 1 == Histogram::kBuckets;
    while (at < bounds.size() && (open || largest > bounds[at])) ++at;
    coarse[at] += counts[bucket];
  }
  return coarse;
}

RewardMetrics::RewardMetrics(observe::Metrics* metrics, ScoreEngine* engine)
    : metrics_(metrics), engine_(engine) {
  metrics_->SetScrapeHook([this] { Bring(); });
}

RewardMetrics::~RewardMetrics() { metrics_->SetScrapeHook(nullptr); }

void RewardMetrics::Bring() {
  const RewardStats& stats = engine_->stats();
  for (int i = 0; i < kOutcomes; ++i) {
    const auto outcome = static_cast<Outcome>(i);
    BringCounter("espalier_reward_requests_total", {OutcomeName(outcome)}, stats.Read(outcome),
                 &outcomes_[i]);
  }
  for (size_t i = 0; i < verdicts_.size(); ++i) {
    BringCounter("espalier_reward_verdicts_total", {kVerdictNames[i]}, stats.Read(kVerdicts[i]),
                 &verdicts_[i]);
  }
  BringCounter("espalier_reward_slow_samples_total", {}, stats.ReadSlow(), &slow_);
  for (int i = 0; i < kStages; ++i) BringStage(static_cast<Stage>(i));
  metrics_->Set("espalier_reward_queue_jobs", {}, static_cast<double>(engine_->pool().waiting()));
  metrics_->Set("espalier_reward_threads", {}, static_cast<double>(engine_->pool().thread_count()));
}

void RewardMetrics::BringStage(Stage stage) {
  Exported& exported = stages_[static_cast<size_t>(stage)];
  const Histogram::Snapshot now = engine_->stats().Read(stage);
  std::vector<uint64_t> counts = Coarsen(now.counts, StageBounds());
  exported.counts.resize(counts.size(), 0);
  std::vector<double> increments(counts.size());
  for (size_t i = 0; i < counts.size(); ++i) {
    increments[i] = static_cast<double>(counts[i] - exported.counts[i]);
  }
  const double seconds = absl::ToDoubleSeconds(now.sum);
  metrics_->ObserveMany("espalier_reward_stage_seconds", {StageName(stage)}, increments,
                        seconds - exported.seconds);
  exported = {.counts = std::move(counts), .seconds = seconds};
}

void RewardMetrics::BringCounter(const char* name, observe::Metrics::LabelValues labels,
                                 uint64_t now, uint64_t* exported) {
  metrics_->Add(name, labels, static_cast<double>(now - *exported));
  *exported = now;
}

}  // namespace espalier::reward
