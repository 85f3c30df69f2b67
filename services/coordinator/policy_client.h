// PolicyClient: questions to PolicyServices of runs, asked without blocking and ended with the client.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "espalier/v1/policy_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace espalier::coordinator {

// Thread-safe.
class PolicyClient {
 public:
  using Answered = std::function<void(const grpc::Status&, const v1::DecidePlanResponse&)>;

  PolicyClient() = default;
  ~PolicyClient() { Shutdown(); }

  // `answered` is called once, on a thread of gRPC's, at `deadline` at the latest; at once after
  // Shutdown.
  void Ask(const std::string& address, v1::DecidePlanRequest request, absl::Duration deadline,
           Answered answered);
  // Cancels what is asked and waits until everybody was answered.
  void Shutdown();

 private:
  struct Call;
  // Channels are kept: at most this many, whichever was opened first goes.
  static constexpr size_t kChannelsMax = 64;

  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address);

  std::mutex mutex_;
  std::condition_variable idle_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;  // guarded, as all below
  std::set<std::shared_ptr<Call>> calls_;
  bool stopping_ = false;
};

}  // namespace espalier::coordinator
