// Credentials by gRPC's own certificate watcher; tokens by its metadata processor.
#include "libs/rpc/security.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <sstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/security/auth_metadata_processor.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "libs/base/status_macros.h"
#include "libs/observe/log.h"
#include "libs/rpc/server.h"
#include "libs/rpc/tokens.h"

namespace espalier::rpc {
namespace {

constexpr unsigned int kRefreshSeconds = 1;
constexpr char kHolderProperty[] = "espalier_token_holder";

absl::StatusOr<std::string> ReadFile(const std::string& flag, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": cannot read ", path, ": ", std::strerror(errno)));
  }
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

struct BioFree {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
struct X509Free {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct KeyFree {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, BioFree>;
using Certificate = std::unique_ptr<X509, X509Free>;
using PrivateKey = std::unique_ptr<EVP_PKEY, KeyFree>;

absl::StatusOr<Certificate> ReadCertificate(const std::string& flag, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flag, path));
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": ", path, " holds no certificate in PEM form"));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": the certificate in ", path, " has expired; renew it"));
  }
  return certificate;
}

absl::Status CheckPair(const std::string& certificate_flag, const std::string& certificate_path,
                       const std::string& key_flag, const std::string& key_path) {
  if (certificate_path.empty() || key_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(certificate_path.empty() ? key_flag : certificate_flag, " needs ",
                     certificate_path.empty() ? certificate_flag : key_flag, " beside it"));
  }
  ASSIGN_OR_RETURN(const Certificate certificate,
                   ReadCertificate(certificate_flag, certificate_path));
  ASSIGN_OR_RETURN(const std::string text, ReadFile(key_flag, key_path));
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  const PrivateKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        key_flag, ": ", key_path, " holds no private key in PEM form without a password"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        key_flag, ": the key in ", key_path, " is not of the certificate in ", certificate_path));
  }
  return absl::OkStatus();
}

// Refuses calls without a token that may make them. gRPC calls it on many threads.
class TokenProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit TokenProcessor(std::unique_ptr<TokenFile> tokens) : tokens_(std::move(tokens)) {}
  // A look at a table; the file is read at most once a second.
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata*) override {
    const auto value = [&](const char* key) {
      const auto it = metadata.find(key);
      return it == metadata.end() ? std::string_view()
                                  : std::string_view(it->second.data(), it->second.size());
    };
    const std::string_view header = value("authorization");
    std::string holder;
    const absl::Status status = tokens_->Check(header, value(":path"), absl::Now(), &holder);
    if (status.ok() && context != nullptr) context->AddProperty(kHolderProperty, holder);
    if (!header.empty()) consumed->emplace("authorization", std::string(header));
    return ToGrpc(status);
  }

 private:
  const std::unique_ptr<TokenFile> tokens_;
};

// Sends the token that the file holds now.
class TokenPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenPlugin(std::string path) : path_(std::move(path)) {}
  bool IsBlocking() const override { return true; }
  const char* GetType() const override { return "espalier token"; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    const auto token = ReadFile("--token-file", path_);
    if (!token.ok()) return ToGrpc(absl::UnauthenticatedError(token.status().message()));
    metadata->emplace("authorization", absl::StrCat("Bearer ", absl::StripAsciiWhitespace(*token)));
    return grpc::Status::OK;
  }

 private:
  const std::string path_;
};

