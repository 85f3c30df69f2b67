// Calls of a server counted by service, method and code, by an interceptor; and the port of its
// metrics.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "grpcpp/support/server_interceptor.h"
#include "libs/observe/metrics.h"
#include "libs/rpc/server.h"

namespace espalier::rpc {

std::span<const observe::MetricSpec> CallMetricTable();

// `metrics` must know CallMetricTable and outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallCounter(
    observe::Metrics* metrics);

// Serves options.metrics on options.metrics_address; null when either is absent.
absl::StatusOr<std::unique_ptr<observe::MetricsServer>> ServeMetrics(const ServerOptions& options);

}  // namespace espalier::rpc
