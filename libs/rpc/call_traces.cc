// Interceptors of both sides: metadata at the begin of a call, a span at its end.
#include "libs/rpc/call_traces.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "grpcpp/grpcpp.h"
#include "libs/base/status_macros.h"
#include "libs/observe/step_sampler.h"
#include "libs/observe/trace_context.h"
#include "libs/rpc/server.h"

namespace espalier::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using observe::Span;
using observe::SpanContext;

constexpr const char* kTraceparent = "traceparent";
// "PROCESS NANOS": when the call was sent, on the coordinator's clock, and by whom.
constexpr const char* kSentAt = "espalier-sent-at";
// Callers whose clocks are remembered; beyond them all are forgotten.
constexpr size_t kCallersMax = 4096;

// Names this process among those that call a server.
const std::string& ProcessName() {
  static const std::string name = absl::StrCat(absl::Hex(observe::RandomSpanId()));
  return name;
}

// "/package.Service/Method" without the slash.
std::string NameOf(const char* method) { return *method == '/' ? method + 1 : method; }

std::string ErrorOf(const grpc::Status& status) {
  if (status.ok()) return "";
  // The message may quote what the caller sent; the code says enough.
  return absl::StrCat("gRPC code ", status.error_code());
}

// The clocks of callers as this server sees them. Thread-safe.
class CallerClocks {
 public:
  // What to subtract from this clock for a call that `caller` sent at `sent`.
  int64_t Correction(const std::string& caller, int64_t sent, int64_t received) {
    std::lock_guard lock(mutex_);
    if (callers_.size() >= kCallersMax && callers_.count(caller) == 0) callers_.clear();
    return callers_[caller].Add(sent, received);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, observe::OneWayOffset> callers_;  // guarded by mutex_
};

struct ServerShared {
  observe::SpanSink* sink;
  CallerClocks clocks;
};

class ServerTracer final : public grpc::experimental::Interceptor {
 public:
  ServerTracer(ServerShared* shared, const char* method)
      : shared_(shared), method_(method), clock_(observe::TraceClock::Make(0)) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      Begin(methods->GetRecvInitialMetadata());
    }
    if (sampled_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      span_.end_nanos = clock_.Now();
      span_.error = ErrorOf(methods->GetSendStatus());
      sampled_ = false;
      shared_->sink->Add({std::move(span_)});
    }
    methods->Proceed();
  }

 private:
  void Begin(const std::multimap<grpc::string_ref, grpc::string_ref>* metadata) {
    if (metadata == nullptr) return;
    const auto found = metadata->find(kTraceparent);
    if (found == metadata->end()) return;
    const auto context = observe::ParseTraceparent({found->second.data(), found->second.size()});
    if (!context.has_value() || !context->sampled) return;
    sampled_ = true;
    if (const auto sent = metadata->find(kSentAt); sent != metadata->end()) {
      Correct(std::string(sent->second.data(), sent->second.size()));
    }
    span_.trace = context->trace;
    span_.parent = context->span;
    span_.span = observe::RandomSpanId();
    span_.name = NameOf(method_);
    span_.kind = observe::SpanKind::kServer;
    span_.attributes.emplace_back("rpc.system", std::string("grpc"));
    span_.start_nanos = clock_.Now();
  }

  void Correct(const std::string& sent_at) {
    const size_t space = sent_at.find(' ');
    int64_t sent = 0;
    constexpr size_t kNameMax = 32;
    if (space == std::string::npos || space > kNameMax ||
        !absl::SimpleAtoi(sent_at.substr(space + 1), &sent) || sent <= 0) {
      return;  // Somebody else's word: the span stays on this clock.
    }
    clock_.base -= shared_->clocks.Correction(sent_at.substr(0, space), sent, clock_.Now());
  }

  ServerShared* const shared_;
  const char* const method_;
  observe::TraceClock clock_;
  bool sampled_ = false;
  Span span_;
};

class ServerTracers final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit ServerTracers(observe::SpanSink* sink) { shared_.sink = sink; }
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new ServerTracer(&shared_, info->method());
  }

 private:
  ServerShared shared_;
};

