// RemoteScorer: the trainer's rewards, from the reward service.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/train/controller.h"

namespace espalier::worker {

// One call a group, up to kInFlightMax at once. A service that is away is tried again until
// `patience` is over: a rollout is too dear to throw away for a restart. Not thread-safe.
class RemoteScorer : public train::TraceScorer {
 public:
  static constexpr size_t kInFlightMax = 64;

  // `cancelled` is polled while waiting; true ends with kAborted.
  RemoteScorer(const std::string& address, std::function<bool()> cancelled,
               absl::Duration patience = absl::Minutes(10));

  absl::StatusOr<std::vector<v1::ScoreBatchResponse>> Score(
      const std::vector<v1::ScoreBatchRequest>& groups) override;

 private:
  // Calls for `wanted` (indices into groups) at once; responses and statuses land at the same
  // indices.
  void CallAll(const std::vector<v1::ScoreBatchRequest>& groups, const std::vector<size_t>& wanted,
               std::vector<v1::ScoreBatchResponse>& responses, std::vector<grpc::Status>& statuses);

  const std::string address_;
  const std::function<bool()> cancelled_;
  const absl::Duration patience_;
  const std::unique_ptr<v1::RewardService::Stub> stub_;
};

}  // namespace espalier::worker
