// An interceptor a call: it starts a clock, and reads it when the status is sent.
#include "libs/rpc/call_metrics.h"

#include <string>

#include "absl/time/clock.h"
#include "libs/observe/log.h"

namespace espalier::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;
using observe::MetricKind;

const observe::MetricSpec kTable[] = {
    {"espalier_grpc_calls_total",
     MetricKind::kCounter,
     "1",
     {"method", "code"},
     "Calls that ended, by method (/package.Service/Method) and gRPC code."},
    {"espalier_grpc_call_seconds",
     MetricKind::kHistogram,
     "seconds",
     {"method"},
     "Duration of a unary call in the server; streams are not timed.",
     observe::Buckets(0.0001, 2, 18)},
    {"espalier_grpc_open_streams", MetricKind::kGauge, "1", {"method"}, "Streams that are open."},
};

const char* CodeName(grpc::StatusCode code) {
  static const char* const kNames[] = {"OK",
                                       "CANCELLED",
                                       "UNKNOWN",
                                       "INVALID_ARGUMENT",
                                       "DEADLINE_EXCEEDED",
                                       "NOT_FOUND",
                                       "ALREADY_EXISTS",
                                       "PERMISSION_DENIED",
                                       "RESOURCE_EXHAUSTED",
                                       "FAILED_PRECONDITION",
                                       "ABORTED",
                                       "OUT_OF_RANGE",
                                       "UNIMPLEMENTED",
                                       "INTERNAL",
                                       "UNAVAILABLE",
                                       "DATA_LOSS",
                                       "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "UNKNOWN";
}

struct Shared {
  observe::Metrics* metrics;
  std::mutex mutex;
  std::unordered_map<std::string, int> open;  // guarded by mutex

  void Open(const std::string& method, int change) {
    std::lock_guard lock(mutex);
    metrics->Set("espalier_grpc_open_streams", {method}, open[method] += change);
  }
};

class Counter final : public grpc::experimental::Interceptor {
 public:
  Counter(Shared* shared, const grpc::experimental::ServerRpcInfo* info)
      : shared_(shared),
        method_(info->method()),
        streams_(info->type() != grpc::experimental::ServerRpcInfo::Type::UNARY),
        began_(absl::Now()) {
    if (streams_) shared_->Open(method_, 1);
  }
  ~Counter() override {
    if (streams_) shared_->Open(method_, -1);
    // A call that ended without a status was given up by its caller.
    shared_->metrics->Add("espalier_grpc_calls_total", {method_, CodeName(code_)});
  }
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
      if (!streams_) {
        shared_->metrics->Observe("espalier_grpc_call_seconds", {method_},
                                  absl::ToDoubleSeconds(absl::Now() - began_));
      }
    }
    methods->Proceed();
  }

 private:
  Shared* const shared_;
  const std::string method_;
  const bool streams_;
  const absl::Time began_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(observe::Metrics* metrics) { shared_.metrics = metrics; }
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new Counter(&shared_, info);
  }

 private:
  Shared shared_;
};

}  // namespace

std::span<const observe::MetricSpec> CallMetricTable() { return kTable; }

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallCounter(
    observe::Metrics* metrics) {
  return std::make_unique<Factory>(metrics);
}

absl::StatusOr<std::unique_ptr<observe::MetricsServer>> ServeMetrics(const ServerOptions& options) {
  if (options.metrics == nullptr || options.metrics_address.empty()) return nullptr;
  auto server = observe::MetricsServer::Start(options.metrics_address, *options.metrics);
  if (server.ok()) {
    LOG(INFO) << "metrics_listening address=" << options.metrics_address
              << " port=" << (*server)->port();
  }
  return server;
}

}  // namespace espalier::rpc
