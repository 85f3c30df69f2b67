// Between the contract's messages and libs/reward's structs.
#pragma once

#include "absl/status/status.h"
#include "espalier/v1/reward_service.pb.h"
#include "libs/reward/reward.h"

namespace espalier::reward_service {

// InvalidArgument names the field that is out of its limits. Absent fields take the defaults of RewardSpec's rules.
absl::Status ToOptions(const v1::RewardSpec& spec, reward::RewardOptions* options);
v1::Score ToProto(const v1::Trace& trace, const reward::TraceScore& score);
v1::Verdict ToProto(reward::Verdict verdict);

}  // namespace espalier::reward_service
