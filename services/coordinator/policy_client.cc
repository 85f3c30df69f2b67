// A call owns its context and messages until its callback has run.
#include "services/coordinator/policy_client.h"

#include <utility>

#include "absl/time/clock.h"
#include "libs/rpc/server.h"

namespace espalier::coordinator {

struct PolicyClient::Call {
  grpc::ClientContext context;
  v1::DecidePlanRequest request;
  v1::DecidePlanResponse response;
  std::unique_ptr<v1::PolicyService::Stub> stub;
};

std::shared_ptr<grpc::Channel> PolicyClient::ChannelTo(const std::string& address) {
  auto& channel = channels_[address];
  if (channel == nullptr) {
    channel = rpc::MakeChannel(address);
    if (channels_.size() > kChannelsMax) {
      // Calls that are under way keep theirs.
      for (auto it = channels_.begin(); it != channels_.end(); ++it) {
        if (it->first == address) continue;
        channels_.erase(it);
        break;
      }
    }
  }
  return channels_.at(address);
}

void PolicyClient::Ask(const std::string& address, v1::DecidePlanRequest request,
                       absl::Duration deadline, Answered answered) {
  const auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  {
    std::lock_guard lock(mutex_);
    if (stopping_) {
      answered(grpc::Status(grpc::StatusCode::CANCELLED, "the coordinator is stopping"), {});
      return;
    }
    call->stub = v1::PolicyService::NewStub(ChannelTo(address));
    calls_.insert(call);
  }
  call->stub->async()->DecidePlan(
      &call->context, &call->request, &call->response,
      [this, call, answered = std::move(answered)](const grpc::Status& status) {
        answered(status, call->response);
        std::lock_guard lock(mutex_);
        calls_.erase(call);
        if (calls_.empty()) idle_.notify_all();
      });
}

void PolicyClient::Shutdown() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  for (const auto& call : calls_) call->context.TryCancel();
  idle_.wait(lock, [this] { return calls_.empty(); });
}

}  // namespace espalier::coordinator
