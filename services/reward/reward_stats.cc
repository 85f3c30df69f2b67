// Names come from closed sets, so that the JSON has the same members whatever happened.
#include "services/reward/reward_stats.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace espalier::reward {
namespace {

constexpr const char* kStageNames[kStages] = {"queue", "score", "write", "call"};
constexpr const char* kOutcomeNames[kOutcomes] = {"answered", "invalid", "busy",
                                                  "draining", "expired", "cancelled"};
constexpr const char* kVerdictNames[] = {"none", "correct", "wrong", "abstain"};

double Milliseconds(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }

nlohmann::ordered_json ToJson(const Histogram::Snapshot& times) {
  const double count = static_cast<double>(times.count);
  return {{"count", times.count},
          {"mean_ms", times.count == 0 ? 0 : Milliseconds(times.sum) / count},
          {"p50_ms", Milliseconds(times.Quantile(0.5))},
          {"p90_ms", Milliseconds(times.Quantile(0.9))},
          {"p99_ms", Milliseconds(times.Quantile(0.99))},
          {"p999_ms", Milliseconds(times.Quantile(0.999))},
          {"max_ms", Milliseconds(times.max)}};
}

}  // namespace

const char* StageName(Stage stage) { return kStageNames[static_cast<size_t>(stage)]; }
const char* OutcomeName(Outcome outcome) { return kOutcomeNames[static_cast<size_t>(outcome)]; }

void RewardStats::CountVerdict(v1::Verdict verdict) { verdicts_[Index(verdict)].Add(); }

void RewardStats::CountScores(const v1::ScoreBatchResponse& batch) {
  std::array<uint64_t, 4> counts{};
  for (const v1::Score& score : batch.scores()) ++counts[Index(score.verdict())];
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) verdicts_[i].Add(counts[i]);
  }
}

std::string RewardStats::Json() const {
  nlohmann::ordered_json json;
  for (int i = 0; i < kOutcomes; ++i) json["requests"][kOutcomeNames[i]] = outcomes_[i].Read();
  for (size_t i = 1; i < verdicts_.size(); ++i) {
    json["verdicts"][kVerdictNames[i]] = verdicts_[i].Read();
  }
  json["slow_samples"] = slow_.Read();
  for (int i = 0; i < kStages; ++i) json["stages"][kStageNames[i]] = ToJson(stages_[i].Read());
  return json.dump();
}

std::string RewardStats::Summary() const {
  std::string text;
  for (int i = 0; i < kOutcomes; ++i) {
    absl::StrAppend(&text, kOutcomeNames[i], "=", outcomes_[i].Read(), " ");
  }
  for (size_t i = 1; i < verdicts_.size(); ++i) {
    absl::StrAppend(&text, kVerdictNames[i], "=", verdicts_[i].Read(), " ");
  }
  absl::StrAppend(&text, "slow_samples=", slow_.Read());
  for (int i = 0; i < kStages; ++i) {
    const Histogram::Snapshot times = stages_[i].Read();
    absl::StrAppendFormat(&text, " %s_p50_ms=%.3f %s_p99_ms=%.3f", kStageNames[i],
                          Milliseconds(times.Quantile(0.5)), kStageNames[i],
                          Milliseconds(times.Quantile(0.99)));
  }
  return text;
}

}  // namespace espalier::reward
