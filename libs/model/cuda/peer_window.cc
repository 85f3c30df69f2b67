// What each rank tells the others about its memory, and the agreement on whether all could map it.
#include "libs/model/cuda/peer_window.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::model {
namespace {

constexpr int kTextMax = 200;
// Allocations below it may share a block with others, and the handle would show those too.
constexpr int64_t kGranule = int64_t{2} << 20;

// One rank's memory, as it tells all others. Fixed size, same machine type.
struct Card {
  char host[kTextMax] = {};  // host name and boot id
  uint64_t process = 0;      // a random number of the process
  char device[16] = {};      // UUID
  int ordinal = 0;           // the device's number within the process
  int ipc_error = 0;
  cudaIpcMemHandle_t handle{};
  void* pointer = nullptr;
  const std::shared_ptr<void>* owner = nullptr;  // read by ranks of the same process before the agreement ends
};

struct Verdict {
  char reason[kTextMax] = {};  // empty: all mapped
};

void Copy(const std::string& text, char (&to)[kTextMax]) {
  std::strncpy(to, text.c_str(), kTextMax - 1);
}

std::string HostIdentity() {
  char name[100] = {};
  gethostname(name, sizeof(name) - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return absl::StrCat(name, " ", boot);
}

uint64_t ProcessToken() {
  static const uint64_t token = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return token;
}

// The same bytes to every rank; one from each.
template <typename U>
absl::StatusOr<std::vector<U>> Gather(const U& own, collective::Communicator& communicator) {
  const std::vector<U> send(communicator.size(), own);
  std::vector<U> all(communicator.size());
  const std::vector<int64_t> bytes(communicator.size(), sizeof(U));
  RETURN_IF_ERROR(communicator.AllToAllV(std::as_bytes(std::span<const U>(send)), bytes,
                                         std::as_writable_bytes(std::span<U>(all)), bytes));
  all[communicator.rank()] = own;
  return all;
}

absl::StatusOr<Card> DescribeMemory(void* own, const std::shared_ptr<void>& owner) {
  Card card;
  Copy(HostIdentity(), card.host);
  card.process = ProcessToken();
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&card.ordinal));
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, card.ordinal));
  std::memcpy(card.device, properties.uuid.bytes, sizeof(card.device));
  card.ipc_error = cudaIpcGetMemHandle(&card.handle, own);
  if (card.ipc_error != cudaSuccess) cudaGetLastError();
  card.pointer = own;
  card.owner = owner == nullptr ? nullptr : &owner;
  return card;
}

// Kernels of this device may read and write memory of device `other`, which this process sees.
std::string EnablePeer(int own, int other) {
  if (own == other) return "";
  int can = 0;
  if (cudaDeviceCanAccessPeer(&can, own, other) != cudaSuccess || can == 0) {
    cudaGetLastError();
    return absl::StrCat("GPU ", own, " has no peer access to GPU ", other);
  }
  const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
  cudaGetLastError();
  if (error == cudaSuccess || error == cudaErrorPeerAccessAlreadyEnabled) return "";
  return absl::StrCat("peer access to GPU ", other, ": ", cudaGetErrorString(error));
}

}  // namespace

PeerWindow& PeerWindow::operator=(PeerWindow&& other) noexcept {
  Close();
  bases_ = std::move(other.bases_);
  opened_ = std::move(other.opened_);
  kept_ = std::move(other.kept_);
  shares_context_ = other.shares_context_;
  description_ = std::move(other.description_);
  return *this;
}

void PeerWindow::Unmap() {
  for (void* mapped : opened_) cudaIpcCloseMemHandle(mapped);
  opened_.clear();
  bases_.clear();
}

void PeerWindow::Close() {
  Unmap();
  kept_.clear();
}

absl::Status PeerWindow::Map(void* own, collective::Communicator& communicator) {
  const std::shared_ptr<void> owner = kept_.empty() ? nullptr : kept_.front();
  ASSIGN_OR_RETURN(const Card mine, DescribeMemory(own, owner));
  ASSIGN_OR_RETURN(const std::vector<Card> cards, Gather(mine, communicator));
  std::string reason;
  int by_pointer = 0, by_ipc = 0;
  bases_.assign(communicator.size(), nullptr);
  if (communicator.size() > kernels::cuda::kPeersMax) {
    reason = absl::StrCat(communicator.size(), " ranks; windows are made for at most ",
                          kernels::cuda::kPeersMax);
  }
  for (int rank = 0; rank < communicator.size() && reason.empty(); ++rank) {
    const Card& card = cards[rank];
    if (rank == communicator.rank()) {
      bases_[rank] = static_cast<std::byte*>(own);
    } else if (std::strncmp(card.host, mine.host, kTextMax) != 0) {
      reason = absl::StrCat("rank ", rank, " runs on another host");
    } else if (card.process == mine.process) {
      reason = EnablePeer(mine.ordinal, card.ordinal);
      bases_[rank] = static_cast<std::byte*>(card.pointer);
      if (card.owner != nullptr) kept_.push_back(*card.owner);
      ++by_pointer;
    } else if (card.ipc_error != 0) {
      reason = absl::StrCat("rank ", rank, " cannot export its memory: ",
                            cudaGetErrorString(static_cast<cudaError_t>(card.ipc_error)));
    } else {
      void* mapped = nullptr;
      const cudaError_t error =
          cudaIpcOpenMemHandle(&mapped, card.handle, cudaIpcMemLazyEnablePeerAccess);
      if (error != cudaSuccess) {
        cudaGetLastError();
        reason = absl::StrCat("memory of rank ", rank, ": ", cudaGetErrorString(error));
        continue;
      }
      opened_.push_back(mapped);
      bases_[rank] = static_cast<std::byte*>(mapped);
      ++by_ipc;
    }
  }
  for (size_t a = 0; a < cards.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      shares_context_ |= cards[a].process == cards[b].process && cards[a].ordinal == cards[b].ordinal;
    }
  }
  Verdict verdict;
  Copy(reason, verdict.reason);
  ASSIGN_OR_RETURN(const std::vector<Verdict> verdicts, Gather(verdict, communicator));
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (verdicts[rank].reason[0] == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", rank, ": ", verdicts[rank].reason));
  }
  description_ = absl::StrCat(communicator.size(), " ranks, ", by_ipc, " of the peers by CUDA IPC, ",
                              by_pointer, " within the process");
  return absl::OkStatus();
}

absl::StatusOr<PeerWindow> PeerWindow::Share(void* own, collective::Communicator& communicator) {
  PeerWindow window;
  RETURN_IF_ERROR(window.Map(own, communicator));
  return window;
}

absl::StatusOr<PeerWindow> PeerWindow::Allocate(int64_t bytes,
                                                collective::Communicator& communicator) {
  const int64_t rounded = (bytes + kGranule - 1) / kGranule * kGranule;
  ASSIGN_OR_RETURN(kernels::cuda::Memory memory, kernels::cuda::Memory::Allocate(rounded));
  auto owned = std::make_shared<kernels::cuda::Memory>(std::move(memory));
  RETURN_IF_CUDA_ERROR(cudaMemset(owned->data(), 0, rounded));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(nullptr));
  PeerWindow window;
  window.kept_.push_back(owned);
  RETURN_IF_ERROR(window.Map(owned->data(), communicator));
  return window;
}

}  // namespace espalier::model
