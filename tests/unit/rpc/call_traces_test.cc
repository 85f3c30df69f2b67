// Goal: a caller's trace goes on in the callee, on one clock, and nobody else's does. Method: a
// server and its channel in this process, health checks as calls.
#include "libs/rpc/call_traces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "absl/time/clock.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/rpc/server.h"

namespace espalier::rpc {
namespace {

using testing::HasSubstr;

class Kept final : public observe::SpanSink {
 public:
  void Add(std::vector<observe::Span> spans) override {
    std::lock_guard lock(mutex_);
    for (observe::Span& span : spans) spans_.push_back(std::move(span));
  }
  std::vector<observe::Span> spans() {
    std::lock_guard lock(mutex_);
    return spans_;
  }

 private:
  std::mutex mutex_;
  std::vector<observe::Span> spans_;  // guarded by mutex_
};

class Service final : public v1::RewardService::Service {
  grpc::Status VerifyAnswer(grpc::ServerContext*, const v1::VerifyAnswerRequest* request,
                            v1::VerifyAnswerResponse*) override {
    if (request->reference() == "bad") return {grpc::StatusCode::INVALID_ARGUMENT, "a secret"};
    return grpc::Status::OK;
  }
};

class CallTraces : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.spans = &served_;
    auto server = RpcServer::Start(options, {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::RewardService::NewStub(MakeChannel(server_->address()));
  }
  grpc::Status Call(const std::string& reference = "") {
    grpc::ClientContext context;
    v1::VerifyAnswerRequest request;
    request.set_reference(reference);
    v1::VerifyAnswerResponse response;
    return stub_->VerifyAnswer(&context, request, &response);
  }
  observe::CurrentTrace Current(bool sampled, int64_t clock_nanos) {
    return {{observe::TraceOfStep("r", 1), 77, sampled},
            observe::TraceClock::Make(clock_nanos),
            called_};
  }

  Kept served_;
  std::shared_ptr<Kept> called_ = std::make_shared<Kept>();
  Service service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::RewardService::Stub> stub_;
};

TEST_F(CallTraces, TheCalleesSpanLiesWithinTheCallersOnItsClock) {
  // The caller's clock is an hour ahead of the callee's.
  constexpr int64_t kHour = 3'600'000'000'000;
  for (int i = 0; i < 20; ++i) {
    const observe::TraceScope scope(Current(true, kHour));
    ASSERT_TRUE(Call().ok());
  }
  const auto called = called_->spans(), served = served_.spans();
  ASSERT_EQ(called.size(), 20u);
  ASSERT_EQ(served.size(), 20u);
  for (size_t i = 0; i < called.size(); ++i) {
    EXPECT_EQ(called[i].parent, 77u);
    EXPECT_EQ(called[i].kind, observe::SpanKind::kClient);
    EXPECT_EQ(served[i].trace, called[i].trace);
    EXPECT_EQ(served[i].parent, called[i].span);
    EXPECT_EQ(served[i].kind, observe::SpanKind::kServer);
    EXPECT_EQ(served[i].name, "espalier.v1.RewardService/VerifyAnswer");
    EXPECT_GE(served[i].start_nanos, called[i].start_nanos) << i;
    EXPECT_LE(served[i].end_nanos, called[i].end_nanos) << i;
  }
}

TEST_F(CallTraces, CallsOutsideATraceLeaveNone) {
  ASSERT_TRUE(Call().ok());
  {
    const observe::TraceScope scope(Current(false, 0));
    ASSERT_TRUE(Call().ok());
  }
  EXPECT_EQ(called_->spans().size(), 1u) << "it may turn out to be told";
  EXPECT_TRUE(served_.spans().empty());
}

TEST_F(CallTraces, WithoutASinkTheCallersOwnSpanIsTheParent) {
  observe::CurrentTrace current = Current(true, 0);
  current.sink = nullptr;
  const observe::TraceScope scope(current);
  ASSERT_TRUE(Call().ok());
  ASSERT_EQ(served_.spans().size(), 1u);
  EXPECT_EQ(served_.spans()[0].parent, 77u);
}

TEST_F(CallTraces, AFailedCallSaysItsCodeAndNotItsText) {
  const observe::TraceScope scope(Current(true, 0));
  EXPECT_FALSE(Call("bad").ok());
  EXPECT_EQ(called_->spans()[0].error, "gRPC code 3");
  EXPECT_EQ(served_.spans()[0].error, "gRPC code 3");
}

TEST_F(CallTraces, AnEndpointThatIsNoneIsRefusedWithWhatIsAllowed) {
  for (const char* bad : {"localhost:4317", "http://localhost", "http://:4317", "http://a:0",
                          "grpc://a:4317", "http://a:4317/v1/traces"}) {
    TraceOptions options{.endpoint = bad};
    const auto made = MakeOtlpExporter(options, "test", "", nullptr);
    ASSERT_FALSE(made.ok()) << bad;
    EXPECT_THAT(std::string(made.status().message()), HasSubstr("--otlp-endpoint"));
    EXPECT_THAT(std::string(made.status().message()), HasSubstr("http://host:port"));
  }
  EXPECT_EQ(*MakeOtlpExporter({}, "test", "", nullptr), nullptr);
  EXPECT_FALSE(MakeOtlpExporter({.authorities = "x.pem"}, "test", "", nullptr).ok());
  const TraceOptions missing{.endpoint = "https://a:4317", .authorities = "/nowhere.pem"};
  EXPECT_THAT(std::string(MakeOtlpExporter(missing, "test", "", nullptr).status().message()),
              HasSubstr("/nowhere.pem"));
}

}  // namespace
}  // namespace espalier::rpc
