// Goal: every collective computes what plain loops compute, with the same bits on all ranks, over
// memory and over TCP alike. Method: random inputs from a seed, group sizes 1 to 4, lengths from
// nothing to far beyond one message.
#include <algorithm>
#include <cstring>
#include <random>

#include "gtest/gtest.h"
#include "tests/unit/collective/ranks.h"

namespace espalier::collective {
namespace {

struct Setup {
  bool tcp;
  int size;
};

class Collectives : public testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    if (GetParam().tcp) {
      group_ = ConnectGroup(size());
    } else {
      group_.ranks = MakeInProcessCommunicators(size());
    }
  }
  int size() const { return GetParam().size; }
  Communicator& rank(int index) { return *group_.ranks[index]; }

  // The same random values whatever thread draws them.
  template <typename T>
  static std::vector<T> Values(int rank, size_t length, uint32_t seed) {
    std::mt19937 random(seed * 1000 + rank);
    std::vector<T> values(length);
    for (T& value : values) value = static_cast<T>(static_cast<int>(random() % 20001) - 10000) / 7;
    return values;
  }

  template <typename T>
  void ExpectSums(size_t length) {
    std::vector<T> expected = Values<T>(0, length, 1);
    for (int r = 1; r < size(); ++r) {
      const std::vector<T> part = Values<T>(r, length, 1);
      for (size_t i = 0; i < length; ++i) expected[i] += part[i];
    }
    OnRanks(size(), [&](int r) {
      for (int repetition = 0; repetition < 2; ++repetition) {
        std::vector<T> mine = Values<T>(r, length, 1);
        ASSERT_TRUE(rank(r).AllReduceSum(std::span(mine)).ok());
        // In rank order, so the bits are those of the plain loop.
        ASSERT_EQ(mine, expected) << "rank " << r << " length " << length;
      }
    });
  }

  LinkedGroup group_;
};

TEST_P(Collectives, SumInRankOrderWithTheSameBitsEverywhere) {
  for (const size_t length : {0, 1, 3, 1000, 100003}) {
    ExpectSums<float>(length);
    ExpectSums<double>(length);
    ExpectSums<int64_t>(length);
  }
}

TEST_P(Collectives, MinimumOfAllRanks) {
  OnRanks(size(), [&](int r) {
    std::vector<int64_t> values = {r, -r, 5};
    ASSERT_TRUE(rank(r).AllReduceMin(std::span(values)).ok());
    EXPECT_EQ(values, (std::vector<int64_t>{0, 1 - size(), 5}));
  });
}

TEST_P(Collectives, AllToAllTransposes) {
  OnRanks(size(), [&](int r) {
    std::vector<int64_t> send(size() * 2), received(size() * 2);
    for (int to = 0; to < size(); ++to) {
      send[2 * to] = r * 100 + to;
      send[2 * to + 1] = -to;
    }
    ASSERT_TRUE(rank(r).AllToAll(send, received).ok());
    for (int from = 0; from < size(); ++from) {
      EXPECT_EQ(received[2 * from], from * 100 + r);
      EXPECT_EQ(received[2 * from + 1], -r);
    }
  });
}

TEST_P(Collectives, RaggedAllToAllDeliversEveryByte) {
  const int n = size();
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<int64_t>> bytes(n, std::vector<int64_t>(n));
    for (auto& row : bytes) {
      for (int64_t& count : row) count = random() % 3 == 0 ? 0 : random() % 300000;
    }
    OnRanks(n, [&](int r) {
      std::vector<std::byte> send;
      std::vector<int64_t> expected_bytes(n);
      for (int to = 0; to < n; ++to) {
        send.insert(send.end(), bytes[r][to], static_cast<std::byte>(r * 16 + to));
        expected_bytes[to] = bytes[to][r];
      }
      int64_t total = 0;
      for (const int64_t count : expected_bytes) total += count;
      std::vector<std::byte> received(total);
      ASSERT_TRUE(rank(r).AllToAllV(send, bytes[r], received, expected_bytes).ok()) << seed;
      int64_t at = 0;
      for (int from = 0; from < n; ++from) {
        for (int64_t i = 0; i < expected_bytes[from]; ++i) {
          ASSERT_EQ(received[at++], static_cast<std::byte>(from * 16 + r)) << "seed " << seed;
        }
      }
    });
  }
}

TEST_P(Collectives, BroadcastReachesAll) {
  for (const size_t length : {size_t{0}, size_t{1}, size_t{3000000}}) {
    const std::string sent(length, 'x');
    OnRanks(size(), [&](int r) {
      const int root = size() - 1;
      std::string text = r == root ? sent : "something else";
      ASSERT_TRUE(rank(r).Broadcast(root, &text).ok());
      EXPECT_EQ(text, sent);
      ASSERT_TRUE(rank(r).Barrier().ok());
    });
  }
}

TEST_P(Collectives, AbortWakesEveryRankAndStaysAnError) {
  if (size() == 1) GTEST_SKIP() << "one rank never waits";
  OnRanks(size(), [&](int r) {
    if (r == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      rank(0).Abort(absl::AbortedError("told to"));
    } else {
      EXPECT_FALSE(rank(r).Barrier().ok());
    }
    std::vector<float> one = {1};
    EXPECT_FALSE(rank(r).AllReduceSum(std::span(one)).ok());
  });
}

TEST_P(Collectives, ARankThatGoesAwayEndsTheOthers) {
  if (size() == 1) GTEST_SKIP() << "nobody else";
  const absl::Time began = absl::Now();
  OnRanks(size(), [&](int r) {
    if (r == 1) {
      group_.ranks[1].reset();
    } else {
      EXPECT_EQ(rank(r).Barrier().code(), absl::StatusCode::kUnavailable);
    }
  });
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
}

TEST_P(Collectives, HealthShowsAnAbortAndARankThatWentAwayWithoutAnyExchange) {
  for (int r = 0; r < size(); ++r) EXPECT_TRUE(rank(r).Health().ok()) << rank(r).Health();
  if (size() > 1) {
    group_.ranks[1].reset();
    // From another thread, as a watcher would.
    absl::Status seen;
    std::thread([&] {
      for (const absl::Time end = absl::Now() + absl::Seconds(5); seen.ok() && absl::Now() < end;) {
        seen = rank(0).Health();
      }
    }).join();
    EXPECT_EQ(seen.code(), absl::StatusCode::kUnavailable) << seen;
    EXPECT_NE(std::string::npos, seen.message().find("rank 1")) << seen;
  }
  rank(0).Abort(absl::AbortedError("told to"));
  EXPECT_FALSE(rank(0).Health().ok());
}

INSTANTIATE_TEST_SUITE_P(Groups, Collectives,
                         testing::Values(Setup{false, 1}, Setup{false, 3}, Setup{true, 1},
                                         Setup{true, 2}, Setup{true, 4}),
                         [](const auto& info) {
                           return (info.param.tcp ? "Tcp" : "Memory") +
                                  std::to_string(info.param.size);
                         });

}  // namespace
}  // namespace espalier::collective
