// RewardService's four calls over an engine, and how they end when the service drains.
#pragma once

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "services/reward/engine.h"

namespace espalier::reward {

// What one stream may have read and not yet answered; the client's next write waits beyond either.
inline constexpr size_t kStreamInFlightMax = 8;
inline constexpr size_t kStreamBytesMax = 2 << 20;  // one batch may be larger

// Thread-safe.
class RewardService {
 public:
  // `engine` must outlive the server that grpc() is registered with.
  static std::unique_ptr<RewardService> Make(ScoreEngine* engine);
  virtual ~RewardService() = default;
  virtual grpc::Service* grpc() = 0;
  // New calls are refused with UNAVAILABLE from now on. What was read is answered; streams end when
  // theirs is. The engine's gate tells when all have left.
  virtual void BeginDrain() = 0;
};

}  // namespace espalier::reward
