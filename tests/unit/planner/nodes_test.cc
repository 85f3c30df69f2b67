// Goal: nodes are balanced before ranks, within capacity and budget, and copies give what is
// promised. Method: random instances and exhaustive search on tiny ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "libs/planner/planner.h"
#include "libs/planner/replicas.h"

namespace espalier::planner {
namespace {

std::vector<double> Draw(int seed, int experts, double sigma) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> load(0, sigma);
  std::vector<double> loads(experts);
  for (double& one : loads) one = load(random);
  return loads;
}

TEST(Nodes, AreBalancedBetterThanByRanksAloneAndRanksHardlyWorse) {
  double with = 0, without = 0, ranks_with = 0, ranks_without = 0;
  for (int seed = 0; seed < 60; ++seed) {
    const auto loads = Draw(seed, 128, 1.0);
    PlacementOptions options{.rank_count = 16, .extra_slots = 2, .tolerance = 0.02};
    const Placement flat = PlaceExperts(loads, {}, options);
    PlacementOptions nodes = options;
    for (int rank = 0; rank < 16; ++rank) nodes.node_of_rank.push_back(rank / 4);
    const Placement placed = PlaceExperts(loads, {}, nodes);
    std::map<int, int> sizes;
    for (const int rank : placed.ranks) ++sizes[rank];
    for (const auto& [rank, size] : sizes) EXPECT_LE(size, 128 / 16 + 2);
    with += NodeMaxOverMean(loads, placed.ranks, nodes.node_of_rank);
    without += NodeMaxOverMean(loads, flat.ranks, nodes.node_of_rank);
    ranks_with += placed.max_over_mean;
    ranks_without += flat.max_over_mean;
  }
  EXPECT_LT(with - 60, (without - 60) * 0.7) << "excess of the heaviest node";
  EXPECT_LT(ranks_with, ranks_without * 1.005);
}

TEST(Nodes, FollowDriftWithinTheBudget) {
  for (int seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    auto loads = Draw(seed, 64, 0.7);
    PlacementOptions options{.rank_count = 8, .tolerance = 0.01};
    for (int rank = 0; rank < 8; ++rank) options.node_of_rank.push_back(rank / 2);
    const std::vector<int> current = PlaceExperts(loads, {}, options).ranks;
    std::mt19937 random(seed + 1000);
    std::normal_distribution<double> drift(1, 0.2);
    for (double& load : loads) load *= std::max(0.05, drift(random));
    options.moves_max = 8;
    const Placement next = PlaceExperts(loads, current, options);
    int moves = 0;
    for (size_t i = 0; i < loads.size(); ++i) moves += next.ranks[i] != current[i];
    EXPECT_EQ(next.moves, moves);
    EXPECT_LE(moves, 8);
    EXPECT_LE(next.max_over_mean, MaxOverMean(loads, current, 8) + 1e-9);
  }
}

TEST(Nodes, OfDifferentSizesArePlacedByRanksAlone) {
  const auto loads = Draw(1, 24, 0.5);
  const PlacementOptions flat{.rank_count = 3};
  PlacementOptions uneven = flat;
  uneven.node_of_rank = {0, 0, 1};
  EXPECT_EQ(PlaceExperts(loads, {}, flat).ranks, PlaceExperts(loads, {}, uneven).ranks);
}

// The least max over mean of all placements within capacity.
double Optimum(const std::vector<double>& loads, int ranks, int capacity) {
  double best = 1e300;
  std::vector<int> at(loads.size(), 0);
  while (true) {
    std::vector<int> sizes(ranks, 0);
    for (const int rank : at) ++sizes[rank];
    if (*std::max_element(sizes.begin(), sizes.end()) <= capacity)
      best = std::min(best, MaxOverMean(loads, at, ranks));
    size_t i = 0;
    while (i < at.size() && ++at[i] == ranks) at[i++] = 0;
    if (i == at.size()) return best;
  }
}

TEST(Placement, TinyInstancesAreNearTheOptimumAndNeverBelowTheBound) {
  double gap = 0;
  for (int seed = 0; seed < 40; ++seed) {
    const int ranks = 2 + seed % 2;
    const auto loads = Draw(seed, 8, 1.0);
    const PlacementOptions options{.rank_count = ranks, .extra_slots = seed % 3, .tolerance = 0};
    const Placement placed = PlaceExperts(loads, {}, options);
    const double optimum = Optimum(loads, ranks, (8 + ranks - 1) / ranks + options.extra_slots);
    EXPECT_GE(optimum, placed.lower_bound_over_mean - 1e-9) << "the bound is a bound";
    EXPECT_GE(placed.max_over_mean, optimum - 1e-9);
    gap += placed.max_over_mean / optimum - 1;
  }
  EXPECT_LT(gap / 40, 0.01);
}

TEST(Replicas, GiveWhatABruteForcePlacementOfThePartsGives) {
  EXPECT_TRUE(AdviseReplicas({0, 1}, {1, 1}, 2).empty()) << "nobody is too heavy";
  EXPECT_TRUE(AdviseReplicas({0, 1}, {9, 1}, 1).empty()) << "there is nowhere to copy to";
  for (int seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    auto loads = Draw(seed, 5, 0.4);
    loads[seed % 5] *= 12;
    const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / 3;
    const auto advice = AdviseReplicas({0, 1, 2, 3, 4}, loads, 3);
    ASSERT_FALSE(advice.empty());
    std::vector<double> parts = loads;
    for (const ReplicaAdvice& one : advice) {
      EXPECT_GT(one.load_over_rank_mean, 1);
      EXPECT_NEAR(one.load_over_rank_mean, loads[one.expert] / mean, 1e-12);
      EXPECT_LE(one.copies, 3);
      parts[one.expert] /= one.copies;
      for (int copy = 1; copy < one.copies; ++copy) parts.push_back(parts[one.expert]);
    }
    const double best = Optimum(parts, 3, (static_cast<int>(parts.size()) + 2) / 3 + 2);
    EXPECT_GE(advice[0].max_over_mean_with_copies, best - 1e-9);
    EXPECT_LE(advice[0].max_over_mean_with_copies, best * 1.05);
    EXPECT_LT(advice[0].max_over_mean_with_copies, advice[0].load_over_rank_mean);
  }
}

}  // namespace
}  // namespace espalier::planner
