// Goal: offline planning reads what it documents, names what it cannot read, and its output is a
// placement. Method: small files, and the invariants of a placement.
#include "services/cli/plan_offline.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace espalier::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kLoads[] =
    R"({"layers":[{"layer":0,"loads":[100,1,50,2,60,70]},{"layer":3,"loads":[5,5,5,5,5,5]}]})";

TEST(PlanPruneOffline, PrunesTheLightestWithinBeta) {
  planner::PruneOptions options;
  options.beta = 0.05;
  const auto plan = PlanPruneOffline(kLoads, "", options, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto json = nlohmann::json::parse(*plan);
  EXPECT_EQ((std::vector<int>{1, 3}), json["layers"][0]["pruned"].get<std::vector<int>>());
  EXPECT_TRUE(json["layers"][1]["pruned"].empty());
  EXPECT_EQ(3, json["layers"][1]["layer"]);
}

TEST(PlanPlacementOffline, PlacesEveryExpertOnce) {
  planner::PlacementOptions options;
  options.rank_count = 2;
  const auto plan = PlanPlacementOffline(kLoads, "", options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto json = nlohmann::json::parse(*plan);
  for (const auto& layer : json["layers"]) {
    ASSERT_EQ(2, layer["ranks"].size());
    std::set<int> experts;
    for (const auto& rank : layer["ranks"]) {
      for (const int expert : rank) EXPECT_TRUE(experts.insert(expert).second);
    }
    EXPECT_EQ(6, experts.size());
    EXPECT_GE(layer["max_over_mean"].get<double>(),
              layer["lower_bound_over_mean"].get<double>() - 1e-9);
  }
}

TEST(PlanPlacementOffline, StartsFromItsOwnOutputWithoutMoves) {
  planner::PlacementOptions options;
  options.rank_count = 2;
  const auto first = PlanPlacementOffline(kLoads, "", options);
  ASSERT_TRUE(first.ok());
  const auto second = PlanPlacementOffline(kLoads, *first, options);
  ASSERT_TRUE(second.ok()) << second.status();
  for (const auto& layer : nlohmann::json::parse(*second)["layers"]) EXPECT_EQ(0, layer["moves"]);
}

TEST(PlanOffline, ReadsOneLayerALine) {
  const auto plan = PlanPruneOffline(
      "{\"layer\":1,\"loads\":[1,2]}\n\n{\"layer\":2,\"loads\":[3,4]}\n", "", {}, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(2, nlohmann::json::parse(*plan)["layers"].size());
}

TEST(PlanOffline, NamesWhatItCannotRead) {
  for (const char* bad :
       {"", "{", "[]", "{\"layers\":3}", "{\"layers\":[]}", "{\"layers\":[3]}", "{\"layers\":[{}]}",
        R"({"layers":[{"layer":-1,"loads":[1]}]})", R"({"layers":[{"layer":0,"loads":[]}]})",
        R"({"layers":[{"layer":0,"loads":[1,"x"]}]})", R"({"layers":[{"layer":0,"loads":[1,-2]}]})",
        R"({"layers":[{"layer":0,"loads":[1e999]}]})"}) {
    EXPECT_EQ(absl::StatusCode::kInvalidArgument,
              PlanPruneOffline(bad, "", {}, {}).status().code())
        << bad;
  }
}

TEST(PlanPlacementOffline, RefusesAPlacementOfOtherExperts) {
  planner::PlacementOptions options;
  options.rank_count = 2;
  for (const char* bad :
       {R"({"layers":[{"layer":0,"ranks":[[0,1,2],[3,4]]}]})",
        R"({"layers":[{"layer":0,"ranks":[[0,1,2],[3,4,4]]}]})",
        R"({"layers":[{"layer":0,"ranks":[[0,1,2],[3,4,6]]}]})",
        R"({"layers":[{"layer":0,"ranks":[[0,1],[2,3],[4,5]]}]})",
        R"({"layers":[{"layer":0,"ranks":[0,1]}]})", R"({"layers":[{"layer":0}]})"}) {
    EXPECT_EQ(absl::StatusCode::kInvalidArgument,
              PlanPlacementOffline(kLoads, bad, options).status().code())
        << bad;
  }
}

}  // namespace
}  // namespace espalier::cli
