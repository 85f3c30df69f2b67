// The four RPCs of RewardService over libs/reward. Stateless; every call may run at once.
#pragma once

#include <memory>

#include "grpcpp/impl/service_type.h"

namespace espalier::reward_service {

constexpr int kTracesMax = 4096;           // of one batch
constexpr int kTraceBytesMax = 4 << 20;    // of one trace
constexpr int kReferenceBytesMax = 64 << 10;

std::unique_ptr<grpc::Service> MakeRewardService();

}  // namespace espalier::reward_service
