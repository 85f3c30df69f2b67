#include "libs/collective/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/status_macros.h"

namespace espalier::collective {
namespace {

constexpr int kBacklog = 1024;
constexpr int kBufferBytes = 4 << 20;

int PollMilliseconds(absl::Time deadline) {
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1000));
}

absl::Status WaitFor(const Socket& socket, short events, absl::Time deadline, const char* what) {
  while (true) {
    pollfd entry{.fd = socket.fd(), .events = events, .revents = 0};
    const int ready = poll(&entry, 1, PollMilliseconds(deadline));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) {
      return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
    }
    if (absl::Now() >= deadline)
      return absl::DeadlineExceededError(absl::StrCat(what, ": timed out"));
  }
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

absl::StatusOr<Addresses> Resolve(const Endpoint& endpoint, bool passive) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const std::string port = absl::StrCat(endpoint.port);
  const int error = getaddrinfo(endpoint.host.c_str(), port.c_str(), &hints, &list);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve host \"", endpoint.host, "\": ", gai_strerror(error)));
  }
  return Addresses(list);
}

// One attempt; the caller decides whether to try again.
absl::StatusOr<Socket> TryConnect(const addrinfo& address, absl::Time deadline) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return absl::UnavailableError(absl::StrCat("socket: ", strerror(errno)));
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return absl::UnavailableError(strerror(errno));
    RETURN_IF_ERROR(WaitFor(socket, POLLOUT, deadline, "connect"));
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return absl::UnavailableError(strerror(error));
  }
  return socket;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Endpoint> ParseEndpoint(const std::string& text) {
  const size_t colon = text.rfind(':');
  Endpoint endpoint;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &endpoint.port) ||
      endpoint.port < 0 || endpoint.port > 65535 || colon == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not an endpoint: write host:port, such as 127.0.0.1:7100"));
  }
  endpoint.host = text.substr(0, colon);
  if (endpoint.host.front() == '[' && endpoint.host.back() == ']') {
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  }
  return endpoint;
}

absl::StatusOr<Socket> ListenTcp(const Endpoint& endpoint) {
  ASSIGN_OR_RETURN(const Addresses addresses, Resolve(endpoint, /*passive=*/true));
  Socket socket(::socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return absl::UnavailableError(absl::StrCat("socket: ", strerror(errno)));
  const int on = 1;
  setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(socket.fd(), addresses->ai_addr, addresses->ai_addrlen) != 0 ||
      listen(socket.fd(), kBacklog) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for links on ", endpoint.host, ":",
                                               endpoint.port, ": ", strerror(errno),
                                               "; choose another port, or 0 for a free one"));
  }
  return socket;
}

int BoundPort(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

absl::StatusOr<Socket> ConnectTcp(const Endpoint& endpoint, absl::Time deadline) {
  while (true) {
    absl::Status failure;
    auto addresses = Resolve(endpoint, /*passive=*/false);
    failure = addresses.status();
    if (addresses.ok()) {
      for (const addrinfo* one = addresses->get(); one != nullptr; one = one->ai_next) {
        auto socket = TryConnect(*one, deadline);
        if (socket.ok()) return socket;
        failure = socket.status();
      }
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("cannot connect to ", endpoint.host, ":",
                                                      endpoint.port, ": ", failure.message()));
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
}

absl::StatusOr<Socket> AcceptTcp(const Socket& listener, absl::Time deadline) {
  while (true) {
    RETURN_IF_ERROR(WaitFor(listener, POLLIN, deadline, "accept"));
    Socket socket(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) return socket;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      return absl::UnavailableError(absl::StrCat("accept: ", strerror(errno)));
    }
  }
}

absl::Status SendAll(const Socket& socket, std::span<const std::byte> data, absl::Time deadline) {
  while (!data.empty()) {
    const ssize_t n = send(socket.fd(), data.data(), data.size(), MSG_NOSIGNAL);
    if (n > 0) {
      data = data.subspan(n);
    } else if (errno == EAGAIN || errno == EINTR) {
      RETURN_IF_ERROR(WaitFor(socket, POLLOUT, deadline, "send"));
    } else {
      return absl::UnavailableError(absl::StrCat("send: ", strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(const Socket& socket, std::span<std::byte> data, absl::Time deadline) {
  while (!data.empty()) {
    const ssize_t n = recv(socket.fd(), data.data(), data.size(), 0);
    if (n > 0) {
      data = data.subspan(n);
    } else if (n == 0) {
      return absl::UnavailableError("the other side closed the connection");
    } else if (errno == EAGAIN || errno == EINTR) {
      RETURN_IF_ERROR(WaitFor(socket, POLLIN, deadline, "receive"));
    } else {
      return absl::UnavailableError(absl::StrCat("receive: ", strerror(errno)));
    }
  }
  return absl::OkStatus();
}

bool WaitReadable(const Socket& socket, absl::Time deadline) {
  return WaitFor(socket, POLLIN, deadline, "receive").ok();
}

void TuneLink(const Socket& socket) {
  const int on = 1, bytes = kBufferBytes;
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket.fd(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(socket.fd(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

}  // namespace espalier::collective
