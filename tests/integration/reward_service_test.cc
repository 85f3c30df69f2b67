// Goal: the four calls keep their promises over a real server: named fields in errors, order in
// batches, one answer for each batch of a stream, and a clean end whatever the client does. Method:
// a server on loopback, its generated stub, unhappy paths first.
#include "services/reward/reward_service.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "espalier/v1/reward_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "services/reward/batch_parts.h"
#include "services/reward/convert.h"
#include "services/reward/engine.h"

namespace espalier::reward {
namespace {

using testing::HasSubstr;
using Stream = grpc::ClientReaderWriter<v1::ScoreStreamRequest, v1::ScoreStreamResponse>;

class RewardServiceTest : public testing::Test {
 protected:
  RewardServiceTest() : engine_({.threads = 2}), service_(RewardService::Make(&engine_)) {
    auto server = rpc::RpcServer::Start({"127.0.0.1:0"}, {service_->grpc()});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::RewardService::NewStub(rpc::MakeChannel(server_->address()));
  }

  grpc::Status Score(const v1::ScoreTraceRequest& request, v1::ScoreTraceResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return stub_->ScoreTrace(&context, request, response);
  }
  grpc::Status Score(const v1::ScoreBatchRequest& request, v1::ScoreBatchResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return stub_->ScoreBatch(&context, request, response);
  }

