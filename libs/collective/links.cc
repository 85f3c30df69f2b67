// LinkListener and ConnectLinks: the ranks of a group find each other over TCP and prove that they
// belong together.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"
#include "libs/collective/communicator.h"
#include "libs/collective/link_group.h"
#include "libs/collective/socket.h"
#include "libs/observe/log.h"

namespace espalier::collective {
namespace {

constexpr uint32_t kMagic = 0x4c505345;  // "ESPL"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kKeyBytes = 64;
// A stranger that connects and says nothing holds up the others no longer than this.
constexpr absl::Duration kGreetingTimeout = absl::Seconds(2);

// What the connecting rank says first. The key is padded with zeros or cut.
struct Greeting {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t rank = 0;
  uint32_t size = 0;
  char key[kKeyBytes] = {};
};
static_assert(sizeof(Greeting) == 16 + kKeyBytes);

class TcpListener final : public LinkListener {
 public:
  TcpListener(Socket socket, std::string host)
      : socket_(std::move(socket)), endpoint_(absl::StrCat(host, ":", BoundPort(socket_))) {}
  std::string endpoint() const override { return endpoint_; }
  const Socket& socket() const { return socket_; }

 private:
  const Socket socket_;
  const std::string endpoint_;
};

Greeting MakeGreeting(const LinkOptions& options) {
  Greeting greeting;
  greeting.rank = options.rank;
  greeting.size = static_cast<uint32_t>(options.peers.size());
  std::memcpy(greeting.key, options.key.data(), std::min<size_t>(options.key.size(), kKeyBytes));
  return greeting;
}

// Equality in constant time: how long it takes says nothing about how much of a guess was right.
bool SameKey(const Greeting& a, const Greeting& b) {
  unsigned char difference = 0;
  for (uint32_t i = 0; i < kKeyBytes; ++i) difference |= a.key[i] ^ b.key[i];
  return difference == 0;
}

// How often a wait looks whether it is still wanted.
constexpr absl::Duration kSlice = absl::Milliseconds(200);

absl::Status CheckWanted(const LinkOptions& options) {
  if (options.cancelled && options.cancelled()) {
    return absl::AbortedError("links were cancelled while the ranks connected");
  }
  return absl::OkStatus();
}

absl::StatusOr<Socket> ConnectToRank(const LinkOptions& options, int peer, absl::Time deadline) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(options.peers[peer]));
  const Greeting greeting = MakeGreeting(options);
  absl::Status last;
  while (absl::Now() < deadline) {
    RETURN_IF_ERROR(CheckWanted(options));
    auto connected = ConnectTcp(endpoint, std::min(deadline, absl::Now() + kSlice));
    last = connected.status();
    if (!last.ok()) continue;
    Socket socket = std::move(connected).value();
    last = SendAll(socket, std::as_bytes(std::span(&greeting, 1)), deadline);
    // The kernel takes a connection before the peer does: its answer may be long in coming.
    while (last.ok() && !WaitReadable(socket, std::min(deadline, absl::Now() + kSlice))) {
      RETURN_IF_ERROR(CheckWanted(options));
      if (absl::Now() >= deadline) last = absl::DeadlineExceededError("it did not answer");
    }
    uint32_t answer = 0;
    if (last.ok()) {
      last = ReceiveAll(socket, std::as_writable_bytes(std::span(&answer, 1)), deadline);
    }
    if (last.ok() && answer == kMagic) return socket;
    // The peer may still serve an earlier group: it turns this key away until it has moved on.
    absl::SleepFor(absl::Milliseconds(50));
  }
  return absl::UnavailableError(
      absl::StrCat("no link to rank ", peer, " at ", options.peers[peer], ": ", last.message()));
}

// "rank 2, rank 3": the higher ranks that have not come.
std::string MissingRanks(const std::vector<Socket>& links, int rank) {
  std::string names;
  for (size_t peer = rank + 1; peer < links.size(); ++peer) {
    if (!links[peer].valid()) absl::StrAppend(&names, names.empty() ? "rank " : ", rank ", peer);
  }
  return names;
}

// Accepts until every higher rank has come; strangers and leftovers of other groups are dropped.
absl::Status AcceptHigherRanks(TcpListener& listener, const LinkOptions& options,
                               absl::Time deadline, std::vector<Socket>& links) {
  const Greeting own = MakeGreeting(options);
  const int size = static_cast<int>(options.peers.size());
  int missing = size - options.rank - 1;
  while (missing > 0) {
    RETURN_IF_ERROR(CheckWanted(options));
    auto accepted = AcceptTcp(listener.socket(), std::min(deadline, absl::Now() + kSlice));
    if (absl::IsDeadlineExceeded(accepted.status()) && absl::Now() < deadline) continue;
    if (!accepted.ok()) {
      return absl::UnavailableError(
          absl::StrCat("rank ", options.rank, " waited in vain at ", listener.endpoint(), " for ",
                       MissingRanks(links, options.rank), ": ", accepted.status().message()));
    }
    Socket socket = std::move(accepted).value();
    Greeting greeting;
    const absl::Time patience = std::min(deadline, absl::Now() + kGreetingTimeout);
    const absl::Status greeted =
        ReceiveAll(socket, std::as_writable_bytes(std::span(&greeting, 1)), patience);
    const bool belongs = greeted.ok() && greeting.magic == kMagic && greeting.version == kVersion &&
                         SameKey(greeting, own) && greeting.size == own.size &&
                         greeting.rank > own.rank && greeting.rank < own.size &&
                         !links[greeting.rank].valid();
    if (!belongs) {
      LOG(INFO) << "link_refused endpoint=" << listener.endpoint();
      continue;
    }
    if (!SendAll(socket, std::as_bytes(std::span(&kMagic, 1)), patience).ok()) continue;
    links[greeting.rank] = std::move(socket);
    --missing;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinkListener>> LinkListener::Bind(const std::string& host,
                                                                 int port) {
  ASSIGN_OR_RETURN(Socket socket, ListenTcp({host, port}));
  return std::make_unique<TcpListener>(std::move(socket), host);
}

absl::StatusOr<std::unique_ptr<Communicator>> ConnectLinks(LinkListener& listener,
                                                           const LinkOptions& options) {
  const int size = static_cast<int>(options.peers.size());
  if (size == 0 || options.rank < 0 || options.rank >= size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " is not one of ", size, " ranks"));
  }
  if (size == 1) return MakeSingleCommunicator();
  const absl::Time deadline = absl::Now() + options.connect_timeout;
  std::vector<Socket> links(size);
  for (int peer = 0; peer < options.rank; ++peer) {
    ASSIGN_OR_RETURN(links[peer], ConnectToRank(options, peer, deadline));
  }
  RETURN_IF_ERROR(AcceptHigherRanks(static_cast<TcpListener&>(listener), options, deadline, links));
  for (int peer = 0; peer < size; ++peer) {
    if (peer != options.rank) TuneLink(links[peer]);
  }
  return MakeLinkGroup(options.rank, std::move(links), options.stall_timeout);
}

}  // namespace espalier::collective
