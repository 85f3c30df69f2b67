#include "services/worker/remote_scorer.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "libs/observe/log.h"
#include "libs/rpc/diagnosis.h"
#include "libs/rpc/server.h"

namespace espalier::worker {
namespace {

constexpr auto kCallTimeout = std::chrono::seconds(30);
constexpr absl::Duration kRetryFirst = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);

bool WorthRetrying(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
         status.error_code() == grpc::StatusCode::CANCELLED ||
         status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

}  // namespace

RemoteScorer::RemoteScorer(const std::string& address, std::function<bool()> cancelled,
                           absl::Duration patience)
    : address_(address),
      cancelled_(std::move(cancelled)),
      patience_(patience),
      stub_(v1::RewardService::NewStub(rpc::MakeChannel(address))) {}

void RemoteScorer::CallAll(const std::vector<v1::ScoreBatchRequest>& groups,
                           const std::vector<size_t>& wanted,
                           std::vector<v1::ScoreBatchResponse>& responses,
                           std::vector<grpc::Status>& statuses) {
  std::vector<grpc::ClientContext> contexts(wanted.size());
  absl::BlockingCounter open(static_cast<int>(wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const size_t group = wanted[i];
    contexts[i].set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    stub_->async()->ScoreBatch(&contexts[i], &groups[group], &responses[group],
                               [&statuses, &open, group](grpc::Status status) {
                                 statuses[group] = std::move(status);
                                 open.DecrementCount();
                               });
  }
  open.Wait();
}

absl::StatusOr<std::vector<v1::ScoreBatchResponse>> RemoteScorer::Score(
    const std::vector<v1::ScoreBatchRequest>& groups) {
  std::vector<v1::ScoreBatchResponse> responses(groups.size());
  std::vector<grpc::Status> statuses(groups.size());
  std::vector<size_t> left(groups.size());
  std::iota(left.begin(), left.end(), size_t{0});
  const absl::Time deadline = absl::Now() + patience_;
  absl::Duration pause = kRetryFirst;
  bool said = false;
  while (!left.empty()) {
    if (cancelled_ && cancelled_()) return absl::AbortedError("cancelled while scoring traces");
    const std::vector<size_t> now(left.begin(), left.begin() + std::min(left.size(), kInFlightMax));
    CallAll(groups, now, responses, statuses);
    const grpc::Status* refused = nullptr;
    for (const size_t group : now) {
      if (statuses[group].ok()) continue;
      if (!WorthRetrying(statuses[group])) {
        return absl::Status(rpc::FromGrpc(statuses[group]).code(),
                            absl::StrCat("the reward service at ", address_,
                                         " refused a batch: ", statuses[group].error_message()));
      }
      refused = &statuses[group];
    }
    left.erase(std::remove_if(left.begin(), left.begin() + static_cast<int64_t>(now.size()),
                              [&](size_t group) { return statuses[group].ok(); }),
               left.begin() + static_cast<int64_t>(now.size()));
    if (refused == nullptr) {
      pause = kRetryFirst;
      continue;
    }
    if (absl::Now() >= deadline) {
      return absl::UnavailableError(
          absl::StrCat("the reward service at ", address_, " did not answer for ",
                       absl::FormatDuration(patience_), ": ", rpc::WhyFailed(address_, *refused),
                       "; start it, or give the worker another --reward"));
    }
    if (!said) {
      LOG(WARNING) << "reward_service_away address=" << address_ << " cause=\""
                   << rpc::WhyFailed(address_, *refused) << "\" effect=\"trying again\"";
      said = true;
    }
    absl::SleepFor(pause);
    pause = std::min(pause * 2, kRetryMax);
  }
  return responses;
}

}  // namespace espalier::worker
