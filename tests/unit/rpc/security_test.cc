// Goal: with TLS and tokens on, only who shows good credentials gets through, and new files take
// effect while streams live on. Method: real servers on loopback and an authority of the test's
// own.
#include "libs/rpc/security.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "espalier/v1/reward_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "libs/rpc/server.h"
#include "libs/rpc/tokens.h"
#include "tests/unit/rpc/test_authority.h"

namespace espalier::rpc {
namespace {

using ::testing::HasSubstr;

class Echo : public v1::RewardService::Service {
 public:
  grpc::Status VerifyAnswer(grpc::ServerContext* context, const v1::VerifyAnswerRequest* request,
                            v1::VerifyAnswerResponse* response) override {
    response->set_reason(request->answer());
    if (context->client_metadata().count("authorization") > 0) saw_token_ = true;
    return grpc::Status::OK;
  }
  grpc::Status ScoreStream(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::ScoreStreamResponse, v1::ScoreStreamRequest>* stream) override {
    v1::ScoreStreamRequest request;
    while (stream->Read(&request)) {
      v1::ScoreStreamResponse response;
      response.set_batch_id(request.batch_id());
      stream->Write(response);
    }
    return grpc::Status::OK;
  }
  bool saw_token() const { return saw_token_; }

 private:
  std::atomic<bool> saw_token_ = false;
};

class SecurityTest : public ::testing::Test {
 protected:
  SecurityTest() {
    char path[] = "/tmp/espalier_security_XXXXXX";
    folder_ = mkdtemp(path);
    authority_.Write(File("ca.pem"));
    stranger_.Write(File("other-ca.pem"));
    authority_.Issue("localhost", 3600, File("server.pem"), File("server.key"));
    authority_.Issue("client", 3600, File("client.pem"), File("client.key"));
  }
  ~SecurityTest() override {
    EXPECT_TRUE(UseClientSecurity({}).ok());
    std::filesystem::remove_all(folder_);
  }
  std::string File(const std::string& name) const { return folder_ + "/" + name; }
  void WriteFile(const std::string& name, const std::string& text) {
    std::ofstream(File(name) + ".new") << text;
    std::filesystem::rename(File(name) + ".new", File(name));
  }
  ServerOptions Tls() const {
    ServerOptions options;
    options.security.certificate = File("server.pem");
    options.security.key = File("server.key");
    return options;
  }
  std::unique_ptr<RpcServer> Serve(const ServerOptions& options) {
    auto server = RpcServer::Start(options, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  // What a fresh channel with these credentials gets.
  grpc::Status Call(const RpcServer& server, const ClientSecurity& security) {
    const absl::Status used = UseClientSecurity(security);
    EXPECT_TRUE(used.ok()) << used;
    const auto stub = v1::RewardService::NewStub(MakeChannel(server.address()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::VerifyAnswerRequest request;
    request.set_answer("42");
    v1::VerifyAnswerResponse response;
    const grpc::Status status = stub->VerifyAnswer(&context, request, &response);
    if (status.ok()) EXPECT_EQ(response.reason(), "42");
    return status;
  }

  std::string folder_;
  testing::TestAuthority authority_{"espalier tests"}, stranger_{"somebody else"};
  Echo service_;
};

TEST_F(SecurityTest, TlsLetsInWhoTrustsItsAuthorityOnly) {
  const auto server = Serve(Tls());
  EXPECT_TRUE(Call(*server, {.authorities = File("ca.pem")}).ok());
  EXPECT_EQ(Call(*server, {.authorities = File("other-ca.pem")}).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(*server, {}).error_code(), grpc::StatusCode::UNAVAILABLE) << "plaintext";
}

TEST_F(SecurityTest, MutualTlsAsksForACertificateThatIsSignedAndNotExpired) {
  ServerOptions options = Tls();
  options.security.client_authorities = File("ca.pem");
  const auto server = Serve(options);
  const ClientSecurity good = {
      .authorities = File("ca.pem"), .certificate = File("client.pem"), .key = File("client.key")};
  EXPECT_TRUE(Call(*server, good).ok());
  EXPECT_EQ(Call(*server, {.authorities = File("ca.pem")}).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  stranger_.Issue("client", 3600, File("wrong.pem"), File("wrong.key"));
  EXPECT_EQ(Call(*server, {.authorities = File("ca.pem"),
                           .certificate = File("wrong.pem"),
                           .key = File("wrong.key")})
                .error_code(),
            grpc::StatusCode::UNAVAILABLE);
  // It expires after it was looked at and before it is used.
  authority_.Issue("client", 2, File("short.pem"), File("short.key"));
  ASSERT_TRUE(UseClientSecurity({.authorities = File("ca.pem"),
                                 .certificate = File("short.pem"),
                                 .key = File("short.key")})
                  .ok());
  absl::SleepFor(absl::Seconds(3));
  const auto stub = v1::RewardService::NewStub(MakeChannel(server->address()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::VerifyAnswerResponse response;
  EXPECT_EQ(stub->VerifyAnswer(&context, {}, &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(SecurityTest, TokensAreAskedForOverTlsAndOnLoopback) {
  WriteFile("tokens",
            absl::StrCat("ci submitter ", HashToken("good"), "\nold submitter ", HashToken("old"),
                         " 2020-01-01T00:00:00Z\nw worker ", HashToken("work"), "\n"));
  for (const char* token : {"good", "old", "work", "guess"})
    WriteFile(token, absl::StrCat(token, "\n"));
  for (const bool tls : {true, false}) {
    SCOPED_TRACE(tls);
    ServerOptions options = tls ? Tls() : ServerOptions();
    options.security.tokens = File("tokens");
    const auto server = Serve(options);
    const auto with = [&](const std::string& token) {
      ClientSecurity security;
      if (tls) security.authorities = File("ca.pem");
      if (!token.empty()) security.token_file = File(token);
      return Call(*server, security);
    };
    const grpc::Status good = with("good");
    EXPECT_TRUE(good.ok()) << good.error_message();
    EXPECT_EQ(with("").error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(with("guess").error_code(), grpc::StatusCode::UNAUTHENTICATED);
    const grpc::Status expired = with("old");
    EXPECT_EQ(expired.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_THAT(expired.error_message(), HasSubstr("expired"));
    EXPECT_TRUE(with("work").ok()) << "workers score";
  }
  EXPECT_FALSE(service_.saw_token()) << "handlers, and what they log, never see it";
}

TEST_F(SecurityTest, NewFilesTakeEffectAndStreamsLiveOn) {
  WriteFile("tokens", absl::StrCat("a submitter ", HashToken("first"), "\n"));
  WriteFile("token", "first");
  ServerOptions options = Tls();
  options.security.tokens = File("tokens");
  const auto server = Serve(options);
  const ClientSecurity security = {.authorities = File("ca.pem"), .token_file = File("token")};
  ASSERT_TRUE(Call(*server, security).ok());
  const auto stub = v1::RewardService::NewStub(MakeChannel(server->address()));
  grpc::ClientContext context;
  const auto stream = stub->ScoreStream(&context);
  const auto lives = [&](uint64_t id) {
    v1::ScoreStreamRequest request;
    request.set_batch_id(id);
    v1::ScoreStreamResponse response;
    return stream->Write(request) && stream->Read(&response) && response.batch_id() == id;
  };
  ASSERT_TRUE(lives(1));

  // Another authority signs the server from now on, and another token is good.
  stranger_.Issue("localhost", 3600, File("server.pem"), File("server.key"));
  WriteFile("tokens", absl::StrCat("a submitter ", HashToken("second"), "\n"));
  absl::SleepFor(absl::Milliseconds(2500));
  EXPECT_TRUE(lives(2)) << "the stream that was open goes on";
  EXPECT_FALSE(Call(*server, security).ok()) << "who trusts the old authority alone is out";
  const ClientSecurity other = {.authorities = File("other-ca.pem"), .token_file = File("token")};
  EXPECT_EQ(Call(*server, other).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  WriteFile("token", "second");
  EXPECT_TRUE(Call(*server, other).ok());
  EXPECT_TRUE(lives(3));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(SecurityTest, HealthHasAPlaintextPortOfItsOwn) {
  WriteFile("tokens", absl::StrCat("a submitter ", HashToken("x"), "\n"));
  ServerOptions options = Tls();
  options.security.tokens = File("tokens");
  options.health_address = "127.0.0.1:0";
  const auto server = Serve(options);
  const auto channel =
      grpc::CreateChannel(server->health_address(), grpc::InsecureChannelCredentials());
  // The message is one enum field: 1 is SERVING, 2 NOT_SERVING.
  const auto check = [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                     grpc::internal::RpcMethod::NORMAL_RPC, channel);
    grpc::ByteBuffer request, response;
    grpc::Slice empty;
    request = grpc::ByteBuffer(&empty, 1);
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
            channel.get(), method, &context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(response.Dump(&slices).ok());
    std::string bytes;
    for (const grpc::Slice& slice : slices)
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return bytes;
  };
  EXPECT_EQ(check(), "\x08\x01");
  server->SetServing(false);
  EXPECT_EQ(check(), "\x08\x02");
  const auto rewards = v1::RewardService::NewStub(channel);
  grpc::ClientContext context;
  v1::VerifyAnswerResponse response;
  EXPECT_EQ(rewards->VerifyAnswer(&context, {}, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED)
      << "nothing else is served there";
}

TEST_F(SecurityTest, MistakesNameTheFlagAndTheFile) {
  const auto refused = [&](const ServerOptions& options) {
    const absl::Status status = RpcServer::Start(options, {&service_}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  ServerOptions options = Tls();
  options.security.key = File("client.key");
  EXPECT_THAT(refused(options), HasSubstr("is not of the certificate"));
  options = Tls();
  options.security.key.clear();
  EXPECT_THAT(refused(options), HasSubstr("--tls-key"));
  options = Tls();
  options.security.certificate = File("none.pem");
  EXPECT_THAT(refused(options), HasSubstr("none.pem"));
  options = Tls();
  authority_.Issue("localhost", -60, File("server.pem"), File("server.key"));
  EXPECT_THAT(refused(options), HasSubstr("expired"));
  options = ServerOptions();
  options.address = "0.0.0.0:0";
  options.insecure = true;
  WriteFile("tokens", absl::StrCat("a submitter ", HashToken("x"), "\n"));
  options.security.tokens = File("tokens");
  EXPECT_THAT(refused(options), HasSubstr("--tokens needs"));
  options = ServerOptions();
  options.security.client_authorities = File("ca.pem");
  EXPECT_THAT(refused(options), HasSubstr("--tls-client-ca needs"));
  WriteFile("tokens", "who\n");
  options = ServerOptions();
  options.security.tokens = File("tokens");
  EXPECT_THAT(refused(options), HasSubstr("line 1"));
  EXPECT_TRUE(absl::IsInvalidArgument(UseClientSecurity({.authorities = File("nowhere")})));
  EXPECT_TRUE(absl::IsInvalidArgument(UseClientSecurity({.certificate = File("client.pem")})));
}

}  // namespace
}  // namespace espalier::rpc
