// Collectives over a full mesh of sockets. Everything is one primitive: send each peer a message
// and receive one from each, all at once and without blocking on any, so that large messages both
// ways never wait for each other.
#include "libs/collective/link_group.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"

namespace espalier::collective {
namespace {

// A peer that computes answers within this time most of the time: spinning saves two context
// switches.
constexpr absl::Duration kSpin = absl::Microseconds(50);
// Reductions of at most this many bytes are gathered whole on every rank: one exchange instead of
// two.
constexpr size_t kGatherBytesMax = 64 << 10;

enum class Op : uint32_t {
  kReduce = 1,
  kGather,
  kAllToAllV,
  kAllToAll,
  kBroadcastSize,
  kBroadcast,
  kBarrier
};

struct Header {
  uint32_t op = 0;
  uint32_t sequence = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(Header) == 16);

// One direction of one link during an exchange.
struct Flow {
  Header header;
  std::byte* data = nullptr;
  size_t size = 0;
  size_t done = 0;  // header bytes included
  bool finished() const { return done == sizeof(Header) + size; }
};

class LinkGroup final : public Communicator {
 public:
  LinkGroup(int rank, std::vector<Socket> links, absl::Duration stall_timeout)
      : rank_(rank),
        links_(std::move(links)),
        stall_timeout_(stall_timeout),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(links_.size()); }

  absl::Status AllReduceSum(std::span<float> data) override { return Reduce(data, Plus<float>); }
  absl::Status AllReduceSum(std::span<double> data) override { return Reduce(data, Plus<double>); }
  absl::Status AllReduceSum(std::span<int64_t> data) override {
    return Reduce(data, Plus<int64_t>);
  }
  absl::Status AllReduceMin(std::span<int64_t> data) override {
    return Reduce(data, [](int64_t a, int64_t b) { return std::min(a, b); });
  }

  absl::Status AllToAllV(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                         std::span<std::byte> recv, std::span<const int64_t> recv_bytes) override {
    if (static_cast<int>(send_bytes.size()) != size() ||
        static_cast<int>(recv_bytes.size()) != size()) {
      return absl::InvalidArgumentError("all-to-all: one size per rank is needed");
    }
    std::vector<std::span<const std::byte>> out(size());
    std::vector<std::span<std::byte>> in(size());
    size_t from = 0, to = 0;
    for (int peer = 0; peer < size(); ++peer) {
      out[peer] = send.subspan(from, send_bytes[peer]);
      in[peer] = recv.subspan(to, recv_bytes[peer]);
      from += send_bytes[peer];
      to += recv_bytes[peer];
    }
    return Exchange(Op::kAllToAllV, out, in);
  }