  ScoreEngine engine_;  // outlives the server
  std::unique_ptr<RewardService> service_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<v1::RewardService::Stub> stub_;
};

v1::ScoreTraceRequest Request(const std::string& reference, const std::string& text) {
  v1::ScoreTraceRequest request;
  request.set_reference(reference);
  request.mutable_trace()->set_text(text);
  return request;
}

v1::ScoreStreamRequest Numbered(uint64_t id, int traces = 3) {
  v1::ScoreStreamRequest request;
  request.set_batch_id(id);
  request.mutable_batch()->set_reference(std::to_string(id));
  for (int i = 0; i < traces; ++i) {
    v1::Trace* trace = request.mutable_batch()->add_traces();
    trace->set_trace_id(std::to_string(id) + "/" + std::to_string(i));
    trace->set_text("The answer is " + std::to_string(id + i) + ".");
  }
  return request;
}

TEST_F(RewardServiceTest, NamesTheFieldOfABadRequest) {
  struct Bad {
    void (*spoil)(v1::ScoreTraceRequest*);
    const char* says;
  };
  const Bad bads[] = {
      {[](auto* r) { r->clear_reference(); }, "reference: empty"},
      {[](auto* r) { r->set_reference(std::string(kReferenceBytesMax + 1, '1')); },
       "reference: found 65537"},
      {[](auto* r) { r->mutable_trace()->set_text(std::string(kTraceBytesMax + 1, 'x')); },
       "trace.text: found 1048577"},
      {[](auto* r) { r->mutable_reward()->set_reflection_max(-1); },
       "reward.reflection_max: found -1"},
      {[](auto* r) {
         r->mutable_reward()->set_safe(true), r->mutable_reward()->set_answer_weight(NAN);
       },
       "reward.answer_weight"},
      {[](auto* r) { r->mutable_reward()->set_reflection_min(4); },
       "reward.reflection_max: found 3"},
      {[](auto* r) { r->mutable_reward()->set_length_shaping(v1::LENGTH_SHAPING_OVERLONG); },
       "reward.length_max: found 0"},
      {[](auto* r) { r->mutable_reward()->set_length_shaping(static_cast<v1::LengthShaping>(77)); },
       "reward.length_shaping"},
      {[](auto* r) {
         r->mutable_reward()->set_length_max(10), r->mutable_reward()->set_length_buffer(11);
       },
       "reward.length_buffer: found 11"},
  };
  for (const Bad& bad : bads) {
    v1::ScoreTraceRequest request = Request("14", "The answer is 14.");
    bad.spoil(&request);
    v1::ScoreTraceResponse response;
    const grpc::Status status = Score(request, &response);
    EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << bad.says;
    EXPECT_THAT(status.error_message(), HasSubstr(bad.says));
  }
}

TEST_F(RewardServiceTest, NamesTheTraceOfABadBatch) {
  v1::ScoreBatchRequest request = Numbered(5).batch();
  v1::ScoreBatchResponse response;
  request.mutable_traces(1)->set_text(std::string(kTraceBytesMax + 1, 'x'));
  EXPECT_THAT(Score(request, &response).error_message(), HasSubstr("traces[1].text"));
  request.clear_traces();
  EXPECT_THAT(Score(request, &response).error_message(), HasSubstr("traces: found 0"));
  for (int i = 0; i <= kBatchTracesMax; ++i) request.add_traces();
  EXPECT_THAT(Score(request, &response).error_message(), HasSubstr("traces: found 1025"));
}

TEST_F(RewardServiceTest, AbsentFieldsTakeTheLibrarysDefaults) {
  const auto options = ToOptions({});
  ASSERT_TRUE(options.ok()) << options.status();
  const RewardOptions own;
  EXPECT_EQ(own.reflection_min, options->reflection_min);
  EXPECT_EQ(own.reflection_max, options->reflection_max);
  EXPECT_EQ(own.answer_weight, options->answer_weight);
  EXPECT_EQ(own.accuracy_weight, options->accuracy_weight);
  EXPECT_EQ(own.reflection_weight, options->reflection_weight);
  EXPECT_EQ(own.side_weight, options->side_weight);
  EXPECT_EQ(own.length_shaping, options->length_shaping);
  EXPECT_EQ(own.length_weight, options->length_weight);
  EXPECT_EQ(own.length_max, options->length_max);
  EXPECT_EQ(own.length_buffer, options->length_buffer);
  EXPECT_EQ(own.safe, options->safe);
}

TEST_F(RewardServiceTest, ZeroesThatAreGivenAreNotDefaults) {
  v1::RewardSpec spec;
  spec.set_accuracy_weight(0);
  spec.set_safe(false);
  EXPECT_EQ(0, ToOptions(spec)->accuracy_weight);
  EXPECT_FALSE(ToOptions(spec)->safe);
}

TEST_F(RewardServiceTest, ScoresATraceInFull) {
  v1::ScoreTraceResponse response;
  v1::ScoreTraceRequest request =
      Request("14", "19 - 5 = 14. The answer is 14. Wait, let me check. The answer is 14.");
  request.mutable_trace()->set_trace_id("a7");
  ASSERT_TRUE(Score(request, &response).ok());
  const v1::Score& score = response.score();
  EXPECT_EQ("a7", score.trace_id());
  EXPECT_EQ(v1::VERDICT_CORRECT, score.verdict());
  EXPECT_EQ("14", score.extracted());
  EXPECT_EQ("14", request.trace().text().substr(
                      score.extracted_span().begin(),
                      score.extracted_span().end() - score.extracted_span().begin()));
  EXPECT_EQ(1u, score.reflections());
  EXPECT_EQ(1u, score.hesitations());
  EXPECT_TRUE(score.first_answer_correct());
  EXPECT_TRUE(score.has_tail_share());
  EXPECT_TRUE(score.format_ok());
  EXPECT_TRUE(score.repetition_ok());
  EXPECT_FALSE(score.reason().empty());
  EXPECT_NEAR(score.total(), 1 + 1 + 2 / 3.0, 1e-12);
}

TEST_F(RewardServiceTest, AbstainsOnAReferenceThatCannotBeRead) {
  v1::ScoreTraceResponse response;
  ASSERT_TRUE(Score(Request("\\frac{1}{", "The answer is 14."), &response).ok());
  EXPECT_EQ(v1::VERDICT_ABSTAIN, response.score().verdict());
  EXPECT_EQ(0, response.score().total());
  EXPECT_THAT(response.score().reason(), HasSubstr("cannot be read"));
}

TEST_F(RewardServiceTest, VerifiesAnswersAndStrictUnits) {
  v1::VerifyAnswerRequest request;
  request.set_reference("125 miles");
  request.set_answer("so it is \\boxed{125}");
  for (const bool strict : {false, true}) {
    request.set_strict_units(strict);
    v1::VerifyAnswerResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->VerifyAnswer(&context, request, &response).ok());
    EXPECT_EQ(strict ? v1::VERDICT_WRONG : v1::VERDICT_CORRECT, response.verdict())
        << response.reason();
    EXPECT_EQ("125", response.extracted());
  }
}

TEST_F(RewardServiceTest, TextsOfEveryScriptComeBackAsValidUtf8) {
  // The excerpt of a long unreadable answer is cut where a code point ends.
  for (const std::string letter : {"é", "答", "🙂"}) {
    std::string text = "The answer is x";
    for (int i = 0; i < 100; ++i) text += letter;
    v1::ScoreTraceResponse response;
    const grpc::Status status = Score(Request("14", text), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_FALSE(response.score().reason().empty());
  }
}

TEST_F(RewardServiceTest, RefusesABatchOfTooMuchTextByName) {
  v1::ScoreBatchRequest request = Numbered(5).batch();
  request.clear_traces();
  for (size_t i = 0; i <= kBatchBytesMax / kTraceBytesMax; ++i) {
    request.add_traces()->set_text(std::string(kTraceBytesMax, 'x'));
  }
  v1::ScoreBatchResponse response;
  const grpc::Status status = Score(request, &response);
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code());
  EXPECT_THAT(status.error_message(), HasSubstr("traces: found 34603008 bytes"));
  EXPECT_THAT(status.error_message(), HasSubstr("up to 33554432"));
}

TEST_F(RewardServiceTest, RefusesAMessageBeyondTheLimitAndSaysIt) {
  v1::ScoreTraceRequest request = Request("14", std::string(size_t{65} << 20, 'x'));
  v1::ScoreTraceResponse response;
  const grpc::Status status = Score(request, &response);
  EXPECT_EQ(grpc::StatusCode::RESOURCE_EXHAUSTED, status.error_code());
  EXPECT_THAT(status.error_message(), HasSubstr("67108864"));
}

TEST_F(RewardServiceTest, StreamAnswersEachBatchOnceAndGoesOnAfterABadOne) {
  constexpr uint64_t kBatches = 300;
  grpc::ClientContext context;
  auto stream = stub_->ScoreStream(&context);
  std::thread writer([&] {
    for (uint64_t id = 0; id < kBatches; ++id) {
      // Uneven work, so that batches finish out of order.
      v1::ScoreStreamRequest request = Numbered(id, id % 7 == 0 ? 200 : 1);
      if (id % 10 == 3) request.mutable_batch()->clear_traces();
      ASSERT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  v1::ScoreStreamResponse response;
  std::set<uint64_t> answered;
  while (stream->Read(&response)) {
    const uint64_t id = response.batch_id();
    EXPECT_TRUE(answered.insert(id).second) << "twice: " << id;
    if (id % 10 == 3) {
      EXPECT_THAT(response.error(), HasSubstr("traces: found 0"));
    } else {
      ASSERT_TRUE(response.error().empty()) << response.error();
      ASSERT_EQ(id % 7 == 0 ? 200 : 1, response.batch().scores_size());
      EXPECT_EQ(v1::VERDICT_CORRECT, response.batch().scores(0).verdict());
      EXPECT_EQ(std::to_string(id) + "/0", response.batch().scores(0).trace_id());
    }
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(kBatches, answered.size());
}

TEST_F(RewardServiceTest, StreamWithoutBatchesEndsWell) {
  grpc::ClientContext context;
  auto stream = stub_->ScoreStream(&context);
  stream->WritesDone();
  v1::ScoreStreamResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RewardServiceTest, AClientThatDoesNotReadIsHeldBackAndAnsweredLater) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  auto stream = stub_->ScoreStream(&context);
  std::atomic<int> written{0};
  std::thread writer([&] {
    for (int id = 0; id < 200; ++id, ++written) {
      v1::ScoreStreamRequest request = Numbered(id, 1);
      request.mutable_batch()->mutable_traces(0)->mutable_text()->append(100'000, ' ');
      ASSERT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  v1::ScoreStreamResponse response;
  std::set<uint64_t> answered;
  while (stream->Read(&response)) EXPECT_TRUE(answered.insert(response.batch_id()).second);
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(200u, answered.size());
}

TEST_F(RewardServiceTest, CancelledCallsAndStreamsLeaveTheServerUsable) {
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    auto stream = stub_->ScoreStream(&context);
    for (uint64_t id = 0; id < static_cast<uint64_t>(round); ++id) {
      if (!stream->Write(Numbered(id, 50))) break;
    }
    if (round % 3 == 0) {
      v1::ScoreStreamResponse response;
      if (round > 0) stream->Read(&response);
    }
    context.TryCancel();
    EXPECT_EQ(grpc::StatusCode::CANCELLED, stream->Finish().error_code());

    grpc::ClientContext unary;
    unary.set_deadline(std::chrono::system_clock::now() + std::chrono::microseconds(100 * round));
    v1::ScoreTraceResponse response;
    (void)stub_->ScoreTrace(&unary, Request("14", "The answer is 14."), &response);
  }
  v1::ScoreTraceResponse response;
  EXPECT_TRUE(Score(Request("14", "The answer is 14."), &response).ok());
}

TEST_F(RewardServiceTest, ShutdownEndsOpenStreamsInTime) {
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub_->ScoreStream(contexts.back().get()));
    ASSERT_TRUE(streams.back()->Write(Numbered(1)));
  }
  const auto start = std::chrono::steady_clock::now();
  server_->Shutdown(absl::Milliseconds(200));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  for (auto& stream : streams) {
    v1::ScoreStreamResponse response;
    while (stream->Read(&response)) EXPECT_EQ(1u, response.batch_id());
    EXPECT_FALSE(stream->Finish().ok());
  }
}

TEST_F(RewardServiceTest, ManyClientsAtOnceGetTheirOwnAnswers) {
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 50; ++i) {
        const std::string number = std::to_string(client * 1000 + i);
        v1::ScoreTraceResponse response;
        ASSERT_TRUE(Score(Request(number, "The answer is " + number + "."), &response).ok());
        EXPECT_EQ(v1::VERDICT_CORRECT, response.score().verdict());
        EXPECT_EQ(number, response.score().extracted());
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace espalier::reward
