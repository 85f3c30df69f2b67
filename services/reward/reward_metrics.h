// The reward service's figures for Prometheus: brought over from RewardStats at each scrape, so
// that scoring pays nothing for them.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "libs/observe/metrics.h"
#include "services/reward/engine.h"

namespace espalier::reward {

std::span<const observe::MetricSpec> RewardMetricTable();

// Fine buckets of a Histogram, brought together under ascending `bounds` (in seconds) and one for
// all above. A bucket counts where its largest value falls: quantiles are never flattered.
std::vector<uint64_t> Coarsen(const std::vector<uint64_t>& counts, std::span<const double> bounds);

// Scrapes of `metrics` read `engine` until this is destroyed. Both outlive it.
class RewardMetrics {
 public:
  RewardMetrics(observe::Metrics* metrics, ScoreEngine* engine);
  ~RewardMetrics();
  RewardMetrics(const RewardMetrics&) = delete;
  RewardMetrics& operator=(const RewardMetrics&) = delete;

 private:
  // What was exported so far of one stage.
  struct Exported {
    std::vector<uint64_t> counts;
    double seconds = 0;
  };
  void Bring();  // called by one scrape at a time
  void BringStage(Stage stage);
  void BringCounter(const char* name, observe::Metrics::LabelValues labels, uint64_t now,
                    uint64_t* exported);

  observe::Metrics* const metrics_;
  ScoreEngine* const engine_;
  std::array<Exported, kStages> stages_;
  std::array<uint64_t, kOutcomes> outcomes_{};
  std::array<uint64_t, 3> verdicts_{};
  uint64_t slow_ = 0;
};

}  // namespace espalier::reward
