// Why a channel does not connect. gRPC says "Socket closed" alike for a missing certificate, a
// refused one and plaintext met by TLS; this looks for itself.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "grpcpp/support/status.h"
#include "libs/rpc/security.h"

namespace espalier::rpc {

// One line, cause and remedy, of what stands in the way of a channel to `address` (host:port) with
// these credentials. Empty when nothing does: the server is there and lets such a channel in.
// Connects once, over TCP and TLS, and blocks for at most `patience` for each (and for as long as
// the system looks the name up). Thread-safe.
std::string WhyUnreachable(const std::string& address, const ClientSecurity& security,
                           absl::Duration patience = absl::Seconds(2));

// Why a call to `address` failed, for a log or a terminal: what the server said, or, when there was
// none to say anything, what WhyUnreachable finds with the credentials of UseClientSecurity.
std::string WhyFailed(const std::string& address, const grpc::Status& status);

}  // namespace espalier::rpc
