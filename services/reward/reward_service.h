// RewardService's four calls over a pool of scoring threads.
#pragma once

#include <memory>

#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/service_type.h"
#include "services/reward/score_pool.h"

namespace espalier::reward {

// Batches of one stream that are read ahead of their answers; the client's next write waits beyond
// that.
inline constexpr size_t kStreamInFlightMax = 8;

// `pool` must outlive the server that the service is registered with: accepted calls are answered
// by it, also while shutting down.
std::unique_ptr<grpc::Service> MakeRewardService(ScorePool* pool);

}  // namespace espalier::reward
