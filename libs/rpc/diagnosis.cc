// A look at a server: TCP, then a handshake of TLS by OpenSSL in memory, whose bytes this file
// carries over the socket, so that every wait is bounded and no signal is raised.
#include "libs/rpc/diagnosis.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace espalier::rpc {
namespace {

struct AddressFree {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
struct ContextFree {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  bool Await(short events, absl::Time deadline) const {
    pollfd poll_fd{.fd = fd_, .events = events, .revents = 0};
    const auto left = absl::ToInt64Milliseconds(deadline - absl::Now());
    return left > 0 && poll(&poll_fd, 1, static_cast<int>(left)) == 1;
  }
  bool Send(const char* data, size_t size, absl::Time deadline) const {
    while (size > 0) {
      if (!Await(POLLOUT, deadline)) return false;
      const ssize_t sent = send(fd_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (sent > 0) {
        data += sent;
        size -= static_cast<size_t>(sent);
      }
    }
    return true;
  }

 private:
  const int fd_;
};

// Connects; otherwise says in `cause` why not.
int Connect(const std::string& host, const std::string& port, absl::Time deadline,
            std::string* cause) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int bad = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); bad != 0) {
    *cause = absl::StrCat("no address is known for \"", host, "\" (", gai_strerror(bad),
                          "): check the name");
    return -1;
  }
  const std::unique_ptr<addrinfo, AddressFree> list(found);
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    const int fd = socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    int error = connect(fd, each->ai_addr, each->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      pollfd poll_fd{.fd = fd, .events = POLLOUT, .revents = 0};
      const auto left = absl::ToInt64Milliseconds(deadline - absl::Now());
      socklen_t size = sizeof(error);
      if (left <= 0 || poll(&poll_fd, 1, static_cast<int>(left)) != 1) {
        error = ETIMEDOUT;
      } else {
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
    if (error == 0) return fd;
    close(fd);
    *cause = error == ECONNREFUSED ? std::string("nothing listens there: start it")
                                   : absl::StrCat(std::strerror(error),
                                                  ": check the address and what stands between");
  }
  return -1;
}

struct Outcome {
  bool connected = false;          // the handshake came to its end on this side
  bool answered = false;           // and the server spoke after it
  bool asked_certificate = false;  // it wants to see one of this client
  bool closed = false;             // it hung up
  long verified = X509_V_OK;       // what this client thinks of the server's certificate
  int reason = 0;                  // OpenSSL's, when the handshake failed
};

int NoteRequest(SSL* ssl, void* asked) {
  *static_cast<bool*>(asked) = true;
  return 1;
}

// One handshake and a wait for the server's first words, which is when TLS 1.3 tells of refusal.
class Handshake {
 public:
  Handshake(const Socket& socket, absl::Time deadline) : socket_(socket), deadline_(deadline) {}

  Outcome Run(const std::string& host, const ClientSecurity& security) {
    const std::unique_ptr<SSL_CTX, ContextFree> context(SSL_CTX_new(TLS_client_method()));
    Prepare(context.get(), security);
    ssl_.reset(SSL_new(context.get()));
    SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    Name(host);
    SSL_set_connect_state(ssl_.get());
    ERR_clear_error();
    outcome_.connected = Drive([&] { return SSL_do_handshake(ssl_.get()); });
    outcome_.verified = SSL_get_verify_result(ssl_.get());
    char byte = 0;
    if (outcome_.connected) {
      outcome_.answered = Drive([&] { return SSL_read(ssl_.get(), &byte, 1); });
    }
    return outcome_;
  }

 private:
  void Prepare(SSL_CTX* context, const ClientSecurity& security) {
    if (!security.authorities.empty()) {
      SSL_CTX_load_verify_file(context, security.authorities.c_str());
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    }
    if (!security.certificate.empty()) {
      SSL_CTX_use_certificate_chain_file(context, security.certificate.c_str());
      SSL_CTX_use_PrivateKey_file(context, security.key.c_str(), SSL_FILETYPE_PEM);
    }
    SSL_CTX_set_cert_cb(context, NoteRequest, &outcome_.asked_certificate);
    // gRPC's servers hang up on who does not offer HTTP/2.
    constexpr unsigned char kHttp2[] = {2, 'h', '2'};
    SSL_CTX_set_alpn_protos(context, kHttp2, sizeof(kHttp2));
  }

