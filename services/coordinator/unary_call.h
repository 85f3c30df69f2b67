// UnaryCall: a unary RPC that is answered later, from another thread, or cancelled first; Finish
// has one owner.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "libs/rpc/server.h"
#include "services/coordinator/run.h"

namespace espalier::coordinator {

// Deletes itself. The Done given to `work` may be called on any thread, even after the client has
// gone.
template <typename Response>
class UnaryCall : public grpc::ServerUnaryReactor {
 public:
  template <typename Work>
  static grpc::ServerUnaryReactor* Start(Response* response, Work work) {
    auto* call = new UnaryCall(response);
    work(Done<Response>([answer = call->answer_](absl::StatusOr<Response> result) {
      answer->Send(std::move(result));
    }));
    return call;
  }

  void OnCancel() override { answer_->Send(absl::CancelledError("the caller has gone")); }
  void OnDone() override { delete this; }

 private:
  // Owned by the call and by whoever will answer it; whoever takes `call` out finishes it.
  struct Answer {
    std::mutex mutex;
    UnaryCall* call = nullptr;
    void Send(absl::StatusOr<Response> result) {
      UnaryCall* mine = nullptr;
      {
        std::lock_guard lock(mutex);
        mine = std::exchange(call, nullptr);
      }
      if (mine == nullptr) return;
      if (result.ok()) *mine->response_ = *std::move(result);
      mine->Finish(rpc::ToGrpc(result.status()));
    }
  };

  explicit UnaryCall(Response* response)
      : response_(response), answer_(std::make_shared<Answer>()) {
    answer_->call = this;
  }

  Response* const response_;
  const std::shared_ptr<Answer> answer_;
};

}  // namespace espalier::coordinator
