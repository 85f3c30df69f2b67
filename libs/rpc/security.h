// How servers and channels prove who they are: TLS by files that are read again when they change,
// bearer tokens, or plaintext on loopback.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_context.h"

namespace espalier::rpc {

// All are paths of PEM files, or of the token file; empty leaves that part out.
struct ServerSecurity {
  std::string certificate, key;    // of the server; without them it speaks plaintext
  std::string client_authorities;  // callers must show a certificate signed by these
  std::string tokens;              // see TokenTable; callers must send one of them
  bool tls() const { return !certificate.empty() || !key.empty(); }
};

struct ClientSecurity {
  std::string authorities;       // that sign the servers' certificates; with it, channels speak TLS
  std::string certificate, key;  // of this client, where servers ask for one
  std::string token_file;        // holds one token; read again when it changes
};

// InvalidArgument names the flag, the file and what is wrong with it: unreadable, no PEM, a key of
// another certificate, a certificate that has expired.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerSecurity& security, bool loopback);

// Every channel that MakeChannel makes from now on. Call once in main, before the first channel.
absl::Status UseClientSecurity(const ClientSecurity& security);
ClientSecurity UsedClientSecurity();

// Credentials of a channel to `address`, as UseClientSecurity said.
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const std::string& address);

// Who calls: the holder of the token, else the common name of the certificate, else the address.
std::string CallerOf(const grpc::ServerContextBase& context);

bool IsLoopback(const std::string& host);

}  // namespace espalier::rpc
