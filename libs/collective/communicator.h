// Communicator: how the ranks of a run exchange tensors. The model and the trainer know only this
// interface.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace espalier::collective {

// A group of ranks that make the same calls in the same order. Every call blocks until this rank's
// part is done. After an error (a peer died, Abort) every further call fails with kUnavailable or
// kAborted at once.
//
// Reductions add in rank order, so results are the same bits on every rank and in every repetition.
// Not thread-safe, but Abort() and Health() may be called from any thread at any time.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data[i] becomes the sum over ranks of data[i]; the same length on every rank.
  virtual absl::Status AllReduceSum(std::span<float> data) = 0;
  virtual absl::Status AllReduceSum(std::span<double> data) = 0;
  virtual absl::Status AllReduceMin(std::span<int64_t> data) = 0;
  virtual absl::Status AllReduceSum(std::span<int64_t> data) = 0;

  // Sends send_bytes[r] bytes to each rank r, taken from `send` in rank order without gaps, and
  // receives recv_bytes[r] bytes from each rank r into `recv` likewise. Sizes must agree pairwise.
  virtual absl::Status AllToAllV(std::span<const std::byte> send,
                                 std::span<const int64_t> send_bytes, std::span<std::byte> recv,
                                 std::span<const int64_t> recv_bytes) = 0;

  // Every rank's `value` (counts per destination), transposed: result[r] is what rank r had for
  // this rank. `values` holds `size() * per_rank` entries. Used to agree on sizes before AllToAllV.
  virtual absl::Status AllToAll(std::span<const int64_t> send, std::span<int64_t> recv) = 0;

  // `data` of `root` reaches every rank; resized on the others.
  virtual absl::Status Broadcast(int root, std::string* data) = 0;

  virtual absl::Status Barrier() = 0;

  // Ends every pending and later call of this rank, and through its links those of its peers.
  virtual void Abort(absl::Status reason) = 0;

  // Whether the group is still whole, as far as can be known without exchanging anything: kUnavailable
  // or what Abort was given once it was aborted or a peer's link has closed. For those who wait for a
  // peer by other means.
  virtual absl::Status Health() = 0;
};

// One rank alone.
std::unique_ptr<Communicator> MakeSingleCommunicator();

// `size` communicators of one process, for tests: call each from a thread of its own.
std::vector<std::unique_ptr<Communicator>> MakeInProcessCommunicators(int size);

// The listening end of a worker's links: bound once at start, used for one group after another.
// Thread-safe.
class LinkListener {
 public:
  // Binds `host:port`; port 0 takes a free one. kUnavailable names the port when it is in use.
  static absl::StatusOr<std::unique_ptr<LinkListener>> Bind(const std::string& host, int port);
  virtual ~LinkListener() = default;
  virtual std::string endpoint() const = 0;  // host:port as bound
};

struct LinkOptions {
  int rank = 0;
  std::vector<std::string> peers;  // link endpoints by rank, this rank's own included
  std::string key;  // secret of the group and epoch; a connection that does not know it is dropped
  absl::Duration connect_timeout = absl::Seconds(30);
  // A call that makes no progress for this long fails: a peer hangs or the network lost it.
  absl::Duration stall_timeout = absl::Seconds(120);
  // Polled while connecting; true gives up with kAborted. May be empty.
  std::function<bool()> cancelled;
};

// Connects all ranks pairwise over TCP (shared memory or others may come beside it).
absl::StatusOr<std::unique_ptr<Communicator>> ConnectLinks(LinkListener& listener,
                                                           const LinkOptions& options);

}  // namespace espalier::collective
