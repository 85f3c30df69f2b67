// The listening server of every service.
#include "libs/rpc/server.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/rpc/call_metrics.h"
#include "libs/rpc/call_traces.h"

namespace espalier::rpc {
namespace {

class GrpcServer final : public RpcServer {
 public:
  GrpcServer(std::unique_ptr<grpc::Server> server, std::string address,
             std::unique_ptr<grpc::Server> health, std::string health_address)
      : server_(std::move(server)),
        address_(std::move(address)),
        health_(std::move(health)),
        health_address_(std::move(health_address)) {}
  ~GrpcServer() override { Shutdown(absl::Seconds(1)); }

  std::string address() const override { return address_; }
  std::string health_address() const override { return health_address_; }
  void SetServing(bool serving) override {
    server_->GetHealthCheckService()->SetServingStatus(serving);
    if (health_ != nullptr) health_->GetHealthCheckService()->SetServingStatus(serving);
  }
  void Shutdown(absl::Duration grace) override {
    if (down_) return;
    down_ = true;
    SetServing(false);
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
    server_->Wait();
    // Probes are answered until the last call has ended.
    if (health_ == nullptr) return;
    health_->Shutdown(std::chrono::system_clock::now());
    health_->Wait();
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  const std::string address_;
  std::unique_ptr<grpc::Server> health_;
  const std::string health_address_;
  bool down_ = false;
};

absl::StatusOr<std::string> HostOf(const std::string& flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon != std::string::npos && colon + 1 != address.size()) return address.substr(0, colon);
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": address \"", address, "\" is not host:port"));
}

absl::Status InUse(const std::string& flag, const std::string& address) {
  return absl::UnavailableError(absl::StrCat(
      "address ", address,
      " is in use or not of this machine: stop what listens there or pass another ", flag));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const ServerOptions& options, const std::vector<grpc::Service*>& services) {
  ASSIGN_OR_RETURN(const std::string host, HostOf("--listen", options.address));
  if (!options.insecure && !options.security.tls() && !IsLoopback(host)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address ", options.address,
        " is not loopback and the connection would be plaintext: give --tls-cert and --tls-key, "
        "listen on 127.0.0.1, or pass --insecure inside a network that you trust"));
  }
  ASSIGN_OR_RETURN(const auto credentials,
                   MakeServerCredentials(options.security, IsLoopback(host)));
  static const bool plugins = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)plugins;

  int port = 0;
  grpc::ServerBuilder builder;
  // gRPC shares ports between processes by default: two coordinators would each get half of the
  // calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Workers ping through long silences; do not take that for abuse.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.AddListeningPort(options.address, credentials, &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  if (options.metrics != nullptr) interceptors.push_back(MakeCallCounter(options.metrics));
  if (options.spans != nullptr) interceptors.push_back(MakeServerTracer(options.spans));
  if (!interceptors.empty()) {
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
  }
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) return InUse("--listen", options.address);
  std::unique_ptr<grpc::Server> health;
  std::string health_address;
  if (!options.health_address.empty()) {
    ASSIGN_OR_RETURN(const std::string health_host,
                     HostOf("--health-listen", options.health_address));
    grpc::ServerBuilder health_builder;
    int health_port = 0;
    health_builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    health_builder.AddListeningPort(options.health_address, grpc::InsecureServerCredentials(),
                                    &health_port);
    health = health_builder.BuildAndStart();
    if (health == nullptr || health_port == 0)
      return InUse("--health-listen", options.health_address);
    health_address = absl::StrCat(health_host, ":", health_port);
  }
  auto result = std::make_unique<GrpcServer>(std::move(server), absl::StrCat(host, ":", port),
                                             std::move(health), health_address);
  result->SetServing(true);
  return result;
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Despite its name this is what one attempt may take, TLS and all. It goes on only while a call
  // or a wait on the channel polls.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  // Proxies of the environment are for the outside world, not for a cluster's own services.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeClientTracer());
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, MakeChannelCredentials(address), arguments, std::move(interceptors));
}

bool AwaitConnected(grpc::Channel& channel, absl::Duration patience) {
  return channel.WaitForConnected(std::chrono::system_clock::now() +
                                  absl::ToChronoMilliseconds(patience));
}

}  // namespace espalier::rpc
