// FleetService: one bidirectional stream a worker, with bounded queues both ways and one owner of
// Finish.
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "espalier/v1/fleet_service.grpc.pb.h"
#include "google/protobuf/arena.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "services/coordinator/services.h"
#include "services/coordinator/unary_call.h"

namespace espalier::coordinator {
namespace {

// One word and all its parts in a few blocks of memory: a report has hundreds of parts, and they
// are freed on another thread than they were made on.
struct ArenaWord {
  static google::protobuf::ArenaOptions Blocks() {
    google::protobuf::ArenaOptions options;
    options.start_block_size = 1024;
    options.max_block_size = 8192;
    return options;
  }
  google::protobuf::Arena arena{Blocks()};
  v1::AttachRequest* const request =
      google::protobuf::Arena::CreateMessage<v1::AttachRequest>(&arena);
};

// Deletes itself when gRPC is done with it; the link outlives it and then drops what it is told.
class AttachCall : public grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse> {
 public:
  // Words to a worker that does not read.
  static constexpr size_t kOutgoingMax = 4096;
  // Words of a worker that the coordinator has not handled yet; the stream is read no further until
  // it has.
  static constexpr int kUnhandledMax = 256;

  AttachCall(Coordinator* coordinator, grpc::CallbackServerContext* context)
      : coordinator_(coordinator), context_(context), link_(std::make_shared<Link>(this)) {
    link_->Read();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      // Taken out first: the next read may begin on the coordinator's thread at any moment after
      // ReadDone.
      const std::shared_ptr<ArenaWord> word = std::move(incoming_);
      link_->ReadDone();
      coordinator_->Heard(link_, {word, word->request});
      link_->Read();
    } else {
      // Half-closed, or broken: OnDone knows which.
      link_->Close(absl::OkStatus());
    }
  }
  void OnWriteDone(bool ok) override { link_->Written(ok); }
  void OnCancel() override { link_->Close(absl::CancelledError("the stream broke")); }
  void OnDone() override {
    const bool clean = !context_->IsCancelled();
    link_->Gone();
    coordinator_->Closed(link_, clean);
    delete this;
  }

 private:
  class Link : public WorkerLink {
   public:
    explicit Link(AttachCall* call) : call_(call) {}

    void Send(v1::AttachResponse word) override {
      std::lock_guard lock(mutex_);
      if (call_ == nullptr || end_.has_value()) return;
      if (outgoing_.size() >= kOutgoingMax) {
        LOG(WARNING) << "worker_cut_off reason=\"does not read\" words=" << outgoing_.size();
        EndLocked(absl::ResourceExhaustedError("the worker reads too slowly; attach again"));
        return;
      }
      outgoing_.push_back(std::move(word));
      Advance();
    }
    void Close(const absl::Status& status) override {
      std::lock_guard lock(mutex_);
      EndLocked(status);
    }
    void Processed() override {
      std::lock_guard lock(mutex_);
      --unhandled_;
      ReadLocked();
    }

    // A read was completed with a word.
    void ReadDone() {
      std::lock_guard lock(mutex_);
      reading_ = false;
      ++unhandled_;
    }
    void Read() {
      std::lock_guard lock(mutex_);
      ReadLocked();
    }
    void Written(bool ok) {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!outgoing_.empty()) outgoing_.pop_front();
      if (!ok) EndLocked(absl::CancelledError("the stream broke"));
      Advance();
    }
    void Gone() {
      std::lock_guard lock(mutex_);
      call_ = nullptr;
    }

   private:
    void ReadLocked() {
      if (call_ == nullptr || reading_ || end_.has_value() || unhandled_ >= kUnhandledMax) return;
      reading_ = true;
      call_->incoming_ = std::make_shared<ArenaWord>();
      call_->StartRead(call_->incoming_->request);
    }
    void EndLocked(const absl::Status& status) {
      if (call_ == nullptr || end_.has_value()) return;
      end_ = rpc::ToGrpc(status);
      // A write to a peer that reads nothing would never end by itself.
      if (writing_ && !status.ok()) call_->context_->TryCancel();
      Advance();
    }
    // The one place that writes and finishes: one write at a time, Finish once, with no write under
    // way.
    void Advance() {
      if (call_ == nullptr || writing_ || finished_) return;
      if (end_.has_value()) {
        finished_ = true;
        outgoing_.clear();
        call_->Finish(*end_);
      } else if (!outgoing_.empty()) {
        writing_ = true;
        call_->StartWrite(&outgoing_.front());
      }
    }

    std::mutex mutex_;
    AttachCall* call_;                         // guarded, like all below, by mutex_
    std::deque<v1::AttachResponse> outgoing_;  // the front is being written while writing_
    std::optional<grpc::Status> end_;
    int unhandled_ = 0;
    bool reading_ = false;
    bool writing_ = false;
    bool finished_ = false;
  };

  Coordinator* const coordinator_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<ArenaWord> incoming_;  // being read
  const std::shared_ptr<Link> link_;
};

class FleetServiceImpl : public v1::FleetService::CallbackService {
 public:
  explicit FleetServiceImpl(Coordinator* coordinator) : coordinator_(coordinator) {}

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context) override {
    return new AttachCall(coordinator_, context);
  }
  grpc::ServerUnaryReactor* ReportSteps(grpc::CallbackServerContext*,
                                        const v1::ReportStepsRequest* request,
                                        v1::ReportStepsResponse* response) override {
    return UnaryCall<v1::ReportStepsResponse>::Start(
        response, [&](auto done) { coordinator_->ReportSteps(*request, std::move(done)); });
  }

 private:
  Coordinator* const coordinator_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeFleetService(Coordinator* coordinator) {
  return std::make_unique<FleetServiceImpl>(coordinator);
}

}  // namespace espalier::coordinator