std::mutex client_mutex;
ClientSecurity& Client() {
  static auto* const kSecurity = new ClientSecurity;
  return *kSecurity;
}

}  // namespace

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerSecurity& security, bool loopback) {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (security.tls()) {
    RETURN_IF_ERROR(CheckPair("--tls-cert", security.certificate, "--tls-key", security.key));
    auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
        security.key, security.certificate, security.client_authorities, kRefreshSeconds);
    grpc::experimental::TlsServerCredentialsOptions options(provider);
    options.watch_identity_key_cert_pairs();
    if (!security.client_authorities.empty()) {
      RETURN_IF_ERROR(ReadCertificate("--tls-client-ca", security.client_authorities).status());
      options.watch_root_certs();
      options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    }
    credentials = grpc::experimental::TlsServerCredentials(options);
  } else if (!security.client_authorities.empty()) {
    return absl::InvalidArgumentError(
        "--tls-client-ca needs --tls-cert and --tls-key: only TLS asks for certificates");
  } else if (security.tokens.empty()) {
    return grpc::InsecureServerCredentials();
  } else if (loopback) {
    credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  } else {
    return absl::InvalidArgumentError(
        "--tokens needs --tls-cert and --tls-key beyond loopback: who reads the wire would have "
        "the "
        "tokens");
  }
  if (!security.tokens.empty()) {
    ASSIGN_OR_RETURN(auto tokens, TokenFile::Open(security.tokens));
    credentials->SetAuthMetadataProcessor(std::make_shared<TokenProcessor>(std::move(tokens)));
  }
  return credentials;
}

absl::Status UseClientSecurity(const ClientSecurity& security) {
  if (!security.authorities.empty()) {
    RETURN_IF_ERROR(ReadCertificate("--tls-ca", security.authorities).status());
  }
  if (!security.certificate.empty() || !security.key.empty()) {
    if (security.authorities.empty()) {
      return absl::InvalidArgumentError(
          "--tls-client-cert needs --tls-ca: without it channels speak plaintext");
    }
    RETURN_IF_ERROR(
        CheckPair("--tls-client-cert", security.certificate, "--tls-client-key", security.key));
  }
  if (!security.token_file.empty()) {
    ASSIGN_OR_RETURN(const std::string token, ReadFile("--token-file", security.token_file));
    if (absl::StripAsciiWhitespace(token).empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--token-file: ", security.token_file, " is empty"));
    }
  }
  std::lock_guard lock(client_mutex);
  Client() = security;
  return absl::OkStatus();
}

ClientSecurity UsedClientSecurity() {
  std::lock_guard lock(client_mutex);
  return Client();
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const std::string& address) {
  const ClientSecurity security = UsedClientSecurity();
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  grpc_security_level least = GRPC_PRIVACY_AND_INTEGRITY;
  if (!security.authorities.empty()) {
    auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
        security.key, security.certificate, security.authorities, kRefreshSeconds);
    grpc::experimental::TlsChannelCredentialsOptions options;
    options.set_certificate_provider(provider);
    options.watch_root_certs();
    if (!security.certificate.empty()) options.watch_identity_key_cert_pairs();
    credentials = grpc::experimental::TlsCredentials(options);
  } else if (security.token_file.empty()) {
    return grpc::InsecureChannelCredentials();
  } else {
    if (!IsLoopback(address.substr(0, address.rfind(':')))) {
      // The local credentials below refuse such a peer, too.
      LOG(WARNING) << "token_not_sent address=" << address
                   << " remedy=\"a token travels over TLS only: give --tls-ca\"";
    }
    credentials = grpc::experimental::LocalCredentials(LOCAL_TCP);
    least = GRPC_SECURITY_NONE;
  }
  if (security.token_file.empty()) return credentials;
  return grpc::CompositeChannelCredentials(
      credentials, grpc::experimental::MetadataCredentialsFromPlugin(
                       std::make_unique<TokenPlugin>(security.token_file), least));
}

std::string CallerOf(const grpc::ServerContextBase& context) {
  if (const auto auth = context.auth_context(); auth != nullptr) {
    for (const char* property : {kHolderProperty, "x509_common_name"}) {
      const auto values = auth->FindPropertyValues(property);
      // A token is of this call; a connection may carry calls of several.
      if (!values.empty() && values.back().size() > 0)
        return {values.back().data(), values.back().size()};
    }
  }
  return context.peer();
}

}  // namespace espalier::rpc
