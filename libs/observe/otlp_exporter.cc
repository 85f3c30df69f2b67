// One batch is under way at a time; it is kept until the collector has it or has refused it.
#include "libs/observe/otlp_exporter.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "libs/observe/log.h"
#include "otlp_trace.grpc.pb.h"

namespace espalier::observe {
namespace {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

const MetricSpec kTable[] = {
    {"espalier_trace_spans_exported_total",
     MetricKind::kCounter,
     "1",
     {},
     "Spans that the collector took."},
    {"espalier_trace_spans_dropped_total",
     MetricKind::kCounter,
     "1",
     {"reason"},
     "Spans that never reached the collector: queue_full (it is away or slow), refused (it wants "
     "them not), shutdown (it was away at the end)."},
};

std::string BigEndian(SpanId id) {
  std::string bytes(8, '\0');
  for (int i = 7; i >= 0; --i, id >>= 8) bytes[static_cast<size_t>(i)] = static_cast<char>(id);
  return bytes;
}

std::string Bytes(const TraceId& id) { return {id.bytes.begin(), id.bytes.end()}; }

void Set(otlp::KeyValue* to, const std::string& key, const AttributeValue& value) {
  to->set_key(key);
  otlp::AnyValue* any = to->mutable_value();
  if (const auto* number = std::get_if<int64_t>(&value)) any->set_int_value(*number);
  if (const auto* real = std::get_if<double>(&value)) any->set_double_value(*real);
  if (const auto* text = std::get_if<std::string>(&value)) any->set_string_value(*text);
}

otlp::Span::SpanKind KindOf(SpanKind kind) {
  switch (kind) {
    case SpanKind::kServer:
      return otlp::Span::SPAN_KIND_SERVER;
    case SpanKind::kClient:
      return otlp::Span::SPAN_KIND_CLIENT;
    case SpanKind::kInternal:
      break;
  }
  return otlp::Span::SPAN_KIND_INTERNAL;
}

void Fill(otlp::Span* to, const Span& span) {
  to->set_trace_id(Bytes(span.trace));
  to->set_span_id(BigEndian(span.span));
  if (span.parent != 0) to->set_parent_span_id(BigEndian(span.parent));
  to->set_name(span.name);
  to->set_kind(KindOf(span.kind));
  to->set_start_time_unix_nano(static_cast<uint64_t>(span.start_nanos));
  to->set_end_time_unix_nano(static_cast<uint64_t>(span.end_nanos));
  for (const auto& [key, value] : span.attributes) Set(to->add_attributes(), key, value);
  for (const SpanContext& link : span.links) {
    otlp::Span::Link* linked = to->add_links();
    linked->set_trace_id(Bytes(link.trace));
    linked->set_span_id(BigEndian(link.span));
  }
  if (span.error.empty()) return;
  to->mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
  to->mutable_status()->set_message(span.error);
}

otlp::ExportTraceServiceRequest RequestOf(const OtlpOptions& options,
                                          const std::vector<Span>& batch) {
  otlp::ExportTraceServiceRequest request;
  otlp::ResourceSpans* resource = request.add_resource_spans();
  auto* attributes = resource->mutable_resource()->mutable_attributes();
  Set(attributes->Add(), "service.namespace", std::string("espalier"));
  Set(attributes->Add(), "service.name", options.service);
  if (!options.instance.empty()) Set(attributes->Add(), "service.instance.id", options.instance);
  otlp::ScopeSpans* scope = resource->add_scope_spans();
  scope->mutable_scope()->set_name("espalier");
  for (const Span& span : batch) Fill(scope->add_spans(), span);
  return request;
}

// As OTLP's specification lists them.
bool WorthRetrying(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::span<const MetricSpec> TraceMetricTable() { return kTable; }

OtlpExporter::OtlpExporter(std::shared_ptr<grpc::Channel> channel, OtlpOptions options)
    : options_(std::move(options)), channel_(std::move(channel)), thread_([this] { Loop(); }) {}

OtlpExporter::~OtlpExporter() {
  {
    std::lock_guard lock(mutex_);
    leave_at_ = absl::Now() + options_.goodbye;
  }
  wake_.notify_all();
  thread_.join();
  CountDropped("shutdown", waiting_.size());
}

void OtlpExporter::Add(std::vector<Span> spans) {
  size_t dropped = 0;
  {
    std::lock_guard lock(mutex_);
    const size_t room = kWaitingMax - std::min(kWaitingMax, waiting_.size());
    const size_t kept = std::min(room, spans.size());
    dropped = spans.size() - kept;
    std::move(spans.begin(), spans.begin() + static_cast<ptrdiff_t>(kept),
              std::back_inserter(waiting_));
  }
  wake_.notify_one();
  CountDropped("queue_full", dropped);
}

void OtlpExporter::CountDropped(const char* reason, size_t count) {
  if (count == 0 || options_.metrics == nullptr) return;
  options_.metrics->Add("espalier_trace_spans_dropped_total", {reason}, static_cast<double>(count));
}

void OtlpExporter::Loop() {
  while (true) {
    const std::vector<Span> batch = NextBatch();
    if (batch.empty()) return;
    absl::Duration pause = options_.retry_first;
    while (Send(batch) == Sent::kRetry) {
      if (!Pause(pause)) {
        CountDropped("shutdown", batch.size());
        return;
      }
      pause = std::min(pause * 2, options_.retry_max);
    }
  }
}

std::vector<Span> OtlpExporter::NextBatch() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return !waiting_.empty() || leave_at_ != absl::InfiniteFuture(); });
  wake_.wait_for(lock, absl::ToChronoMilliseconds(options_.batch_wait), [&] {
    return waiting_.size() >= options_.batch_spans_max || leave_at_ != absl::InfiniteFuture();
  });
  if (absl::Now() >= leave_at_) return {};
  const auto count = static_cast<ptrdiff_t>(std::min(options_.batch_spans_max, waiting_.size()));
  std::vector<Span> batch(std::make_move_iterator(waiting_.begin()),
                          std::make_move_iterator(waiting_.begin() + count));
  waiting_.erase(waiting_.begin(), waiting_.begin() + count);
  return batch;
}

