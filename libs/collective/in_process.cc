// Communicators of one process for tests: ranks are threads that meet at a barrier and read each
// other's buffers.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"

namespace espalier::collective {
namespace {

// What a rank shows the others during one call.
struct Offer {
  const void* data = nullptr;
  const int64_t* sizes = nullptr;
  int64_t length = 0;
};

// Where the threads meet. Thread-safe.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size), offers_(size) {}
  // Waits for all ranks; fails for all once any has aborted.
  absl::Status Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!aborted_.ok()) return aborted_;
    const uint64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return absl::OkStatus();
    }
    changed_.wait(lock, [&] { return round_ != round || !aborted_.ok(); });
    return round_ != round ? absl::OkStatus() : aborted_;
  }
  void Abort(absl::Status reason) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (aborted_.ok()) aborted_ = std::move(reason);
    changed_.notify_all();
  }
  absl::Status aborted() {
    std::lock_guard<std::mutex> lock(mutex_);
    return aborted_;
  }
  std::vector<Offer>& offers() { return offers_; }
  int size() const { return size_; }

 private:
  const int size_;
  std::vector<Offer> offers_;  // written by its rank before Wait, read by all after it
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  uint64_t round_ = 0;
  absl::Status aborted_;
};

class InProcessCommunicator final : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Meeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}
  ~InProcessCommunicator() override {
    meeting_->Abort(absl::UnavailableError(absl::StrCat("rank ", rank_, " is gone")));
  }
  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }

  absl::Status AllReduceSum(std::span<float> data) override { return Reduce(data, Sum<float>); }
  absl::Status AllReduceSum(std::span<double> data) override { return Reduce(data, Sum<double>); }
  absl::Status AllReduceSum(std::span<int64_t> data) override { return Reduce(data, Sum<int64_t>); }
  absl::Status AllReduceMin(std::span<int64_t> data) override {
    return Reduce(data, [](int64_t a, int64_t b) { return std::min(a, b); });
  }

  absl::Status AllToAllV(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                         std::span<std::byte> recv, std::span<const int64_t> recv_bytes) override {
    RETURN_IF_ERROR(Show(send.data(), send_bytes.data(), size()));
    absl::Status result;
    int64_t to = 0;
    for (int peer = 0; peer < size(); ++peer) {
      const Offer& offer = meeting_->offers()[peer];
      if (offer.sizes[rank_] != recv_bytes[peer]) {
        result = absl::InvalidArgumentError(
            absl::StrCat("all-to-all: rank ", peer, " sends ", offer.sizes[rank_],
                         " bytes to rank ", rank_, ", which expects ", recv_bytes[peer]));
        break;
      }
      int64_t from = 0;
      for (int before = 0; before < rank_; ++before) from += offer.sizes[before];
      if (recv_bytes[peer] > 0) {
        std::memcpy(recv.data() + to, static_cast<const std::byte*>(offer.data) + from,
                    recv_bytes[peer]);
      }
      to += recv_bytes[peer];
    }
    return Finish(result);
  }

  absl::Status AllToAll(std::span<const int64_t> send, std::span<int64_t> recv) override {
    RETURN_IF_ERROR(Show(send.data(), nullptr, send.size()));
    absl::Status result;
    const int64_t each = static_cast<int64_t>(send.size()) / size();
    for (int peer = 0; peer < size(); ++peer) {
      const Offer& offer = meeting_->offers()[peer];
      if (offer.length != static_cast<int64_t>(send.size())) {
        result = absl::InvalidArgumentError(absl::StrCat("all-to-all: rank ", peer, " sends ",
                                                         offer.length, " values, rank ", rank_, " ",
                                                         send.size()));
        break;
      }
      std::copy_n(static_cast<const int64_t*>(offer.data) + rank_ * each, each,
                  recv.begin() + peer * each);
    }
    return Finish(result);
  }

  absl::Status Broadcast(int root, std::string* data) override {
    RETURN_IF_ERROR(Show(data->data(), nullptr, data->size()));
    std::string copy;
    if (rank_ != root) {
      const Offer& offer = meeting_->offers()[root];
      copy.assign(static_cast<const char*>(offer.data), offer.length);
    }
    RETURN_IF_ERROR(meeting_->Wait());
    if (rank_ != root) *data = std::move(copy);
    return absl::OkStatus();
  }

  absl::Status Barrier() override { return meeting_->Wait(); }
  void Abort(absl::Status reason) override { meeting_->Abort(std::move(reason)); }
  absl::Status Health() override { return meeting_->aborted(); }

 private:
  template <typename T>
  static T Sum(T a, T b) {
    return a + b;
  }

  absl::Status Show(const void* data, const int64_t* sizes, int64_t length) {
    meeting_->offers()[rank_] = {data, sizes, length};
    return meeting_->Wait();
  }
  // Buffers may be changed again once everybody has read them; only then does a rank that saw a
  // mismatch end the group.
  absl::Status Finish(const absl::Status& result) {
    const absl::Status met = meeting_->Wait();
    if (!result.ok()) meeting_->Abort(result);
    return result.ok() ? met : result;
  }

  template <typename T, typename Op>
  absl::Status Reduce(std::span<T> data, Op op) {
    RETURN_IF_ERROR(Show(data.data(), nullptr, data.size()));
    absl::Status result;
    std::vector<T> total;
    for (int peer = 0; peer < size(); ++peer) {
      const Offer& offer = meeting_->offers()[peer];
      if (offer.length != static_cast<int64_t>(data.size())) {
        result = absl::InvalidArgumentError(absl::StrCat("all-reduce: rank ", peer, " has ",
                                                         offer.length, " values, rank ", rank_, " ",
                                                         data.size()));
        break;
      }
      const T* values = static_cast<const T*>(offer.data);
      if (peer == 0) {
        total.assign(values, values + data.size());
      } else {
        for (size_t i = 0; i < data.size(); ++i) total[i] = op(total[i], values[i]);
      }
    }
    RETURN_IF_ERROR(Finish(result));
    std::copy(total.begin(), total.end(), data.begin());
    return absl::OkStatus();
  }

  std::shared_ptr<Meeting> meeting_;  // owned by all ranks of the group together
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeInProcessCommunicators(int size) {
  auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<InProcessCommunicator>(meeting, rank));
  }
  return ranks;
}

}  // namespace espalier::collective