  absl::Status AllToAll(std::span<const int64_t> send, std::span<int64_t> recv) override {
    if (send.size() != recv.size() || send.size() % size() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "all-to-all: ", send.size(), " and ", recv.size(), " values over ", size(), " ranks"));
    }
    const size_t each = send.size() / size();
    std::vector<std::span<const std::byte>> out(size());
    std::vector<std::span<std::byte>> in(size());
    for (int peer = 0; peer < size(); ++peer) {
      out[peer] = std::as_bytes(send.subspan(peer * each, each));
      in[peer] = std::as_writable_bytes(recv.subspan(peer * each, each));
    }
    return Exchange(Op::kAllToAll, out, in);
  }

  absl::Status Broadcast(int root, std::string* data) override {
    if (root < 0 || root >= size()) {
      return absl::InvalidArgumentError(absl::StrCat("broadcast: no rank ", root));
    }
    int64_t length = static_cast<int64_t>(data->size());
    RETURN_IF_ERROR(
        FromRoot(Op::kBroadcastSize, root, std::as_writable_bytes(std::span(&length, 1))));
    if (rank_ != root) data->resize(length);
    return FromRoot(Op::kBroadcast, root, std::as_writable_bytes(std::span(*data)));
  }

  absl::Status Barrier() override {
    return Exchange(Op::kBarrier, std::vector<std::span<const std::byte>>(size()),
                    std::vector<std::span<std::byte>>(size()));
  }

  void Abort(absl::Status reason) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (failure_.ok()) failure_ = std::move(reason);
    }
    // The peers see the end of the stream; this rank's own poll wakes by the event.
    for (const Socket& link : links_) {
      if (link.valid()) shutdown(link.fd(), SHUT_RDWR);
    }
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake_.fd(), &one, sizeof(one));
  }

  // The end of a peer's stream shows also behind bytes that nobody has read yet.
  absl::Status Health() override {
    absl::Status failure = Failure();
    for (int peer = 0; peer < size() && failure.ok(); ++peer) {
      if (peer == rank_) continue;
      pollfd entry{.fd = links_[peer].fd(), .events = POLLRDHUP, .revents = 0};
      if (poll(&entry, 1, 0) > 0) failure = Lost(peer, "its link is closed");
    }
    return failure;
  }

 private:
  template <typename T>
  static T Plus(T a, T b) {
    return a + b;
  }

  absl::Status Failure() {
    std::lock_guard<std::mutex> lock(mutex_);
    return failure_;
  }

  // Fails this and every later call, here and, through the closed links, on the peers.
  absl::Status Fail(absl::Status reason) {
    const absl::Status earlier = Failure();
    if (!earlier.ok()) return earlier;
    Abort(reason);
    return reason;
  }

  template <typename T, typename Combine>
  absl::Status Reduce(std::span<T> data, Combine combine) {
    if (data.size_bytes() <= kGatherBytesMax || static_cast<int>(data.size()) < size()) {
      return ReduceChunk(data, data, combine, /*everybody_has_all=*/true);
    }
    // Each rank sums one chunk for all, then hands it round.
    auto begin_of = [&](int rank) { return data.size() * rank / size(); };
    const std::span<T> mine = data.subspan(begin_of(rank_), begin_of(rank_ + 1) - begin_of(rank_));
    RETURN_IF_ERROR(ReduceChunk(data, mine, combine, /*everybody_has_all=*/false));
    std::vector<std::span<const std::byte>> out(size(), std::as_bytes(mine));
    std::vector<std::span<std::byte>> in(size());
    for (int peer = 0; peer < size(); ++peer) {
      in[peer] =
          std::as_writable_bytes(data.subspan(begin_of(peer), begin_of(peer + 1) - begin_of(peer)));
    }
    in[rank_] = {};
    out[rank_] = {};
    return Exchange(Op::kGather, out, in);
  }

  // `mine` becomes the combination over ranks, in rank order. Peers get the whole of `data`, or the
  // chunk that is theirs.
  template <typename T, typename Combine>
  absl::Status ReduceChunk(std::span<T> data, std::span<T> mine, Combine combine,
                           bool everybody_has_all) {
    std::vector<std::vector<T>> parts(size());
    std::vector<std::span<const std::byte>> out(size());
    std::vector<std::span<std::byte>> in(size());
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      const size_t begin = everybody_has_all ? 0 : data.size() * peer / size();
      const size_t end = everybody_has_all ? data.size() : data.size() * (peer + 1) / size();
      out[peer] = std::as_bytes(data.subspan(begin, end - begin));
      parts[peer].resize(mine.size());
      in[peer] = std::as_writable_bytes(std::span(parts[peer]));
    }
    RETURN_IF_ERROR(Exchange(Op::kReduce, out, in));
    parts[rank_].assign(mine.begin(), mine.end());
    for (size_t i = 0; i < mine.size(); ++i) mine[i] = parts[0][i];
    for (int peer = 1; peer < size(); ++peer) {
      const T* part = parts[peer].data();
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = combine(mine[i], part[i]);
    }
    return absl::OkStatus();
  }

  absl::Status FromRoot(Op op, int root, std::span<std::byte> data) {
    std::vector<std::span<const std::byte>> out(size());
    std::vector<std::span<std::byte>> in(size());
    if (rank_ == root) {
      std::fill(out.begin(), out.end(), data);
      out[rank_] = {};
    } else {
      in[root] = data;
    }
    return Exchange(op, out, in);
  }

  // The primitive: out[p] goes to each peer p and in[p] is filled from it. out[rank] is copied to
  // in[rank].
  absl::Status Exchange(Op op, const std::vector<std::span<const std::byte>>& out,
                        const std::vector<std::span<std::byte>>& in) {
    RETURN_IF_ERROR(Failure());
    ++sequence_;
    if (out[rank_].size() != in[rank_].size()) {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat("exchange: rank ", rank_, " sends itself ", out[rank_].size(),
                       " bytes and expects ", in[rank_].size())));
    }
    if (!in[rank_].empty()) std::memcpy(in[rank_].data(), out[rank_].data(), in[rank_].size());
    std::vector<Flow> sends(size()), receives(size());
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      sends[peer] = {.header = {static_cast<uint32_t>(op), sequence_, out[peer].size()},
                     .data = const_cast<std::byte*>(out[peer].data()),
                     .size = out[peer].size()};
      receives[peer] = {.data = in[peer].data(), .size = in[peer].size()};
    }
    return Drive(op, sends, receives);
  }

  absl::Status Drive(Op op, std::vector<Flow>& sends, std::vector<Flow>& receives) {
    absl::Time idle_since = absl::InfiniteFuture();
    while (true) {
      bool progress = false, finished = true;
      for (int peer = 0; peer < size(); ++peer) {
        if (peer == rank_) continue;
        ASSIGN_OR_RETURN(const bool sent, Send(peer, sends[peer]));
        ASSIGN_OR_RETURN(const bool received, Receive(peer, op, receives[peer]));
        progress |= sent || received;
        finished &= sends[peer].finished() && receives[peer].finished();
      }
      if (finished) return absl::OkStatus();
      if (progress) {
        idle_since = absl::InfiniteFuture();
        continue;
      }
      const absl::Time now = absl::Now();
      if (idle_since == absl::InfiniteFuture()) idle_since = now;
      const absl::Duration idle = now - idle_since;
      if (idle >= stall_timeout_) return Fail(Stalled(sends, receives));
      if (idle >= kSpin) RETURN_IF_ERROR(Sleep(sends, receives));
    }
  }

  absl::Status Stalled(const std::vector<Flow>& sends, const std::vector<Flow>& receives) const {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank_ && !(sends[peer].finished() && receives[peer].finished())) {
        return absl::UnavailableError(absl::StrCat("rank ", peer, " made no progress for ",
                                                   absl::FormatDuration(stall_timeout_)));
      }
    }
    return absl::UnavailableError("a rank made no progress");
  }

  // True when bytes moved.
  absl::StatusOr<bool> Send(int peer, Flow& flow) {
    if (flow.finished()) return false;
    iovec parts[2];
    int count = 0;
    if (flow.done < sizeof(Header)) {
      parts[count++] = {reinterpret_cast<std::byte*>(&flow.header) + flow.done,
                        sizeof(Header) - flow.done};
    }
    const size_t payload_done = flow.done < sizeof(Header) ? 0 : flow.done - sizeof(Header);
    if (flow.size > payload_done) {
      parts[count++] = {flow.data + payload_done, flow.size - payload_done};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const ssize_t n = sendmsg(links_[peer].fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      flow.done += n;
      return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    return Fail(Lost(peer, n < 0 ? strerror(errno) : "link closed"));
  }

  absl::StatusOr<bool> Receive(int peer, Op op, Flow& flow) {
    if (flow.finished()) return false;
    const bool in_header = flow.done < sizeof(Header);
    std::byte* to = in_header ? reinterpret_cast<std::byte*>(&flow.header) + flow.done
                              : flow.data + (flow.done - sizeof(Header));
    const size_t wanted =
        in_header ? sizeof(Header) - flow.done : flow.size - (flow.done - sizeof(Header));
    const ssize_t n = recv(links_[peer].fd(), to, wanted, MSG_DONTWAIT);
    if (n == 0) return Fail(Lost(peer, "it closed the link"));
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR) return false;
      return Fail(Lost(peer, strerror(errno)));
    }
    flow.done += n;
    if (in_header && flow.done == sizeof(Header)) {
      const Header& got = flow.header;
      if (got.op != static_cast<uint32_t>(op) || got.sequence != sequence_ ||
          got.bytes != flow.size) {
        return Fail(absl::InternalError(
            absl::StrCat("ranks disagree: rank ", peer, " is at call ", got.sequence, " (kind ",
                         got.op, ", ", got.bytes, " bytes), rank ", rank_, " at call ", sequence_,
                         " (kind ", static_cast<uint32_t>(op), ", ", flow.size, " bytes)")));
      }
    }
    return true;
  }

  absl::Status Lost(int peer, const char* why) const {
    return absl::UnavailableError(absl::StrCat("lost rank ", peer, ": ", why));
  }

  // Until a link is ready, the group is aborted, or a short while has passed.
  absl::Status Sleep(const std::vector<Flow>& sends, const std::vector<Flow>& receives) {
    std::vector<pollfd> entries{{.fd = wake_.fd(), .events = POLLIN, .revents = 0}};
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      const short events = static_cast<short>((sends[peer].finished() ? 0 : POLLOUT) |
                                              (receives[peer].finished() ? 0 : POLLIN));
      if (events != 0) entries.push_back({.fd = links_[peer].fd(), .events = events, .revents = 0});
    }
    poll(entries.data(), entries.size(), 200);
    return Failure();
  }

  const int rank_;
  const std::vector<Socket> links_;
  const absl::Duration stall_timeout_;
  const Socket wake_;  // an eventfd: Abort wakes a sleeping exchange through it
  uint32_t sequence_ = 0;
  std::mutex mutex_;
  absl::Status failure_;  // guarded by mutex_
};

}  // namespace

std::unique_ptr<Communicator> MakeLinkGroup(int rank, std::vector<Socket> links,
                                            absl::Duration stall_timeout) {
  return std::make_unique<LinkGroup>(rank, std::move(links), stall_timeout);
}

}  // namespace espalier::collective
