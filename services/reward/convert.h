// Between the messages of RewardService and the structs of libs/reward: limits checked, defaults
// resolved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "espalier/v1/reward_service.pb.h"
#include "libs/reward/reward.h"

namespace espalier::reward {

inline constexpr size_t kTraceBytesMax = 1 << 20;
inline constexpr size_t kReferenceBytesMax = 64 << 10;
inline constexpr int kBatchTracesMax = 1024;

// Absent fields take the values of the preset, or the defaults of their rules. InvalidArgument
// names the field
// ("reward.reflection_max"), what was found and what is allowed; an unknown preset, those there
// are.
absl::StatusOr<RewardOptions> ToOptions(const v1::RewardSpec& spec);

// The scores of one group, in its order; InvalidArgument names the bad field.
absl::StatusOr<v1::ScoreBatchResponse> ScoreBatch(const v1::ScoreBatchRequest& request);
absl::StatusOr<v1::ScoreTraceResponse> ScoreTrace(const v1::ScoreTraceRequest& request);
absl::StatusOr<v1::VerifyAnswerResponse> Verify(const v1::VerifyAnswerRequest& request);

}  // namespace espalier::reward
