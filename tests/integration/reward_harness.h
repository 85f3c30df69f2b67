// A reward service on loopback, for tests.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "espalier/v1/reward_service.grpc.pb.h"
#include "grpc/grpc.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "services/reward/engine.h"
#include "services/reward/reward_service.h"

namespace espalier::reward {

using Stream = grpc::ClientReaderWriter<v1::ScoreStreamRequest, v1::ScoreStreamResponse>;

struct Served {
  explicit Served(int threads = 2)
      : engine({.threads = threads}), service(RewardService::Make(&engine)) {
    // Held for the whole process: when gRPC takes its last thread down it may sit in a poll of 10
    // s.
    static const bool initialized = (grpc_init(), true);
    EXPECT_TRUE(initialized);
    auto started = rpc::RpcServer::Start({"127.0.0.1:0"}, {service->grpc()});
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    stub = v1::RewardService::NewStub(rpc::MakeChannel(server->address()));
  }
  ScoreEngine engine;  // outlives the server
  std::unique_ptr<RewardService> service;
  std::unique_ptr<rpc::RpcServer> server;
  std::unique_ptr<v1::RewardService::Stub> stub;
};

// Keeps one of the engine's threads busy until it goes.
class Held {
 public:
  explicit Held(ScoreEngine* engine) {
    EXPECT_TRUE(engine->pool().Submit(&line_, 0, [this] {
      begun_ = true;
      while (!go_) std::this_thread::yield();
      done_ = true;
    }));
    while (!begun_) std::this_thread::yield();
  }
  ~Held() { LetGo(); }
  void LetGo() {
    go_ = true;
    while (!done_) std::this_thread::yield();
  }

 private:
  ScorePool::Line line_;
  std::atomic<bool> begun_{false}, go_{false}, done_{false};
};

// The right answer of the first trace is the batch's id.
inline v1::ScoreStreamRequest Numbered(uint64_t id, int traces, size_t bytes = 0) {
  v1::ScoreStreamRequest request;
  request.set_batch_id(id);
  request.mutable_batch()->set_reference(std::to_string(id));
  for (int i = 0; i < traces; ++i) {
    v1::Trace* trace = request.mutable_batch()->add_traces();
    trace->set_trace_id(std::to_string(id) + "/" + std::to_string(i));
    std::string text;
    while (text.size() < bytes) text += "Then 12 + 7 = 19, so we go on. ";
    trace->set_text(text + "The answer is " + std::to_string(id + static_cast<uint64_t>(i)) + ".");
  }
  return request;
}

}  // namespace espalier::reward
