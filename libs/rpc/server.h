// RpcServer and channels: one way to listen and to call for every service: health, reflection,
// deadlines, message limits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "libs/rpc/security.h"

namespace espalier::observe {
class Metrics;
class SpanSink;
}  // namespace espalier::observe

namespace espalier::rpc {

constexpr int kMessageBytesMax = 64 << 20;

absl::Status FromGrpc(const grpc::Status& status);
grpc::Status ToGrpc(const absl::Status& status);

struct ServerOptions {
  std::string address = "127.0.0.1:0";  // host:port; port 0 takes a free one
  bool insecure = false;                // plaintext beyond loopback
  ServerSecurity security;
  observe::Metrics* metrics = nullptr;  // counts calls into; must know CallMetricTable and outlive
  std::string metrics_address;          // host:port that ServeMetrics serves; empty: none
  std::string health_address;  // host:port of a plaintext port for health alone; empty: none
  // Spans of calls whose caller traces them; may be null. Outlives the server.
  observe::SpanSink* spans = nullptr;
};

// A listening server with health checking and reflection. Destruction shuts it down within a
// bounded time.
class RpcServer {
 public:
  // kUnavailable names the address when the port is in use. The services must outlive the server.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const ServerOptions& options, const std::vector<grpc::Service*>& services);
  virtual ~RpcServer() = default;
  virtual std::string address() const = 0;         // host:port as bound
  virtual std::string health_address() const = 0;  // likewise; empty without one
  virtual void SetServing(bool serving) = 0;
  // Stops taking calls, cancels those left after `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

// Secured as UseClientSecurity said. Calls carry the trace of the thread that makes them
// (observe::TraceScope).
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// Blocks until the channel is connected, at most `patience`; false when it is not. Blocking calls
// drive a connection only while they run, and on a channel that has failed once they end at once:
// who tries again without this may never see a handshake of TLS come to its end.
bool AwaitConnected(grpc::Channel& channel, absl::Duration patience);

// Blocks until SIGINT or SIGTERM (call BlockTerminationSignals() first thing in main, before any
// thread starts), or until `stop` returns true (polled).
void BlockTerminationSignals();
void WaitForTermination(const std::function<bool()>& stop = {});

}  // namespace espalier::rpc
