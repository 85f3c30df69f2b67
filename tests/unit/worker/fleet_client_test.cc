// Goal: a worker outlives its coordinator, says again what may be lost, and leaves when it is told
// to. Method: a scripted coordinator over real gRPC; each stream of the worker is handed to the
// test.
#include "services/worker/fleet_client.h"

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "services/worker/remote_scorer.h"

namespace espalier::worker {
namespace {

using ServerStream = grpc::ServerReaderWriter<v1::AttachResponse, v1::AttachRequest>;

// What the script does with the worker's n-th stream (from 0).
using Script = std::function<void(int stream, ServerStream*, const v1::Hello&)>;

class FakeCoordinator : public v1::FleetService::Service {
 public:
  explicit FakeCoordinator(Script script) : script_(std::move(script)) {
    server_ = rpc::RpcServer::Start({.address = "127.0.0.1:0"}, {this}).value();
  }
  ~FakeCoordinator() override { server_->Shutdown(absl::Milliseconds(100)); }
  std::string address() const { return server_->address(); }

  grpc::Status Attach(grpc::ServerContext*, ServerStream* stream) override {
    v1::AttachRequest hello;
    if (!stream->Read(&hello) || !hello.has_hello()) return grpc::Status::CANCELLED;
    script_(streams_++, stream, hello.hello());
    return grpc::Status::OK;
  }