OtlpExporter::Sent OtlpExporter::Send(const std::vector<Span>& batch) {
  absl::Time deadline = absl::Now() + options_.call_timeout;
  {
    std::lock_guard lock(mutex_);
    deadline = std::min(deadline, leave_at_);
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  // A connection that is coming up is waited for, within the deadline.
  context.set_wait_for_ready(true);
  otlp::ExportTraceServiceResponse response;
  otlp::TraceService::Stub stub(channel_);
  const grpc::Status status = stub.Export(&context, RequestOf(options_, batch), &response);
  if (!status.ok() && WorthRetrying(status.error_code())) {
    LOG_IF(WARNING, !away_said_) << "trace_collector_away cause=\"" << status.error_message()
                                 << "\" effect=\"trying again; spans beyond " << kWaitingMax
                                 << " are dropped\"";
    away_said_ = true;
    return Sent::kRetry;
  }
  const auto rejected = status.ok()
                            ? std::clamp<int64_t>(response.partial_success().rejected_spans(), 0,
                                                  static_cast<int64_t>(batch.size()))
                            : static_cast<int64_t>(batch.size());
  LOG_IF(WARNING, rejected > 0) << "trace_spans_refused count=" << rejected << " cause=\""
                                << (status.ok() ? response.partial_success().error_message()
                                                : status.error_message())
                                << "\"";
  CountDropped("refused", static_cast<size_t>(rejected));
  away_said_ = false;
  if (options_.metrics != nullptr) {
    options_.metrics->Add("espalier_trace_spans_exported_total", {},
                          static_cast<double>(batch.size()) - static_cast<double>(rejected));
  }
  return Sent::kDone;
}

bool OtlpExporter::Pause(absl::Duration time) {
  std::unique_lock lock(mutex_);
  const absl::Time until = absl::Now() + time;
  while (true) {
    // The time to leave may be set meanwhile.
    const absl::Duration left = std::min(until, leave_at_) - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::Now() < leave_at_;
    wake_.wait_for(lock, absl::ToChronoNanoseconds(left));
  }
}

}  // namespace espalier::observe
