// Goal: who cannot connect is told the one thing to change. Method: real servers on loopback, an
// authority of the test's own, and a socket that never answers.
#include "libs/rpc/diagnosis.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "tests/unit/rpc/test_authority.h"

namespace espalier::rpc {
namespace {

using ::testing::HasSubstr;

class DiagnosisTest : public ::testing::Test {
 protected:
  DiagnosisTest() {
    char path[] = "/tmp/espalier_diagnosis_XXXXXX";
    folder_ = mkdtemp(path);
    authority_.Write(File("ca.pem"));
    stranger_.Write(File("other-ca.pem"));
    authority_.Issue("localhost", 3600, File("server.pem"), File("server.key"));
    authority_.Issue("client", 3600, File("client.pem"), File("client.key"));
    stranger_.Issue("client", 3600, File("strange.pem"), File("strange.key"));
    authority_.Issue("client", -60, File("expired.pem"), File("expired.key"));
  }
  ~DiagnosisTest() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& name) const { return folder_ + "/" + name; }
  std::unique_ptr<RpcServer> Serve(const ServerSecurity& security) {
    ServerOptions options;
    options.security = security;
    auto server = RpcServer::Start(options, {});
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  std::unique_ptr<RpcServer> ServeMutual() {
    return Serve({.certificate = File("server.pem"),
                  .key = File("server.key"),
                  .client_authorities = File("ca.pem")});
  }
  ClientSecurity With(const std::string& name) const {
    return {.authorities = File("ca.pem"),
            .certificate = File(name + ".pem"),
            .key = File(name + ".key")};
  }

  std::string folder_;
  testing::TestAuthority authority_{"authority"}, stranger_{"stranger"};
};

TEST_F(DiagnosisTest, SaysNothingWhereNothingIsWrong) {
  EXPECT_EQ(WhyUnreachable(ServeMutual()->address(), With("client")), "");
  EXPECT_EQ(WhyUnreachable(Serve({})->address(), {}), "");
}

TEST_F(DiagnosisTest, TellsWhichSideSpeaksPlaintext) {
  EXPECT_THAT(WhyUnreachable(ServeMutual()->address(), {}),
              HasSubstr("it speaks TLS: give --tls-ca"));
  EXPECT_THAT(WhyUnreachable(Serve({})->address(), With("client")),
              HasSubstr("it speaks plaintext"));
}

TEST_F(DiagnosisTest, TellsAMissingCertificateFromARefusedOne) {
  const auto server = ServeMutual();
  EXPECT_THAT(WhyUnreachable(server->address(), {.authorities = File("ca.pem")}),
              HasSubstr("give --tls-client-cert"));
  for (const std::string name : {"strange", "expired"}) {
    EXPECT_THAT(WhyUnreachable(server->address(), With(name)),
                HasSubstr(absl::StrCat("it refused the certificate in ", File(name + ".pem"))));
  }
}

TEST_F(DiagnosisTest, TellsWhatIsWrongWithTheServersCertificate) {
  const auto server = Serve({.certificate = File("server.pem"), .key = File("server.key")});
  EXPECT_THAT(WhyUnreachable(server->address(), {.authorities = File("other-ca.pem")}),
              HasSubstr("is not signed by an authority in"));
  authority_.Issue("elsewhere", 3600, File("moved.pem"), File("moved.key"));
  const auto moved = Serve({.certificate = File("moved.pem"), .key = File("moved.key")});
  const std::string port = moved->address().substr(moved->address().rfind(':'));
  EXPECT_THAT(WhyUnreachable(absl::StrCat("localhost", port), {.authorities = File("ca.pem")}),
              HasSubstr("is not for \"localhost\""));
  // It expires while the server runs.
  authority_.Issue("localhost", 2, File("short.pem"), File("short.key"));
  const auto late = Serve({.certificate = File("short.pem"), .key = File("short.key")});
  absl::SleepFor(absl::Seconds(3));
  EXPECT_THAT(WhyUnreachable(late->address(), {.authorities = File("ca.pem")}),
              HasSubstr("has expired"));
}

TEST_F(DiagnosisTest, TellsWhenNobodyIsThere) {
  const auto server = Serve({});
  const std::string address = server->address();
  server->Shutdown(absl::ZeroDuration());
  EXPECT_THAT(WhyUnreachable(address, {}), HasSubstr("nothing listens there"));
  EXPECT_THAT(WhyUnreachable("no-such-host.invalid:1", {}), HasSubstr("no-such-host.invalid"));
  EXPECT_THAT(WhyUnreachable("nonsense", {}), HasSubstr("host:port"));
}

TEST_F(DiagnosisTest, WaitsForSilenceNoLongerThanItWasTold) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const absl::Time began = absl::Now();
  EXPECT_THAT(WhyUnreachable(absl::StrCat("127.0.0.1:", ntohs(address.sin_port)), With("client"),
                             absl::Milliseconds(200)),
              HasSubstr("does not answer"));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  close(listener);
}

TEST_F(DiagnosisTest, KeepsATokenFromPlaintextBeyondLoopback) {
  EXPECT_THAT(WhyUnreachable("203.0.113.1:7001", {.token_file = File("token")}),
              HasSubstr("a token travels over TLS only"));
}

}  // namespace
}  // namespace espalier::rpc