 private:
  const Script script_;
  std::atomic<int> streams_ = 0;
  std::unique_ptr<rpc::RpcServer> server_;
};

void Welcome(ServerStream* stream, bool reattached) {
  v1::AttachResponse word;
  word.mutable_welcome()->mutable_heartbeat_interval()->set_nanos(50'000'000);
  word.mutable_welcome()->set_reattached(reattached);
  stream->Write(word);
}

void Assign(ServerStream* stream) {
  v1::AttachResponse word;
  word.mutable_assignment()->set_run_id("r-1");
  word.mutable_assignment()->set_epoch(4);
  word.mutable_assignment()->set_rank(1);
  stream->Write(word);
}

// The next report of the worker; heartbeats and others are passed over.
uint64_t NextReport(ServerStream* stream) {
  v1::AttachRequest word;
  while (stream->Read(&word)) {
    if (word.has_report()) return word.report().last_step();
  }
  return 0;
}

// A client on a thread of its own whose sessions the test sees.
class Client {
 public:
  explicit Client(const std::string& coordinator)
      : client_(coordinator, {.worker_id = "w-1", .link_endpoint = "127.0.0.1:9"},
                [this](const v1::Assignment& assignment) {
                  return std::make_shared<Session>(assignment, [this] { client_.Wake(); });
                }),
        thread_([this] { client_.Run(); }) {}
  ~Client() { Stop(absl::Seconds(2)); }
  void Stop(absl::Duration grace) {
    if (!thread_.joinable()) return;
    client_.Stop(grace);
    thread_.join();
  }
  // Waits until the client has taken the assignment, which is a moment after it made the session.
  std::shared_ptr<Session> session() {
    for (int i = 0; i < 1000 && client_.session() == nullptr; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return client_.session();
  }

 private:
  FleetClient client_;
  std::thread thread_;
};

void Report(Session& session, uint64_t step) {
  v1::StepReport report;
  report.set_first_step(step);
  report.set_last_step(step);
  session.Report(report);
}

bool Soon(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

TEST(FleetClient, SaysAgainWhatABrokenStreamMayHaveLost) {
  std::atomic<uint64_t> first = 0, again = 0, then = 0;
  std::atomic<bool> named_run = false;
  FakeCoordinator coordinator([&](int stream, ServerStream* words, const v1::Hello& hello) {
    Welcome(words, stream > 0);
    if (stream == 0) {
      Assign(words);
      first = NextReport(words);  // and then the stream breaks, before any ack
      return;
    }
    named_run = hello.run_id() == "r-1" && hello.epoch() == 4 && hello.rank() == 1;
    again = NextReport(words);
    then = NextReport(words);
    NextReport(words);  // until the worker leaves
  });
  Client client(coordinator.address());
  const auto session = client.session();
  ASSERT_NE(session, nullptr);
  Report(*session, 1);
  ASSERT_TRUE(Soon([&] { return first == 1; }));
  Report(*session, 2);
  EXPECT_TRUE(Soon([&] { return again == 1 && then == 2; })) << again << " " << then;
  EXPECT_TRUE(named_run);
  EXPECT_FALSE(session->Cancelled());
}

TEST(FleetClient, LeavesARunThatTheCoordinatorHasGivenUp) {
  FakeCoordinator coordinator([&](int stream, ServerStream* words, const v1::Hello&) {
    Welcome(words, false);
    if (stream == 0) {
      Assign(words);
      NextReport(words);
      return;
    }
    NextReport(words);
  });
  Client client(coordinator.address());
  const auto session = client.session();
  ASSERT_NE(session, nullptr);
  Report(*session, 1);
  EXPECT_TRUE(Soon([&] { return session->Cancelled(); }));
}

TEST(FleetClient, ReleaseEndsTheRunItNamesAndNoNewerOne) {
  FakeCoordinator coordinator([&](int, ServerStream* words, const v1::Hello&) {
    Welcome(words, false);
    Assign(words);
    v1::AttachResponse word;
    word.mutable_release()->set_run_id("r-1");
    word.mutable_release()->set_epoch(3);  // an older epoch: not this session
    words->Write(word);
    NextReport(words);
    word.mutable_release()->set_epoch(4);
    words->Write(word);
    NextReport(words);
  });
  Client client(coordinator.address());
  const auto session = client.session();
  ASSERT_NE(session, nullptr);
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_FALSE(session->Cancelled());
  Report(*session, 1);
  EXPECT_TRUE(Soon([&] { return session->Cancelled(); }));
}

TEST(FleetClient, SaysItsLastWordBeforeItLeaves) {
  std::atomic<bool> heard_end = false;
  FakeCoordinator coordinator([&](int, ServerStream* words, const v1::Hello&) {
    Welcome(words, false);
    Assign(words);
    v1::AttachRequest word;
    while (words->Read(&word)) heard_end = heard_end || word.has_end();
  });
  Client client(coordinator.address());
  const auto session = client.session();
  ASSERT_NE(session, nullptr);
  session->End(v1::AssignmentEnd::OUTCOME_INTERRUPTED, "told to stop");
  client.Stop(absl::Seconds(5));
  EXPECT_TRUE(Soon([&] { return heard_end.load(); }));
}

TEST(FleetClient, StopsInBoundedTimeWhenTheCoordinatorHangs) {
  std::atomic<bool> let_go = false;
  FakeCoordinator coordinator([&](int, ServerStream* words, const v1::Hello&) {
    Welcome(words, false);
    while (!let_go) absl::SleepFor(absl::Milliseconds(5));  // reads nothing, closes nothing
  });
  Client client(coordinator.address());
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time began = absl::Now();
  client.Stop(absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  let_go = true;
}

class FakeReward : public v1::RewardService::Service {
 public:
  grpc::Status ScoreBatch(grpc::ServerContext*, const v1::ScoreBatchRequest* request,
                          v1::ScoreBatchResponse* response) override {
    if (request->reference().empty())
      return {grpc::StatusCode::INVALID_ARGUMENT, "reference: empty"};
    response->add_scores()->set_total(7);
    return grpc::Status::OK;
  }
};

TEST(RemoteScorer, WaitsForAServiceThatComesBackAndPassesRefusalsOn) {
  FakeReward reward;
  std::string address;
  {
    auto server = rpc::RpcServer::Start({.address = "127.0.0.1:0"}, {&reward}).value();
    address = server->address();
  }
  std::unique_ptr<rpc::RpcServer> late;
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(500));
    late = rpc::RpcServer::Start({.address = address}, {&reward}).value();
  });
  RemoteScorer scorer(address, {}, absl::Seconds(30));
  std::vector<v1::ScoreBatchRequest> groups(100);
  for (auto& group : groups) group.set_reference("1");
  const auto scores = scorer.Score(groups);
  starter.join();
  ASSERT_TRUE(scores.ok()) << scores.status();
  ASSERT_EQ(scores->size(), 100u);
  EXPECT_EQ(scores->back().scores(0).total(), 7);
  groups[50].clear_reference();
  EXPECT_EQ(scorer.Score(groups).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RemoteScorer, GivesUpWhenItIsCancelledOrOutOfPatience) {
  std::vector<v1::ScoreBatchRequest> groups(1);
  RemoteScorer impatient("127.0.0.1:1", {}, absl::Milliseconds(300));
  EXPECT_EQ(impatient.Score(groups).status().code(), absl::StatusCode::kUnavailable);
  RemoteScorer cancelled("127.0.0.1:1", [] { return true; });
  EXPECT_EQ(cancelled.Score(groups).status().code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace espalier::worker
