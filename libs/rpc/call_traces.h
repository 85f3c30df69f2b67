// Traces over gRPC: W3C traceparent in and out of every call, and where finished spans are sent.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/support/client_interceptor.h"
#include "grpcpp/support/server_interceptor.h"
#include "libs/observe/metrics.h"
#include "libs/observe/otlp_exporter.h"
#include "libs/observe/span.h"

namespace espalier::rpc {

struct TraceOptions {
  std::string endpoint;     // http(s)://host:port of a collector; empty: none
  std::string authorities;  // PEM file for https; empty: the system's
};

// Null without an endpoint. InvalidArgument names the flag and what is allowed. No token and no
// certificate of the suite's own is shown to the collector.
absl::StatusOr<std::unique_ptr<observe::OtlpExporter>> MakeOtlpExporter(const TraceOptions& options,
                                                                        const std::string& service,
                                                                        const std::string& instance,
                                                                        observe::Metrics* metrics);

// A span a call whose traceparent says that it is sampled, beneath the caller's. A caller of the
// suite says when it sent the call, on the coordinator's clock: the span is moved onto that clock.
// `sink` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracer(
    observe::SpanSink* sink);

// Calls made within an observe::TraceScope carry its traceparent; their spans go to its sink.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracer();

}  // namespace espalier::rpc
