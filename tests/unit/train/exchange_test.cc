// Goal: small numbers and errors reach every rank unchanged. Method: ranks as threads over
// in-process links.
#include "libs/train/exchange.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "tests/unit/train/ranks.h"

namespace espalier::train {
namespace {

TEST(Exchange, AnErrorOfOneRankIsEveryRanks) {
  OnRanks(3, [](collective::Communicator& communicator) {
    const absl::Status local = communicator.rank() == 1
                                   ? absl::NotFoundError("no corpus at /data/x: put one there")
                                   : absl::OkStatus();
    const absl::Status agreed = AgreeStatus(communicator, local);
    EXPECT_EQ(agreed.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(agreed.message(), "no corpus at /data/x: put one there");
    EXPECT_TRUE(IsAgreed(agreed));
    EXPECT_FALSE(IsAgreed(StripAgreed(agreed)));
  });
}

TEST(Exchange, TheLowestRanksErrorWins) {
  OnRanks(4, [](collective::Communicator& communicator) {
    const int rank = communicator.rank();
    const absl::Status local =
        rank >= 2 ? absl::DataLossError("rank " + std::to_string(rank)) : absl::OkStatus();
    EXPECT_EQ(AgreeStatus(communicator, local).message(), "rank 2");
  });
}

TEST(Exchange, NoErrorAgreesOnOk) {
  OnRanks(2, [](collective::Communicator& communicator) {
    EXPECT_TRUE(AgreeStatus(communicator, absl::OkStatus()).ok());
  });
}

TEST(Exchange, SumsRealsAndMinimaTravelTogether) {
  OnRanks(3, [](collective::Communicator& communicator) {
    const int rank = communicator.rank();
    Exchange exchange(communicator);
    const std::vector<int64_t> counts = {rank, 10 * rank, 7};
    const int sum = exchange.AddSum(rank + 1);
    const int real = exchange.AddReal(rank == 1 ? -0.1 : 1e-300);
    const int least = exchange.AddMin(100 - rank);
    const int sums = exchange.AddSums(counts);
    const int nothing = exchange.AddSums({});
    const int negative = exchange.AddMin(-rank);
    ASSERT_TRUE(exchange.Run().ok());
    EXPECT_EQ(exchange.Sum(sum), 6);
    EXPECT_EQ(exchange.Total(real), 1e-300 + -0.1 + 1e-300);
    EXPECT_EQ(exchange.Min(least), 98);
    EXPECT_EQ(exchange.Sums(sums, 3)[1], 30);
    EXPECT_EQ(exchange.Sums(sums, 3)[2], 21);
    EXPECT_EQ(exchange.Sums(nothing, 0).size(), 0u);
    EXPECT_EQ(exchange.Min(negative), -2);
  });
}

TEST(Exchange, CarriesValuesThatAreNotFinite) {
  OnRanks(2, [](collective::Communicator& communicator) {
    Exchange exchange(communicator);
    const double bad = communicator.rank() == 0 ? std::numeric_limits<double>::quiet_NaN() : 1.0;
    const int real = exchange.AddReal(bad);
    ASSERT_TRUE(exchange.Run().ok());
    EXPECT_TRUE(std::isnan(exchange.Total(real)));
  });
}

TEST(Exchange, AbortedLinksAreTellableFromOtherErrors) {
  EXPECT_TRUE(IsLinkError(absl::AbortedError("peer")));
  EXPECT_TRUE(IsLinkError(absl::UnavailableError("peer")));
  EXPECT_FALSE(IsLinkError(absl::ResourceExhaustedError("disk full")));
  EXPECT_FALSE(IsLinkError(absl::OkStatus()));
}

}  // namespace
}  // namespace espalier::train
