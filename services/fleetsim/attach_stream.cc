// AttachStream over gRPC's callback API: one write at a time, a hold until the reads have ended.
#include "services/fleetsim/attach_stream.h"

#include <deque>
#include <mutex>
#include <utility>

#include "libs/rpc/server.h"

namespace espalier::fleetsim {
namespace {

class Reactor : public grpc::ClientBidiReactor<v1::AttachRequest, v1::AttachResponse>,
                public AttachStream {
 public:
  Reactor(Heard heard, Ended ended) : heard_(std::move(heard)), ended_(std::move(ended)) {}

  void Start(v1::FleetService::Stub* stub, std::shared_ptr<Reactor> self) {
    self_ = std::move(self);
    stub->async()->Attach(&context_, this);
    // Writes start outside of reactions.
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  void Send(v1::AttachRequest word) override {
    std::lock_guard lock(mutex_);
    if (over_ || closing_) return;
    outgoing_.push_back(std::move(word));
    Advance();
  }
  size_t backlog() const override {
    std::lock_guard lock(mutex_);
    return outgoing_.size();
  }
  void Close() override {
    std::lock_guard lock(mutex_);
    closing_ = true;
    Advance();
  }
  void Cut() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (ok) {
      heard_(std::exchange(incoming_, {}));
      StartRead(&incoming_);
      return;
    }
    std::lock_guard lock(mutex_);
    over_ = true;
    RemoveHold();
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!outgoing_.empty()) outgoing_.pop_front();
    if (ok) Advance();
  }
  void OnDone(const grpc::Status& status) override {
    ended_(rpc::FromGrpc(status));
    const std::shared_ptr<Reactor> last = std::move(self_);
  }

 private:
  void Advance() {
    if (over_ || writing_) return;
    if (!outgoing_.empty()) {
      writing_ = true;
      StartWrite(&outgoing_.front());
    } else if (closing_ && !closed_) {
      closed_ = true;
      StartWritesDone();
    }
  }

  const Heard heard_;
  const Ended ended_;
  grpc::ClientContext context_;
  v1::AttachResponse incoming_;
  std::shared_ptr<Reactor> self_;  // owned by the call itself until OnDone
  mutable std::mutex mutex_;
  std::deque<v1::AttachRequest> outgoing_;  // guarded, like all below; the front is being written
  bool writing_ = false;
  bool closing_ = false;
  bool closed_ = false;
  bool over_ = false;
};

}  // namespace

std::shared_ptr<AttachStream> AttachStream::Open(v1::FleetService::Stub* stub, Heard heard,
                                                 Ended ended) {
  auto reactor = std::make_shared<Reactor>(std::move(heard), std::move(ended));
  reactor->Start(stub, reactor);
  return reactor;
}

}  // namespace espalier::fleetsim
