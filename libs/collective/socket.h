// A socket that closes itself, and the few calls on it that links need. Linux.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace espalier::collective {

// Owns a file descriptor. Move-only.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct Endpoint {
  std::string host;
  int port = 0;
};
absl::StatusOr<Endpoint> ParseEndpoint(const std::string& text);

// Listens on host:port; port 0 takes a free one. kUnavailable names the address when it is in use.
absl::StatusOr<Socket> ListenTcp(const Endpoint& endpoint);
int BoundPort(const Socket& socket);

// Both end at `deadline` with kDeadlineExceeded; ConnectTcp retries while nobody listens yet.
absl::StatusOr<Socket> ConnectTcp(const Endpoint& endpoint, absl::Time deadline);
absl::StatusOr<Socket> AcceptTcp(const Socket& listener, absl::Time deadline);

// Whole buffers, before `deadline`.
absl::Status SendAll(const Socket& socket, std::span<const std::byte> data, absl::Time deadline);
absl::Status ReceiveAll(const Socket& socket, std::span<std::byte> data, absl::Time deadline);

// False when nothing has come by `deadline`; a closed socket counts as readable.
bool WaitReadable(const Socket& socket, absl::Time deadline);

// Sets up a connected socket for links: non-blocking, no delay, large buffers.
void TuneLink(const Socket& socket);

}  // namespace espalier::collective
