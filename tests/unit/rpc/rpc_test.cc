// Goal: every service listens, refuses and ends the same way. Method: real servers on loopback.
#include <atomic>

#include "absl/time/clock.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"

namespace espalier::rpc {
namespace {

using testing::HasSubstr;

TEST(Status, EveryCodeComesBackAsItWas) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(RpcServer, SaysWhichAddressIsInUseAndWhatToDo) {
  v1::RewardService::Service service;
  const auto first = RpcServer::Start({.address = "127.0.0.1:0"}, {&service});
  ASSERT_TRUE(first.ok()) << first.status();
  v1::RewardService::Service other;
  const absl::Status status = RpcServer::Start({.address = (*first)->address()}, {&other}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr((*first)->address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--listen"));
}

TEST(RpcServer, RefusesPlaintextBeyondLoopbackUnlessAskedFor) {
  v1::RewardService::Service service;
  const absl::Status refused = RpcServer::Start({.address = "0.0.0.0:0"}, {&service}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--insecure"));
  EXPECT_TRUE(RpcServer::Start({.address = "0.0.0.0:0", .insecure = true}, {&service}).ok());
}

TEST(RpcServer, RefusesAnAddressWithoutAPort) {
  v1::RewardService::Service service;
  EXPECT_EQ(RpcServer::Start({.address = "localhost"}, {&service}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Keeps its call open until the caller is cancelled.
class Stubborn : public v1::RewardService::Service {
 public:
  grpc::Status ScoreTrace(grpc::ServerContext* context, const v1::ScoreTraceRequest*,
                          v1::ScoreTraceResponse*) override {
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::CANCELLED;
  }
};

TEST(RpcServer, ShutsDownInBoundedTimeWithACallUnderWay) {
  Stubborn service;
  auto server = RpcServer::Start({.address = "127.0.0.1:0"}, {&service}).value();
  const auto stub = v1::RewardService::NewStub(MakeChannel(server->address()));
  grpc::ClientContext context;
  v1::ScoreTraceRequest request;
  v1::ScoreTraceResponse response;
  std::atomic<bool> ended = false;
  stub->async()->ScoreTrace(&context, &request, &response, [&](grpc::Status) { ended = true; });
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time began = absl::Now();
  server->Shutdown(absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - began, absl::Seconds(3));
  for (int i = 0; i < 500 && !ended; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace espalier::rpc
