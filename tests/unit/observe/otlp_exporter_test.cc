// Goal: spans reach a collector, and one that is away, slow or unwilling neither blocks the giver
// nor goes unnoticed. Method: a collector in this process, stopped, delayed and started again on
// its port.
#include "libs/observe/otlp_exporter.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "otlp_trace.grpc.pb.h"

namespace espalier::observe {
namespace {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

class Collector final : public otlp::TraceService::Service {
 public:
  grpc::Status Export(grpc::ServerContext* context, const otlp::ExportTraceServiceRequest* request,
                      otlp::ExportTraceServiceResponse* response) override {
    const absl::Time until = absl::Now() + absl::Milliseconds(delay_ms.load());
    while (absl::Now() < until && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    if (context->IsCancelled()) return {grpc::StatusCode::CANCELLED, "too late"};
    if (refuses) return {grpc::StatusCode::INVALID_ARGUMENT, "not wanted"};
    response->mutable_partial_success()->set_rejected_spans(rejected);
    std::lock_guard lock(mutex);
    requests.push_back(*request);
    for (const auto& resource : request->resource_spans()) {
      for (const auto& scope : resource.scope_spans()) {
        for (const otlp::Span& span : scope.spans()) names.push_back(span.name());
      }
    }
    return grpc::Status::OK;
  }
  size_t count() {
    std::lock_guard lock(mutex);
    return names.size();
  }

  std::atomic<int> delay_ms = 0;
  std::atomic<bool> refuses = false;
  std::atomic<int> rejected = 0;
  std::mutex mutex;
  std::vector<std::string> names;
  std::vector<otlp::ExportTraceServiceRequest> requests;
};

class OtlpExporterTest : public ::testing::Test {
 protected:
  void Listen() {
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(&collector_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void Hang() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  std::unique_ptr<OtlpExporter> Make(OtlpOptions options = {}) {
    options.service = "test";
    options.metrics = &metrics_;
    options.batch_wait = absl::Milliseconds(10);
    options.retry_first = absl::Milliseconds(20);
    options.retry_max = absl::Milliseconds(100);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
    return std::make_unique<OtlpExporter>(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port_),
                                  grpc::InsecureChannelCredentials(), arguments),
        options);
  }
  static std::vector<Span> Spans(int count, int from = 0) {
    std::vector<Span> spans(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      spans[i].trace = TraceOfStep("r", 1);
      spans[i].span = ChildOf(1, i);
      spans[i].name = absl::StrCat("s", from + i);
      spans[i].start_nanos = 100;
      spans[i].end_nanos = 200;
    }
    return spans;
  }
  template <typename Condition>
  static bool Within(absl::Duration time, const Condition& condition) {
    const absl::Time until = absl::Now() + time;
    while (!condition()) {
      if (absl::Now() > until) return false;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return true;
  }
  bool Counted(const std::string& line) {
    return Within(absl::Seconds(10),
                  [&] { return metrics_.Text().find(line + "\n") != std::string::npos; });
  }

  const std::array<std::span<const MetricSpec>, 1> tables_ = {TraceMetricTable()};
  Metrics metrics_{tables_};
  int port_ = 0;
  Collector collector_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(OtlpExporterTest, SendsWhatASpanHolds) {
  Listen();
  const auto exporter = Make();
  Span span = Spans(1)[0];
  span.parent = 0x0102030405060708;
  span.kind = SpanKind::kClient;
  span.attributes = {{"tokens", int64_t{7}}, {"share", 0.5}, {"stage", std::string("pretrain")}};
  span.links = {{TraceOfDecision("r", "d-1"), 9, true}};
  span.error = "gRPC code 14";
  exporter->Add({span});
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return collector_.count() == 1; }));
  std::lock_guard lock(collector_.mutex);
  const otlp::ResourceSpans& resource = collector_.requests[0].resource_spans(0);
  EXPECT_EQ(resource.resource().attributes(1).key(), "service.name");
  EXPECT_EQ(resource.resource().attributes(1).value().string_value(), "test");
  const otlp::Span& sent = resource.scope_spans(0).spans(0);
  EXPECT_EQ(sent.trace_id().size(), 16u);
  EXPECT_EQ(sent.span_id().size(), 8u);
  EXPECT_EQ(sent.parent_span_id(), std::string("\x01\x02\x03\x04\x05\x06\x07\x08"));
  EXPECT_EQ(sent.kind(), otlp::Span::SPAN_KIND_CLIENT);
  EXPECT_EQ(sent.start_time_unix_nano(), 100u);
  EXPECT_EQ(sent.end_time_unix_nano(), 200u);
  EXPECT_EQ(sent.attributes(0).value().int_value(), 7);
  EXPECT_EQ(sent.attributes(1).value().double_value(), 0.5);
  EXPECT_EQ(sent.attributes(2).value().string_value(), "pretrain");
  EXPECT_EQ(sent.links(0).span_id(), std::string("\0\0\0\0\0\0\0\x09", 8));
  EXPECT_EQ(sent.status().code(), otlp::Status::STATUS_CODE_ERROR);
}

TEST_F(OtlpExporterTest, KeepsOrderOverBatches) {
  Listen();
  OtlpOptions options;
  options.batch_spans_max = 10;
  const auto exporter = Make(options);
  for (int i = 0; i < 100; i += 4) exporter->Add(Spans(4, i));
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return collector_.count() == 100; }));
  std::lock_guard lock(collector_.mutex);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(collector_.names[i], absl::StrCat("s", i));
  for (const auto& request : collector_.requests)
    EXPECT_LE(request.resource_spans(0).scope_spans(0).spans_size(), 10);
}

