// A communicator of one rank: every reduction is the identity, every exchange a copy.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "libs/collective/communicator.h"

namespace espalier::collective {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(std::span<float>) override { return Check(); }
  absl::Status AllReduceSum(std::span<double>) override { return Check(); }
  absl::Status AllReduceSum(std::span<int64_t>) override { return Check(); }
  absl::Status AllReduceMin(std::span<int64_t>) override { return Check(); }
  absl::Status AllToAllV(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                         std::span<std::byte> recv, std::span<const int64_t> recv_bytes) override {
    if (send_bytes.size() != 1 || recv_bytes.size() != 1 || send_bytes[0] != recv_bytes[0]) {
      return absl::InvalidArgumentError("all-to-all of one rank: sizes differ");
    }
    if (send_bytes[0] > 0) std::memcpy(recv.data(), send.data(), send_bytes[0]);
    return Check();
  }
  absl::Status AllToAll(std::span<const int64_t> send, std::span<int64_t> recv) override {
    if (send.size() != recv.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("all-to-all: sends ", send.size(), " values, expects ", recv.size()));
    }
    std::copy(send.begin(), send.end(), recv.begin());
    return Check();
  }
  absl::Status Broadcast(int, std::string*) override { return Check(); }
  absl::Status Barrier() override { return Check(); }
  void Abort(absl::Status reason) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (aborted_.ok()) aborted_ = std::move(reason);
  }
  absl::Status Health() override { return Check(); }

 private:
  absl::Status Check() {
    std::lock_guard<std::mutex> lock(mutex_);
    return aborted_;
  }
  std::mutex mutex_;
  absl::Status aborted_;
};

}  // namespace

std::unique_ptr<Communicator> MakeSingleCommunicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace espalier::collective