class ClientTracer final : public grpc::experimental::Interceptor {
 public:
  ClientTracer(const observe::CurrentTrace& current, const char* method) : current_(current) {
    span_.trace = current.context.trace;
    span_.parent = current.context.span;
    // Without a sink nobody would hear of a span of our own: the caller's is passed on.
    span_.span = current.sink == nullptr ? current.context.span : observe::RandomSpanId();
    span_.name = NameOf(method);
    span_.kind = observe::SpanKind::kClient;
    span_.attributes.emplace_back("rpc.system", std::string("grpc"));
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      span_.start_nanos = current_.clock.Now();
      auto* metadata = methods->GetSendInitialMetadata();
      metadata->emplace(kTraceparent, observe::FormatTraceparent(
                                          {span_.trace, span_.span, current_.context.sampled}));
      if (current_.sink != nullptr) {
        metadata->emplace(kSentAt, absl::StrCat(ProcessName(), " ", span_.start_nanos));
      }
    }
    if (current_.sink != nullptr &&
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_STATUS)) {
      span_.end_nanos = current_.clock.Now();
      if (const grpc::Status* status = methods->GetRecvStatus()) span_.error = ErrorOf(*status);
      if (span_.start_nanos > 0) current_.sink->Add({std::move(span_)});
    }
    methods->Proceed();
  }

 private:
  const observe::CurrentTrace current_;
  Span span_;
};

class ClientTracers final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    const observe::CurrentTrace* current = observe::GetCurrentTrace();
    if (current == nullptr || !current->context.valid()) return nullptr;
    return new ClientTracer(*current, info->method());
  }
};

absl::Status BadEndpoint(const std::string& endpoint) {
  return absl::InvalidArgumentError(
      absl::StrCat("--otlp-endpoint: \"", endpoint,
                   "\" is not http://host:port (plaintext) or https://host:port (TLS); OTLP over "
                   "gRPC usually listens on port 4317"));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CollectorCredentials(
    const TraceOptions& options, bool tls) {
  if (!tls) {
    if (options.authorities.empty()) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError(
        "--otlp-ca needs an https:// --otlp-endpoint: http:// is plaintext");
  }
  grpc::SslCredentialsOptions ssl;
  if (!options.authorities.empty()) {
    std::ifstream file(options.authorities, std::ios::binary);
    std::ostringstream content;
    if (file) content << file.rdbuf();
    ssl.pem_root_certs = content.str();
    if (!absl::StrContains(ssl.pem_root_certs, "BEGIN CERTIFICATE")) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--otlp-ca: ", options.authorities, " cannot be read or holds no PEM certificate"));
    }
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::unique_ptr<observe::OtlpExporter>> MakeOtlpExporter(const TraceOptions& options,
                                                                        const std::string& service,
                                                                        const std::string& instance,
                                                                        observe::Metrics* metrics) {
  if (options.endpoint.empty()) {
    if (options.authorities.empty()) return nullptr;
    return absl::InvalidArgumentError("--otlp-ca needs --otlp-endpoint");
  }
  absl::string_view address = options.endpoint;
  const bool tls = absl::ConsumePrefix(&address, "https://");
  if (!tls && !absl::ConsumePrefix(&address, "http://")) return BadEndpoint(options.endpoint);
  absl::ConsumeSuffix(&address, "/");
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 || absl::StrContains(address, "/") ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return BadEndpoint(options.endpoint);
  }
  ASSIGN_OR_RETURN(const auto credentials, CollectorCredentials(options, tls));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  observe::OtlpOptions otlp;
  otlp.service = service;
  otlp.instance = instance;
  otlp.metrics = metrics;
  return std::make_unique<observe::OtlpExporter>(
      grpc::CreateCustomChannel(std::string(address), credentials, arguments), std::move(otlp));
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracer(
    observe::SpanSink* sink) {
  return std::make_unique<ServerTracers>(sink);
}

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracer() {
  return std::make_unique<ClientTracers>();
}

}  // namespace espalier::rpc
