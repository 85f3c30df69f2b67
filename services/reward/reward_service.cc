// Reactions only pass work on; a job of the pool computes the answer. Each reactor has one owner of
// Finish: the job of a unary call, and FinishWhenIdle of a stream.
#include "services/reward/reward_service.h"

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "espalier/v1/reward_service.grpc.pb.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "services/reward/convert.h"

namespace espalier::reward {
namespace {

const char kBusy[] =
    "the reward service is busy: too many calls wait; try again, or start another replica";

// Lives until OnDone, which follows Finish; the job calls Finish once, so it may hold `this`.
template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  using Handler = absl::StatusOr<Response> (*)(const Request&);

  static grpc::ServerUnaryReactor* Start(ScorePool* pool, const Request* request,
                                         Response* response, Handler handler) {
    auto* call = new UnaryCall;
    const bool accepted = pool->Submit([call, request, response, handler] {
      if (call->cancelled_) return call->Finish(grpc::Status::CANCELLED);
      absl::StatusOr<Response> result = handler(*request);
      if (result.ok()) *response = *std::move(result);
      call->Finish(rpc::ToGrpc(result.status()));
    });
    if (!accepted) call->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, kBusy});
    return call;
  }

  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  std::atomic<bool> cancelled_{false};
};

// Reads ahead up to kStreamInFlightMax batches, scores them on the pool in any order, answers them
// in theirs.
class ScoreStreamCall final
    : public grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse> {
 public:
  explicit ScoreStreamCall(ScorePool* pool) : pool_(pool) { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    std::unique_lock lock(mutex_);
    reading_ = false;
    if (!ok) {
      reads_over_ = true;
      return FinishWhenIdle(&lock);
    }
    auto batch = std::make_shared<Batch>();  // shared by the queue and the job that fills it
    batch->request.Swap(&incoming_);
    batches_.push_back(batch);
    ++jobs_;
    if (!pool_->Submit([this, batch] { Score(batch.get()); })) {
      --jobs_;
      batch->response.set_batch_id(batch->request.batch_id());
      batch->response.set_error(kBusy);
      batch->done = true;
      WriteNext();
    }
    ReadNext();
    FinishWhenIdle(&lock);
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    batches_.pop_front();
    if (!ok) broken_ = true;
    if (!reads_over_ && !reading_) ReadNext();
    WriteNext();
    FinishWhenIdle(&lock);
  }

  void OnCancel() override {
    std::unique_lock lock(mutex_);
    broken_ = true;
  }

  void OnDone() override { delete this; }

 private:
  struct Batch {
    v1::ScoreStreamRequest request;
    v1::ScoreStreamResponse response;
    bool done = false;  // guarded by mutex_
  };

  void Score(Batch* batch) {
    batch->response.set_batch_id(batch->request.batch_id());
    if (!broken_) {
      absl::StatusOr<v1::ScoreBatchResponse> scores = ScoreBatch(batch->request.batch());
      if (scores.ok()) {
        *batch->response.mutable_batch() = *std::move(scores);
      } else {
        batch->response.set_error(std::string(scores.status().message()));
      }
    }
    std::unique_lock lock(mutex_);
    batch->done = true;
    --jobs_;
    WriteNext();
    FinishWhenIdle(&lock);
  }

  // The three below are called with mutex_ held.
  void ReadNext() {
    reading_ = !broken_ && batches_.size() < kStreamInFlightMax;
    if (reading_) StartRead(&incoming_);
  }

  void WriteNext() {
    if (writing_ || broken_ || batches_.empty() || !batches_.front()->done) return;
    writing_ = true;
    StartWrite(&batches_.front()->response);
  }

  void FinishWhenIdle(std::unique_lock<std::mutex>* lock) {
    // A broken stream still has to wait for its read, its write and its jobs, all of which hold
    // `this`.
    const bool idle =
        jobs_ == 0 && !writing_ && !reading_ && (broken_ || (reads_over_ && batches_.empty()));
    if (!idle || finished_) return;
    finished_ = true;
    const bool broken = broken_;
    lock->unlock();  // OnDone may delete this as soon as Finish was called
    Finish(broken ? grpc::Status::CANCELLED : grpc::Status::OK);
  }

  ScorePool* const pool_;
  std::mutex mutex_;
  v1::ScoreStreamRequest incoming_;             // of the read in progress
  std::deque<std::shared_ptr<Batch>> batches_;  // guarded by mutex_, as all below
  size_t jobs_ = 0;
  bool reading_ = true;
  bool writing_ = false;
  bool reads_over_ = false;
  bool finished_ = false;
  std::atomic<bool> broken_{false};  // also read by jobs, to skip work nobody waits for
};

class Service final : public v1::RewardService::CallbackService {
 public:
  explicit Service(ScorePool* pool) : pool_(pool) {}

  grpc::ServerUnaryReactor* ScoreTrace(grpc::CallbackServerContext*,
                                       const v1::ScoreTraceRequest* request,
                                       v1::ScoreTraceResponse* response) override {
    return UnaryCall<v1::ScoreTraceRequest, v1::ScoreTraceResponse>::Start(pool_, request, response,
                                                                           reward::ScoreTrace);
  }
  grpc::ServerUnaryReactor* ScoreBatch(grpc::CallbackServerContext*,
                                       const v1::ScoreBatchRequest* request,
                                       v1::ScoreBatchResponse* response) override {
    return UnaryCall<v1::ScoreBatchRequest, v1::ScoreBatchResponse>::Start(pool_, request, response,
                                                                           reward::ScoreBatch);
  }
  grpc::ServerUnaryReactor* VerifyAnswer(grpc::CallbackServerContext*,
                                         const v1::VerifyAnswerRequest* request,
                                         v1::VerifyAnswerResponse* response) override {
    return UnaryCall<v1::VerifyAnswerRequest, v1::VerifyAnswerResponse>::Start(
        pool_, request, response, reward::Verify);
  }
  grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreStreamResponse>* ScoreStream(
      grpc::CallbackServerContext*) override {
    return new ScoreStreamCall(pool_);
  }

 private:
  ScorePool* const pool_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeRewardService(ScorePool* pool) {
  return std::make_unique<Service>(pool);
}

}  // namespace espalier::reward
