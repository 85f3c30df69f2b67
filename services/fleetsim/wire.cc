// Wire: channels with the suite's limits that do not share a connection.
#include "services/fleetsim/wire.h"

#include "absl/strings/str_cat.h"

namespace espalier::fleetsim {

Simulation::Wire::Wire(const std::string& address, uint32_t channel_count) : address(address) {
  for (uint32_t i = 0; i < channel_count; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(rpc::kMessageBytesMax);
    arguments.SetMaxSendMessageSize(rpc::kMessageBytesMax);
    // Channels of equal arguments would share one connection.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
    channels.push_back(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    fleet.push_back(v1::FleetService::NewStub(channels.back()));
  }
  const auto control = rpc::MakeChannel(address);
  runs = v1::RunService::NewStub(control);
  history = v1::HistoryService::NewStub(control);
  plans = v1::PlanService::NewStub(control);
}

absl::Status Simulation::Wire::AwaitConnected(absl::Duration timeout) const {
  for (const auto& channel : channels) {
    if (channel->WaitForConnected(std::chrono::system_clock::now() +
                                  absl::ToChronoMilliseconds(timeout)))
      continue;
    return absl::UnavailableError(absl::StrCat("--coordinator: nobody answers at ", address));
  }
  return absl::OkStatus();
}

}  // namespace espalier::fleetsim
