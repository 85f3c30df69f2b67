// Goal: a stream answers each batch exactly once as soon as it is ready, whatever its neighbours
// do; what is late or cancelled is not computed; a drain loses nothing that was read. Method: a
// server on loopback, its threads held back where the order matters.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/reward_harness.h"

namespace espalier::reward {
namespace {

using testing::HasSubstr;

void SetTimeout(grpc::ClientContext* context, int seconds) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
}

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 2000 && !holds(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return holds();
}

TEST(RewardStream, ASmallBatchOvertakesALargeOneOfTheSameStream) {
  Served served(2);
  Held held(&served.engine);  // one thread is left, and takes the large batch's parts in turn
  grpc::ClientContext context;
  SetTimeout(&context, 60);
  auto stream = served.stub->ScoreStream(&context);
  ASSERT_TRUE(stream->Write(Numbered(1, 400, 3000)));
  ASSERT_TRUE(stream->Write(Numbered(2, 1)));
  held.LetGo();
  stream->WritesDone();
  std::vector<uint64_t> order;
  v1::ScoreStreamResponse response;
  while (stream->Read(&response)) {
    order.push_back(response.batch_id());
    EXPECT_EQ(v1::VERDICT_CORRECT, response.batch().scores(0).verdict());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(order, testing::UnorderedElementsAre(1, 2));
}

TEST(RewardStream, AnswersGoOutInTheOrderInWhichTheyAreReady) {
  Served served(2);
  grpc::ClientContext context;
  SetTimeout(&context, 60);
  auto stream = served.stub->ScoreStream(&context);
  // Two threads: one is long at a single trace of nearly 1 MiB, the other answers the rest.
  ASSERT_TRUE(stream->Write(Numbered(100, 1, 1'000'000)));
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(stream->Write(Numbered(id, 1)));
  stream->WritesDone();
  std::vector<uint64_t> order;
  v1::ScoreStreamResponse response;
  while (stream->Read(&response)) order.push_back(response.batch_id());
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(6u, order.size());
  EXPECT_EQ(100u, order.back());
}

TEST(RewardStream, RefusesAnIdThatIsInFlightAndTakesItAgainLater) {
  Served served(1);
  grpc::ClientContext context;
  SetTimeout(&context, 60);
  auto stream = served.stub->ScoreStream(&context);
  v1::ScoreStreamResponse response;
  {
    Held held(&served.engine);
    ASSERT_TRUE(stream->Write(Numbered(7, 1)));
    ASSERT_TRUE(stream->Write(Numbered(7, 2)));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(7u, response.batch_id());
    EXPECT_THAT(response.error(), HasSubstr("batch_id: found 7"));
  }
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.error().empty());
  EXPECT_EQ(1, response.batch().scores_size());
  ASSERT_TRUE(stream->Write(Numbered(7, 3)));
  stream->WritesDone();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(3, response.batch().scores_size()) << response.error();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(RewardStream, ReadsOnlySoFarAhead) {
  Served served(1);
  auto held = std::make_unique<Held>(&served.engine);
  grpc::ClientContext context;
  SetTimeout(&context, 60);
  auto stream = served.stub->ScoreStream(&context);
  std::atomic<int> written{0};
  std::thread writer([&] {
    for (uint64_t id = 0; id < 100; ++id, ++written) {
      ASSERT_TRUE(stream->Write(Numbered(id, 1, 200'000)));
    }
    stream->WritesDone();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LE(served.engine.pool().waiting(), kStreamInFlightMax);
  EXPECT_LT(written, 60) << "what waits in the transport is bounded too";
  held.reset();
  std::set<uint64_t> answered;
  v1::ScoreStreamResponse response;
  while (stream->Read(&response)) EXPECT_TRUE(answered.insert(response.batch_id()).second);
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(100u, answered.size());
}

// Writes batches of random sizes, reads until all are answered or the stream is given up.
void PlayClient(v1::RewardService::Stub* stub, uint32_t seed, std::atomic<int>* wrong) {
  std::mt19937 random(seed);
  grpc::ClientContext context;
  SetTimeout(&context, 120);
  auto stream = stub->ScoreStream(&context);
  const bool cancels = seed % 4 == 0;
  const uint64_t batches = 20 + random() % 20;
  const uint64_t leaves_after = cancels ? random() % batches : batches;
  std::thread writer([&, seed2 = random()] {
    std::mt19937 sizes(seed2);
    for (uint64_t id = 0; id < batches; ++id) {
      const bool large = sizes() % 10 == 0;
      if (!stream->Write(Numbered(1000 * seed + id, large ? 40 : 1 + sizes() % 4, sizes() % 2000)))
        return;
    }
    stream->WritesDone();
  });
  std::set<uint64_t> answered;
  v1::ScoreStreamResponse response;
  while (answered.size() < leaves_after && stream->Read(&response)) {
    const uint64_t id = response.batch_id();
    const bool good = response.error().empty() && answered.insert(id).second && id / 1000 == seed &&
                      response.batch().scores_size() > 0 &&
                      response.batch().scores(0).trace_id() == std::to_string(id) + "/0" &&
                      response.batch().scores(0).verdict() == v1::VERDICT_CORRECT;
    if (!good) ++*wrong;
  }
  if (cancels) {
    context.TryCancel();
  } else if (answered.size() != batches || stream->Read(&response)) {
    ++*wrong;
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  if (!cancels && !status.ok()) ++*wrong;
}

TEST(RewardStream, ExactlyOneResultEachUnderSixtyFourStreamsAndCancellations) {
  Served served(2);
  std::atomic<int> wrong{0};
  std::vector<std::thread> clients;
  for (uint32_t seed = 1; seed <= 64; ++seed) {
    clients.emplace_back([&, seed] { PlayClient(served.stub.get(), seed, &wrong); });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(0, wrong);
  EXPECT_TRUE(served.engine.gate().WaitEmpty(absl::Now() + absl::Seconds(20)))
      << "a cancelled stream was not let go";
  EXPECT_EQ(0u, served.engine.pool().waiting());
}

TEST(RewardStream, WhatACancelledStreamLeftWaitingIsNotComputed) {
  Served served(1);
  auto held = std::make_unique<Held>(&served.engine);
  grpc::ClientContext context;
  auto stream = served.stub->ScoreStream(&context);
  ASSERT_TRUE(stream->Write(Numbered(1, 300, 1000)));
  ASSERT_TRUE(Eventually([&] { return served.engine.pool().waiting() > 30; }));
  context.TryCancel();
  EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // until the server knows it too
  held.reset();
  EXPECT_TRUE(served.engine.gate().WaitEmpty(absl::Now() + absl::Seconds(10)));
  EXPECT_EQ(0u, served.engine.stats().Read(Stage::kScore).count);
  EXPECT_EQ(1u, served.engine.stats().Read(Outcome::kCancelled));
}

TEST(RewardDeadline, ALateCallIsNotComputed) {
  Served served(1);
  auto held = std::make_unique<Held>(&served.engine);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  v1::ScoreBatchResponse response;
  EXPECT_EQ(grpc::StatusCode::DEADLINE_EXCEEDED,
            served.stub->ScoreBatch(&context, Numbered(1, 20).batch(), &response).error_code());
  held.reset();
  EXPECT_TRUE(served.engine.gate().WaitEmpty(absl::Now() + absl::Seconds(10)));
  EXPECT_EQ(0u, served.engine.stats().Read(Stage::kScore).count);
  EXPECT_EQ(1u, served.engine.stats().Read(Outcome::kExpired));
}

TEST(RewardDeadline, TheEngineSaysSoItself) {
  ScoreEngine engine({.threads = 1});
  auto control = std::make_shared<CallControl>();
  control->deadline = absl::Now() - absl::Milliseconds(1);
  const v1::ScoreBatchRequest batch = Numbered(1, 100, 1000).batch();
  ScorePool::Line line;
  std::atomic<int> answers{0};
  engine.Answer(batch, control, &line, [&](absl::StatusOr<v1::ScoreBatchResponse> result) {
    EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, result.status().code());
    ++answers;
  });
  EXPECT_TRUE(Eventually([&] { return answers > 0 && engine.pool().waiting() == 0; }));
  EXPECT_EQ(1, answers);
  EXPECT_EQ(0u, engine.stats().Read(Stage::kScore).count);
}

TEST(RewardDrain, AnswersWhatItReadAndRefusesWhatComesLater) {
  Served served(1);
  auto held = std::make_unique<Held>(&served.engine);
  grpc::ClientContext context, unary_context;
  SetTimeout(&context, 30);
  SetTimeout(&unary_context, 30);
  auto stream = served.stub->ScoreStream(&context);
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(stream->Write(Numbered(id, 1)));
  v1::ScoreBatchResponse unary;
  grpc::Status unary_status;
  std::thread caller([&] {
    unary_status = served.stub->ScoreBatch(&unary_context, Numbered(9, 2).batch(), &unary);
  });
  ASSERT_TRUE(Eventually([&] { return served.engine.pool().waiting() == 6; }));
  served.service->BeginDrain();

  grpc::ClientContext late_context, late_stream_context;
  v1::ScoreBatchResponse response;
  const grpc::Status late =
      served.stub->ScoreBatch(&late_context, Numbered(1, 1).batch(), &response);
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, late.error_code());
  EXPECT_THAT(late.error_message(), HasSubstr("draining"));
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE,
            served.stub->ScoreStream(&late_stream_context)->Finish().error_code());

  held.reset();
  caller.join();
  EXPECT_TRUE(unary_status.ok()) << unary_status.error_message();
  EXPECT_EQ(2, unary.scores_size());
  std::set<uint64_t> answered;
  v1::ScoreStreamResponse answer;
  while (stream->Read(&answer)) answered.insert(answer.batch_id());
  EXPECT_THAT(answered, testing::ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, stream->Finish().error_code());
  EXPECT_TRUE(served.engine.gate().WaitEmpty(absl::Now() + absl::Seconds(10)));
  EXPECT_EQ(2u, served.engine.stats().Read(Outcome::kDraining));
}

TEST(RewardDrain, UnderLoadEveryBatchThatWasReadIsAnswered) {
  Served served(2);
  std::atomic<uint64_t> answered{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 16; ++client) {
    clients.emplace_back([&] {
      grpc::ClientContext context;
      SetTimeout(&context, 60);
      auto stream = served.stub->ScoreStream(&context);
      std::thread writer([&] {
        for (uint64_t id = 0; stream->Write(Numbered(id, 1 + id % 3, 500)); ++id) {
        }
      });
      std::set<uint64_t> seen;
      v1::ScoreStreamResponse response;
      while (stream->Read(&response)) {
        if (!seen.insert(response.batch_id()).second || !response.error().empty()) ++wrong;
        ++answered;
      }
      writer.join();
      if (stream->Finish().error_code() != grpc::StatusCode::UNAVAILABLE) ++wrong;
    });
  }
  ASSERT_TRUE(Eventually([&] { return answered > 200; }));
  served.service->BeginDrain();
  EXPECT_TRUE(served.engine.gate().WaitEmpty(absl::Now() + absl::Seconds(30)));
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(0, wrong);
  EXPECT_EQ(answered, served.engine.stats().Read(Outcome::kAnswered));
}

TEST(RewardDrain, AnIdleStreamIsClosedAtOnce) {
  Served served(1);
  grpc::ClientContext context;
  SetTimeout(&context, 30);
  auto stream = served.stub->ScoreStream(&context);
  ASSERT_TRUE(stream->Write(Numbered(1, 1)));
  v1::ScoreStreamResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const absl::Time start = absl::Now();
  served.service->BeginDrain();
  EXPECT_TRUE(served.engine.gate().WaitEmpty(start + absl::Seconds(5)));
  EXPECT_EQ(grpc::StatusCode::UNAVAILABLE, stream->Finish().error_code());
}

}  // namespace
}  // namespace espalier::reward
