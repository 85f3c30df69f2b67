// RunService over the Coordinator, with WatchRun as a stream that coalesces for slow readers.
#include <mutex>
#include <optional>
#include <utility>

#include "espalier/v1/run_service.grpc.pb.h"
#include "services/coordinator/services.h"
#include "services/coordinator/unary_call.h"

namespace espalier::coordinator {
namespace {

// One watcher's stream. Holds at most the message being written and one more: news that comes
// meanwhile is merged into it, the run by its newest state, the events up to kPendingEventsMax.
// Deletes itself.
class WatchCall : public grpc::ServerWriteReactor<v1::WatchRunResponse> {
 public:
  static constexpr int kPendingEventsMax = 1024;

  WatchCall() : feed_(std::make_shared<Feed>(this)) {}

  // Owned by the call and by the coordinator's list of watchers.
  class Feed : public RunWatcher {
   public:
    explicit Feed(WatchCall* call) : call_(call) {}

    bool Notify(const v1::Run& run, const std::vector<v1::RunEvent>& events, bool ended) override {
      std::lock_guard lock(mutex_);
      if (call_ == nullptr || end_.has_value()) return false;
      if (!pending_.has_value()) pending_.emplace();
      *pending_->mutable_run() = run;
      for (const v1::RunEvent& event : events) *pending_->add_events() = event;
      if (const int excess = pending_->events_size() - kPendingEventsMax; excess > 0) {
        pending_->mutable_events()->DeleteSubrange(0, excess);
      }
      if (ended) end_ = grpc::Status::OK;
      Advance();
      return !ended;
    }

    // Ends the stream after what is queued.
    void End(const grpc::Status& status) {
      std::lock_guard lock(mutex_);
      if (!end_.has_value()) end_ = status;
      Advance();
    }
    void Cancelled() {
      std::lock_guard lock(mutex_);
      pending_.reset();
      if (!end_.has_value() || end_->ok())
        end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the caller has gone");
      Advance();
    }
    void Written(bool ok) {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) {
        pending_.reset();
        end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the caller has gone");
      }
      Advance();
    }
    void Gone() {
      std::lock_guard lock(mutex_);
      call_ = nullptr;
    }

   private:
    // The one place that writes and finishes: never two writes at once, Finish after the last of
    // them.
    void Advance() {
      if (call_ == nullptr || writing_ || finished_) return;
      if (pending_.has_value()) {
        message_ = *std::move(pending_);
        pending_.reset();
        writing_ = true;
        call_->StartWrite(&message_);
      } else if (end_.has_value()) {
        finished_ = true;
        call_->Finish(*end_);
      }
    }

    std::mutex mutex_;
    WatchCall* call_;  // guarded, like all below, by mutex_
    std::optional<v1::WatchRunResponse> pending_;
    v1::WatchRunResponse message_;  // being written
    std::optional<grpc::Status> end_;
    bool writing_ = false;
    bool finished_ = false;
  };

  std::shared_ptr<Feed> feed() const { return feed_; }
  void OnWriteDone(bool ok) override { feed_->Written(ok); }
  void OnCancel() override { feed_->Cancelled(); }
  void OnDone() override {
    feed_->Gone();
    delete this;
  }

 private:
  const std::shared_ptr<Feed> feed_;
};

class RunServiceImpl : public v1::RunService::CallbackService {
 public:
  explicit RunServiceImpl(Coordinator* coordinator) : coordinator_(coordinator) {}

  grpc::ServerUnaryReactor* SubmitRun(grpc::CallbackServerContext* context,
                                      const v1::SubmitRunRequest* request,
                                      v1::SubmitRunResponse* response) override {
    return UnaryCall<v1::SubmitRunResponse>::Start(
        response, [&](auto done) { coordinator_->SubmitRun(*request, rpc::CallerOf(*context), std::move(done)); });
  }
  grpc::ServerUnaryReactor* GetRun(grpc::CallbackServerContext*, const v1::GetRunRequest* request,
                                   v1::GetRunResponse* response) override {
    return UnaryCall<v1::GetRunResponse>::Start(
        response, [&](auto done) { coordinator_->GetRun(*request, std::move(done)); });
  }
  grpc::ServerUnaryReactor* ListRuns(grpc::CallbackServerContext*,
                                     const v1::ListRunsRequest* request,
                                     v1::ListRunsResponse* response) override {
    return UnaryCall<v1::ListRunsResponse>::Start(
        response, [&](auto done) { coordinator_->ListRuns(*request, std::move(done)); });
  }
  grpc::ServerWriteReactor<v1::WatchRunResponse>* WatchRun(
      grpc::CallbackServerContext*, const v1::WatchRunRequest* request) override {
    auto* call = new WatchCall();
    const auto feed = call->feed();
    coordinator_->WatchRun(*request, feed,
                           [feed](const absl::Status& status) { feed->End(rpc::ToGrpc(status)); });
    return call;
  }
  grpc::ServerUnaryReactor* PauseRun(grpc::CallbackServerContext* context,
                                     const v1::PauseRunRequest* request,
                                     v1::PauseRunResponse* response) override {
    return UnaryCall<v1::PauseRunResponse>::Start(
        response, [&](auto done) { coordinator_->PauseRun(*request, rpc::CallerOf(*context), std::move(done)); });
  }
  grpc::ServerUnaryReactor* ResumeRun(grpc::CallbackServerContext* context,
                                      const v1::ResumeRunRequest* request,
                                      v1::ResumeRunResponse* response) override {
    return UnaryCall<v1::ResumeRunResponse>::Start(
        response, [&](auto done) { coordinator_->ResumeRun(*request, rpc::CallerOf(*context), std::move(done)); });
  }
  grpc::ServerUnaryReactor* StopRun(grpc::CallbackServerContext* context, const v1::StopRunRequest* request,
                                    v1::StopRunResponse* response) override {
    return UnaryCall<v1::StopRunResponse>::Start(
        response, [&](auto done) { coordinator_->StopRun(*request, rpc::CallerOf(*context), std::move(done)); });
  }
  grpc::ServerUnaryReactor* ExportRun(grpc::CallbackServerContext* context,
                                      const v1::ExportRunRequest* request,
                                      v1::ExportRunResponse* response) override {
    return UnaryCall<v1::ExportRunResponse>::Start(
        response, [&](auto done) { coordinator_->ExportRun(*request, rpc::CallerOf(*context), std::move(done)); });
  }
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext*,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override {
    return UnaryCall<v1::ListWorkersResponse>::Start(
        response, [&](auto done) { coordinator_->ListWorkers(*request, std::move(done)); });
  }

 private:
  Coordinator* const coordinator_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeRunService(Coordinator* coordinator) {
  return std::make_unique<RunServiceImpl>(coordinator);
}

}  // namespace espalier::coordinator