  void Name(const std::string& host) {
    X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl_.get());
    if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str()) == 1) return;
    X509_VERIFY_PARAM_set1_host(parameters, host.c_str(), 0);
    SSL_set_tlsext_host_name(ssl_.get(), host.c_str());
  }

  // Carries bytes both ways until `step` is done. False: the peer hung up, OpenSSL gave up, or time
  // is over.
  template <typename Step>
  bool Drive(Step step) {
    while (true) {
      const int done = step();
      const int error = SSL_get_error(ssl_.get(), done);
      char* data = nullptr;
      const long size = BIO_get_mem_data(SSL_get_wbio(ssl_.get()), &data);
      if (size > 0) {
        socket_.Send(data, static_cast<size_t>(size), deadline_);
        (void)BIO_reset(SSL_get_wbio(ssl_.get()));
      }
      if (done > 0) return true;
      if (error != SSL_ERROR_WANT_READ) {
        outcome_.reason = ERR_GET_REASON(ERR_peek_last_error());
        ERR_clear_error();
        return false;
      }
      if (!Receive()) return false;
    }
  }

  bool Receive() {
    if (!socket_.Await(POLLIN, deadline_)) return false;
    char buffer[4096];
    const ssize_t size = recv(socket_.fd(), buffer, sizeof(buffer), 0);
    outcome_.closed = size <= 0;
    if (outcome_.closed) return false;
    BIO_write(SSL_get_rbio(ssl_.get()), buffer, static_cast<int>(size));
    return true;
  }

  const Socket& socket_;
  const absl::Time deadline_;
  Outcome outcome_;
  std::unique_ptr<SSL, SslFree> ssl_;
};

std::string BadCertificate(const Outcome& outcome, const std::string& host,
                           const ClientSecurity& security) {
  switch (outcome.verified) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "its certificate, or one of the authority, has expired: renew its --tls-cert";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return "its certificate is not valid yet: check the clocks of both machines";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::StrCat("its certificate is not for \"", host,
                          "\": call it by a name that the certificate has, or issue one with this "
                          "name (subjectAltName)");
    default:
      return absl::StrCat("its certificate is not signed by an authority in ", security.authorities,
                          " (", X509_verify_cert_error_string(outcome.verified),
                          "): give its authority as --tls-ca");
  }
}

std::string OfTls(const Outcome& outcome, const std::string& host, const ClientSecurity& security) {
  if (outcome.verified != X509_V_OK) return BadCertificate(outcome, host, security);
  if (outcome.answered) return "";
  if (outcome.reason == SSL_R_WRONG_VERSION_NUMBER) {
    return "it speaks plaintext, not TLS: start it with --tls-cert and --tls-key, or leave "
           "--tls-ca "
           "out if the network is trusted";
  }
  if (outcome.asked_certificate && security.certificate.empty()) {
    return "it asks for a client's certificate: give --tls-client-cert and --tls-client-key";
  }
  if (outcome.asked_certificate) {
    return absl::StrCat("it refused the certificate in ", security.certificate,
                        ": give one that has not expired and is signed by an authority of its "
                        "--tls-client-ca");
  }
  if (outcome.closed) return "it hung up in the handshake of TLS: look at its log";
  return "it takes connections and does not answer: look at its log";
}

}  // namespace

std::string WhyUnreachable(const std::string& address, const ClientSecurity& security,
                           absl::Duration patience) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return "the address is not host:port";
  std::string host = address.substr(0, colon);
  const bool tls = !security.authorities.empty();
  if (!tls && !security.token_file.empty() && !IsLoopback(host)) {
    return "a token travels over TLS only: give --tls-ca";
  }
  host = std::string(absl::StripSuffix(absl::StripPrefix(host, "["), "]"));
  std::string cause;
  const Socket socket(Connect(host, address.substr(colon + 1), absl::Now() + patience, &cause));
  if (socket.fd() < 0) return cause;
  Handshake handshake(socket, absl::Now() + patience);
  const Outcome outcome = handshake.Run(host, security);
  if (tls) return OfTls(outcome, host, security);
  // To a server of plaintext, TLS is a bad start of HTTP/2; it says so or hangs up.
  if (outcome.connected) return "it speaks TLS: give --tls-ca, the authority of its certificate";
  return "";
}

std::string WhyFailed(const std::string& address, const grpc::Status& status) {
  std::string why;
  // Cancelled is what a stream that broke under us ends with.
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
      status.error_code() == grpc::StatusCode::CANCELLED) {
    why = WhyUnreachable(address, UsedClientSecurity());
  }
  return why.empty() ? status.error_message() : why;
}

}  // namespace espalier::rpc
