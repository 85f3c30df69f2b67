// PeerWindow: device memory of every rank of a host, mapped into this process, so that kernels read and write it directly. Ranks of one
// process hand each other plain pointers, ranks of one host CUDA IPC handles; what cannot be mapped is agreed on by all.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/peer.h"
#include "kernels/cuda/runtime.h"
#include "libs/collective/communicator.h"

namespace espalier::model {

// Not thread-safe. Mappings end with the object. Memory that a peer of the same process has mapped lives until its last window ends; that
// of another process must not be freed before all ranks have stopped using it.
class PeerWindow {
 public:
  PeerWindow() = default;
  PeerWindow(PeerWindow&& other) noexcept = default;
  PeerWindow& operator=(PeerWindow&& other) noexcept;
  ~PeerWindow() { Close(); }

  // Allocates `bytes`, zeroed, here and maps every rank's; all ranks ask for the same. (collective)
  static absl::StatusOr<PeerWindow> Allocate(int64_t bytes, collective::Communicator& communicator);
  // Maps what each rank has at `own`, the start of an allocation that outlives the window. (collective)
  static absl::StatusOr<PeerWindow> Share(void* own, collective::Communicator& communicator);
  // kFailedPrecondition, the same on all ranks, says why some rank cannot map another's memory. Other errors end the group.

  // Ends this rank's mappings of others' memory, and keeps its own: what comes before anybody frees any.
  void Unmap();

  std::byte* of(int rank) const { return bases_[rank]; }
  int ranks() const { return static_cast<int>(bases_.size()); }
  // Two ranks are threads of one process on one device: a call of one that waits for the device waits for the other's kernels too.
  bool shares_context() const { return shares_context_; }
  // "4 ranks: 2 by CUDA IPC, ..." for logs.
  const std::string& description() const { return description_; }

 private:
  absl::Status Map(void* own, collective::Communicator& communicator);
  void Close();

  std::vector<std::byte*> bases_;
  std::vector<void*> opened_;                  // by IPC, to be closed
  std::vector<std::shared_ptr<void>> kept_;    // this process's
  bool shares_context_ = false;
  std::string description_;
};

}  // namespace espalier::model
