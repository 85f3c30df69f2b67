// Reactions only pass work on: the engine answers on its own threads. A unary call's Finish belongs
// to the engine's answer, a stream's to StreamCall.
#include "services/reward/reward_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "libs/rpc/server.h"
#include "services/reward/stream_call.h"

namespace espalier::reward {
namespace {

// Lives until OnDone, which follows Finish; the engine answers once, so its answer may hold `this`.
template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static grpc::ServerUnaryReactor* Start(ScoreEngine* engine, grpc::CallbackServerContext* context,
                                         const Request* request, Response* response) {
    auto* call = new UnaryCall(engine, absl::FromChrono(context->deadline()));
    if (!call->entered_) {
      engine->stats().Count(Outcome::kDraining);
      call->Finish(rpc::ToGrpc(DrainingError()));
      return call;
    }
    engine->Answer(*request, call->control_, &call->line_,
                   [call, response](absl::StatusOr<Response> result) {
                     call->answered_ = absl::Now();
                     const grpc::Status status = rpc::ToGrpc(result.status());
                     if (result.ok()) *response = *std::move(result);
                     call->Finish(status);
                   });
    return call;
  }

  void OnCancel() override { control_->cancelled = true; }
  void OnDone() override {
    if (entered_) {
      const absl::Time now = absl::Now();
      engine_->stats().Record(Stage::kWrite, now - answered_);
      engine_->stats().Record(Stage::kCall, now - begun_);
      engine_->gate().Leave();
    }
    delete this;
  }

 private:
  UnaryCall(ScoreEngine* engine, absl::Time deadline)
      : engine_(engine),
        entered_(engine->gate().Enter()),
        begun_(absl::Now()),
        control_(std::make_shared<CallControl>()) {
    control_->deadline = deadline;
  }

  ScoreEngine* const engine_;
  const bool entered_;
  const absl::Time begun_;
  absl::Time answered_;
  const std::shared_ptr<CallControl> control_;  // also of the jobs
  ScorePool::Line line_;
};

class RefusedStream final
    : public grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

class Service final : public v1::RewardService::CallbackService {
 public:
  explicit Service(ScoreEngine* engine) : engine_(engine) {}

  grpc::ServerUnaryReactor* ScoreTrace(grpc::CallbackServerContext* context,
                                       const v1::ScoreTraceRequest* request,
                                       v1::ScoreTraceResponse* response) override {
    return UnaryCall<v1::ScoreTraceRequest, v1::ScoreTraceResponse>::Start(engine_, context,
                                                                           request, response);
  }
  grpc::ServerUnaryReactor* ScoreBatch(grpc::CallbackServerContext* context,
                                       const v1::ScoreBatchRequest* request,
                                       v1::ScoreBatchResponse* response) override {
    return UnaryCall<v1::ScoreBatchRequest, v1::ScoreBatchResponse>::Start(engine_, context,
                                                                           request, response);
  }
  grpc::ServerUnaryReactor* VerifyAnswer(grpc::CallbackServerContext* context,
                                         const v1::VerifyAnswerRequest* request,
                                         v1::VerifyAnswerResponse* response) override {
    return UnaryCall<v1::VerifyAnswerRequest, v1::VerifyAnswerResponse>::Start(engine_, context,
                                                                               request, response);
  }
  grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse>* ScoreStream(
      grpc::CallbackServerContext* context) override {
    if (!engine_->gate().Enter()) {
      engine_->stats().Count(Outcome::kDraining);
      return new RefusedStream(rpc::ToGrpc(DrainingError()));
    }
    auto stream =
        std::make_shared<StreamCall>(engine_, &open_, absl::FromChrono(context->deadline()));
    StreamCall* const reactor = stream.get();
    open_.Add(std::move(stream));
    // A drain that began since did not see this stream in the list.
    if (engine_->gate().closed()) reactor->Drain();
    return reactor;
  }
  void DrainStreams() { open_.DrainAll(); }

 private:
  ScoreEngine* const engine_;
  OpenStreams open_;
};

class GrpcRewardService final : public RewardService {
 public:
  explicit GrpcRewardService(ScoreEngine* engine) : engine_(engine), service_(engine) {}
  grpc::Service* grpc() override { return &service_; }
  void BeginDrain() override {
    engine_->gate().Close();
    service_.DrainStreams();
  }

 private:
  ScoreEngine* const engine_;
  Service service_;
};

}  // namespace

std::unique_ptr<RewardService> RewardService::Make(ScoreEngine* engine) {
  return std::make_unique<GrpcRewardService>(engine);
}

}  // namespace espalier::reward
