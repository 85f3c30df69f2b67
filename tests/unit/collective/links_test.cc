// Goal: links come up only between ranks that belong together, and every way of failing ends in an
// error, soon. Method: strangers, silence, wrong sizes and busy ports over real sockets on
// loopback.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/collective/ranks.h"

namespace espalier::collective {
namespace {

using testing::HasSubstr;

// A connection to `endpoint` that has said `words`; it stays open until the test closes it.
int Stranger(const std::string& endpoint, const std::string& words) {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(endpoint.substr(endpoint.rfind(':') + 1), &port));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(send(fd, words.data(), words.size(), MSG_NOSIGNAL), static_cast<ssize_t>(words.size()));
  return fd;
}

TEST(Links, StrangersDisturbNobody) {
  auto a = LinkListener::Bind("127.0.0.1", 0).value();
  auto b = LinkListener::Bind("127.0.0.1", 0).value();
  const int garbage = Stranger(a->endpoint(), std::string(200, 'G'));
  const int silent = Stranger(a->endpoint(), "");
  const std::vector<std::string> peers = {a->endpoint(), b->endpoint()};
  absl::Status thief_status;
  std::atomic<bool> connected = false;
  // Somebody who knows everything but the key keeps knocking as rank 1.
  std::thread thief([&] {
    auto listener = LinkListener::Bind("127.0.0.1", 0).value();
    LinkOptions options{.rank = 1, .peers = {peers[0], listener->endpoint()}, .key = "wrong"};
    options.cancelled = [&] { return connected.load(); };
    thief_status = ConnectLinks(*listener, options).status();
  });
  OnRanks(2, [&](int rank) {
    auto links = ConnectLinks(rank == 0 ? *a : *b, {.rank = rank, .peers = peers, .key = "right"});
    ASSERT_TRUE(links.ok()) << links.status();
    std::vector<float> one = {1};
    ASSERT_TRUE((*links)->AllReduceSum(std::span(one)).ok());
    EXPECT_EQ(one[0], 2);
  });
  connected = true;
  thief.join();
  EXPECT_EQ(thief_status.code(), absl::StatusCode::kAborted) << thief_status;
  close(garbage);
  close(silent);
}

TEST(Links, NameTheRanksThatDidNotCome) {
  auto listener = LinkListener::Bind("127.0.0.1", 0).value();
  LinkOptions options{.rank = 0, .peers = {listener->endpoint(), "127.0.0.1:1", "127.0.0.1:2"}};
  options.connect_timeout = absl::Milliseconds(300);
  const absl::Status status = ConnectLinks(*listener, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1, rank 2"));
}

TEST(Links, CancelEndsConnectingSoonEvenWhenThePeerIsSilent) {
  auto mine = LinkListener::Bind("127.0.0.1", 0).value();
  auto silent = LinkListener::Bind("127.0.0.1", 0).value();  // the kernel accepts, nobody answers
  const absl::Time began = absl::Now();
  LinkOptions options{.rank = 1, .peers = {silent->endpoint(), mine->endpoint()}};
  options.cancelled = [&] { return absl::Now() - began > absl::Milliseconds(300); };
  EXPECT_EQ(ConnectLinks(*mine, options).status().code(), absl::StatusCode::kAborted);
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
}

TEST(Links, APortInUseIsNamed) {
  auto first = LinkListener::Bind("127.0.0.1", 0).value();
  const std::string endpoint = first->endpoint();
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(endpoint.substr(endpoint.rfind(':') + 1), &port));
  const auto second = LinkListener::Bind("127.0.0.1", port);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(endpoint));
}

TEST(Links, RanksThatDisagreeOnSizesGetAnErrorInsteadOfAHang) {
  LinkedGroup group = ConnectGroup(2);
  OnRanks(2, [&](int rank) {
    std::vector<float> values(rank == 0 ? 10 : 11);
    EXPECT_FALSE(group.ranks[rank]->AllReduceSum(std::span(values)).ok());
  });
}

TEST(Links, ASilentPeerIsGivenUpAfterTheStallTimeout) {
  LinkedGroup group = ConnectGroup(2, absl::Milliseconds(400));
  const absl::Status status = group.ranks[0]->Barrier();  // rank 1 never calls
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
}

TEST(Links, LargeMessagesBothWaysAtOnceDoNotBlockEachOther) {
  LinkedGroup group = ConnectGroup(2);
  OnRanks(2, [&](int rank) {
    const int64_t size = 32 << 20;
    std::vector<std::byte> send(size, static_cast<std::byte>(rank)), received(size);
    std::vector<int64_t> bytes(2, 0);
    bytes[1 - rank] = size;
    ASSERT_TRUE(group.ranks[rank]->AllToAllV(send, bytes, received, bytes).ok());
    EXPECT_EQ(received.front(), static_cast<std::byte>(1 - rank));
    EXPECT_EQ(received.back(), static_cast<std::byte>(1 - rank));
  });
}

}  // namespace
}  // namespace espalier::collective