TEST_F(OtlpExporterTest, DropsAndCountsWhatACollectorThatIsAwayCannotTake) {
  Listen();
  Hang();
  OtlpOptions options;
  options.call_timeout = absl::Milliseconds(200);
  const auto exporter = Make(options);
  const absl::Time began = absl::Now();
  const int batches = static_cast<int>(OtlpExporter::kWaitingMax) / 1024 + 4;
  for (int i = 0; i < batches; ++i) exporter->Add(Spans(1024));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5)) << "giving must not wait for the network";
  // One batch may be under way; the rest of the room is full.
  EXPECT_TRUE(Within(absl::Seconds(10), [&] {
    return metrics_.Text().find("espalier_trace_spans_dropped_total{reason=\"queue_full\"}") !=
           std::string::npos;
  }));

  Listen();
  ASSERT_TRUE(Within(absl::Seconds(30), [&] {
    return collector_.count() >= OtlpExporter::kWaitingMax;
  })) << collector_.count();
  const size_t before = collector_.count();
  exporter->Add(Spans(1));
  EXPECT_TRUE(Within(absl::Seconds(20), [&] { return collector_.count() > before; }));
}

TEST_F(OtlpExporterTest, ASlowCollectorBlocksNobody) {
  Listen();
  collector_.delay_ms = 300;
  const auto exporter = Make();
  const absl::Time began = absl::Now();
  for (int i = 0; i < 1000; ++i) exporter->Add(Spans(1, i));
  EXPECT_LT(absl::Now() - began, absl::Milliseconds(1500));
  EXPECT_TRUE(Within(absl::Seconds(30), [&] { return collector_.count() == 1000; }));
}

TEST_F(OtlpExporterTest, CountsWhatIsRefused) {
  Listen();
  collector_.refuses = true;
  const auto exporter = Make();
  exporter->Add(Spans(3));
  EXPECT_TRUE(Counted("espalier_trace_spans_dropped_total{reason=\"refused\"} 3"));
  collector_.refuses = false;
  collector_.rejected = 1;
  exporter->Add(Spans(4));
  EXPECT_TRUE(Counted("espalier_trace_spans_dropped_total{reason=\"refused\"} 4"));
  EXPECT_TRUE(Counted("espalier_trace_spans_exported_total 3"));
}

TEST_F(OtlpExporterTest, SendsWhatIsLeftBeforeItLeaves) {
  Listen();
  auto exporter = Make();
  exporter->Add(Spans(50));
  exporter.reset();
  EXPECT_EQ(collector_.count(), 50u);
}

TEST_F(OtlpExporterTest, LeavesInTimeWhenNobodyListens) {
  Listen();
  Hang();
  OtlpOptions options;
  options.goodbye = absl::Milliseconds(300);
  auto exporter = Make(options);
  exporter->Add(Spans(50));
  const absl::Time began = absl::Now();
  exporter.reset();
  EXPECT_LT(absl::Now() - began, absl::Seconds(10));
  EXPECT_TRUE(Counted("espalier_trace_spans_dropped_total{reason=\"shutdown\"} 50"));
}

}  // namespace
}  // namespace espalier::observe
