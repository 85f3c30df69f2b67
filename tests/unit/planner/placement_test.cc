// Goal: placements hold every limit and come near the best there is. Method: brute force on tiny
// cases, properties on random loads, the gap to the lower bound on the distributions of real
// interest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <random>

#include "libs/planner/planner.h"
#include "tests/unit/planner/recorded.h"

namespace espalier::planner {
namespace {

std::vector<double> Lognormal(std::mt19937& random, int count, double sigma) {
  std::lognormal_distribution<double> load(0, sigma);
  std::vector<double> loads(count);
  for (double& value : loads) value = load(random);
  return loads;
}
std::vector<double> Zipf(std::mt19937& random, int count, double exponent) {
  std::vector<double> loads(count);
  for (int i = 0; i < count; ++i) loads[i] = std::pow(i + 1, -exponent);
  std::shuffle(loads.begin(), loads.end(), random);
  return loads;
}
int Capacity(size_t experts, const PlacementOptions& options) {
  return (static_cast<int>(experts) + options.rank_count - 1) / options.rank_count +
         options.extra_slots;
}
void ExpectWithinCapacity(const std::vector<int>& ranks, const PlacementOptions& options) {
  std::vector<int> held(options.rank_count);
  for (const int rank : ranks) {
    ASSERT_GE(rank, 0);
    ASSERT_LT(rank, options.rank_count);
    ++held[rank];
  }
  for (const int count : held) EXPECT_LE(count, Capacity(ranks.size(), options));
}
int Moves(const std::vector<int>& from, const std::vector<int>& to) {
  int moves = 0;
  for (size_t i = 0; i < from.size(); ++i) moves += from[i] != to[i];
  return moves;
}
std::vector<int> InIndexOrder(size_t experts, int rank_count) {
  std::vector<int> ranks(experts);
  for (size_t i = 0; i < experts; ++i) ranks[i] = static_cast<int>(i * rank_count / experts);
  return ranks;
}

TEST(PlaceExperts, TakesNothingAndIdleExperts) {
  EXPECT_TRUE(PlaceExperts({}, {}, {.rank_count = 3}).ranks.empty());
  const Placement idle = PlaceExperts({0, 0, 0}, {}, {.rank_count = 3, .extra_slots = 0});
  ExpectWithinCapacity(idle.ranks, {.rank_count = 3, .extra_slots = 0});
  EXPECT_EQ(idle.max_over_mean, 1);
  EXPECT_EQ(PlaceExperts({1, 2}, {}, {.rank_count = 1}).max_over_mean, 1);
  const Placement few = PlaceExperts({1, 2}, {}, {.rank_count = 5});
  EXPECT_NE(few.ranks[0], few.ranks[1]);
}

TEST(PlaceExperts, HoldsItsPromisesFromNothingAndFromAnyPlacement) {
  for (int seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    PlacementOptions options;
    options.rank_count = 1 + random() % 9;
    options.extra_slots = random() % 3;
    options.tolerance = random() % 2 == 0 ? 0 : 0.005;
    const int count = 1 + random() % 60;
    const auto loads = Lognormal(random, count, 0.3 + random() % 3);
    const Placement fresh = PlaceExperts(loads, {}, options);
    ExpectWithinCapacity(fresh.ranks, options);
    EXPECT_EQ(fresh.moves, 0);
    EXPECT_NEAR(fresh.max_over_mean, MaxOverMean(loads, fresh.ranks, options.rank_count), 1e-9);
    EXPECT_GE(fresh.max_over_mean, fresh.lower_bound_over_mean - 1e-9);

    std::vector<int> current = fresh.ranks;  // feasible, but for other loads
    std::shuffle(current.begin(), current.end(), random);
    options.moves_max = random() % 2 == 0 ? random() % 10 : count;
    const Placement next = PlaceExperts(loads, current, options);
    ExpectWithinCapacity(next.ranks, options);
    EXPECT_LE(next.moves, options.moves_max);
    EXPECT_EQ(next.moves, Moves(current, next.ranks));
    EXPECT_LE(next.max_over_mean, MaxOverMean(loads, current, options.rank_count) + 1e-9);

    std::vector<int> broken(count);  // full ranks, ranks that are gone, experts without one
    for (int& rank : broken) rank = static_cast<int>(random() % 3) * (options.rank_count - 1) - 1;
    options.moves_max = 0;
    const Placement repaired = PlaceExperts(loads, broken, options);
    ExpectWithinCapacity(repaired.ranks, options);
    EXPECT_EQ(repaired.moves, Moves(broken, repaired.ranks));
  }
}

TEST(PlaceExperts, MovesNothingWhenWithinTolerance) {
  const std::vector<int> current = {1, 1, 0, 0};
  EXPECT_EQ(PlaceExperts({1, 1, 1, 1.001}, current, {.rank_count = 2}).ranks, current);
}

// The least maximum over all placements within capacity.
double BruteForce(const std::vector<double>& loads, const PlacementOptions& options) {
  std::vector<double> sums(options.rank_count);
  std::vector<int> held(options.rank_count);
  double best = std::accumulate(loads.begin(), loads.end(), 0.0);
  const int capacity = Capacity(loads.size(), options);
  const std::function<void(size_t, double)> place = [&](size_t i, double peak) {
    if (peak >= best) return;
    if (i == loads.size()) {
      best = peak;
      return;
    }
    for (int rank = 0; rank < options.rank_count; ++rank) {
      if (held[rank] == capacity) continue;
      ++held[rank];
      sums[rank] += loads[i];
      place(i + 1, std::max(peak, sums[rank]));
      sums[rank] -= loads[i];
      --held[rank];
    }
  };
  place(0, 0);
  return best;
}

TEST(PlaceExperts, ComesCloseToBruteForceAndItsBoundIsOne) {
  double gap = 0;
  int optimal = 0;
  constexpr int kCases = 200;
  for (int seed = 0; seed < kCases; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    PlacementOptions options{.rank_count = 2 + static_cast<int>(random() % 2),
                             .extra_slots = static_cast<int>(random() % 2),
                             .tolerance = 0};
    const auto loads = Lognormal(random, 4 + random() % 6, 1);
    const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / options.rank_count;
    const double best = BruteForce(loads, options) / mean;
    const Placement placement = PlaceExperts(loads, {}, options);
    EXPECT_LE(placement.lower_bound_over_mean, best + 1e-9);
    EXPECT_GE(placement.max_over_mean, best - 1e-9);
    gap += placement.max_over_mean / best - 1;
    optimal += placement.max_over_mean < best + 1e-9;
  }
  EXPECT_LT(gap / kCases, 0.005);
  EXPECT_GT(optimal, kCases * 8 / 10);
}

TEST(PlaceExperts, ReachesTheSameMaximumWhateverTheOrderOfExperts) {
  for (int seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto loads = Lognormal(random, 48, 1);
    auto mixed = loads;
    std::shuffle(mixed.begin(), mixed.end(), random);
    EXPECT_NEAR(PlaceExperts(loads, {}, {.rank_count = 8}).max_over_mean,
                PlaceExperts(mixed, {}, {.rank_count = 8}).max_over_mean, 1e-9);
  }
}

TEST(PlaceExperts, ComesWithinAFifthOfAPercentOfTheBoundOnAverage) {
  for (const auto& [experts, ranks] :
       std::vector<std::pair<int, int>>{{64, 8}, {48, 8}, {128, 16}, {256, 32}, {512, 64}}) {
    for (const int extra : {0, 2}) {
      for (int kind = 0; kind < 4; ++kind) {
        double gap = 0;
        constexpr int kCases = 20;
        for (int seed = 0; seed < kCases; ++seed) {
          std::mt19937 random(seed);
          const double shape = kind % 2 == 0 ? 0.5 : 1;
          const auto loads =
              kind < 2 ? Lognormal(random, experts, shape) : Zipf(random, experts, shape);
          const Placement placement = PlaceExperts(
              loads, {}, {.rank_count = ranks, .extra_slots = extra, .tolerance = 0.001});
          gap += placement.max_over_mean / placement.lower_bound_over_mean - 1;
        }
        EXPECT_LE(gap / kCases, 0.002) << experts << " experts, " << ranks << " ranks, " << extra
                                       << " extra slots, distribution " << kind;
      }
    }
  }
}

TEST(PlaceExperts, FollowsADriftWithFewMoves) {
  for (const auto& [experts, ranks] :
       std::vector<std::pair<int, int>>{{128, 16}, {256, 32}, {512, 64}}) {
    double moved = 0, excess = 0;
    constexpr int kCases = 10;
    for (int seed = 0; seed < kCases; ++seed) {
      std::mt19937 random(seed);
      auto loads = Lognormal(random, experts, 0.5);
      PlacementOptions options{.rank_count = ranks};
      const auto current = PlaceExperts(loads, {}, options).ranks;
      std::normal_distribution<double> drift(1, 0.2);
      for (double& load : loads) load *= std::max(0.05, drift(random));
      const double full = PlaceExperts(loads, {}, options).max_over_mean;
      options.tolerance = 0.01;
      const Placement next = PlaceExperts(loads, current, options);
      excess += next.max_over_mean / full - 1;
      moved += static_cast<double>(next.moves) / experts;
    }
    EXPECT_LE(excess / kCases, 0.01) << experts;
    EXPECT_LE(moved / kCases, 0.1) << experts;
  }
}

TEST(PlaceExperts, EvensOutTheRecordedRun) {
  for (const auto& [layer, windows] : ReadRecorded()) {
    const auto& loads = windows.back().loads;
    const auto current = InIndexOrder(64, 4);
    const Placement placement = PlaceExperts(loads, current, {.rank_count = 4});
    EXPECT_GT(MaxOverMean(loads, current, 4), 1.1) << layer;
    EXPECT_LE(placement.max_over_mean, placement.lower_bound_over_mean * 1.0051) << layer;
  }
}

}  // namespace
}  // namespace espalier::planner
