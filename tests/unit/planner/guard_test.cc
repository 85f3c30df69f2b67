// Goal: the guard forecasts a falling loss well enough to tell harm from noise. Method: synthetic
// power laws with noise.
#include "libs/planner/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace espalier::planner {
namespace {

double Curve(double step) { return 2 + 6 * std::pow(step, -0.35); }

TEST(Guard, ForecastsPowerLawsWithNoise) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.003);
  double worst = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<LossPoint> points;
    for (double step = 200; step <= 1000; step += 100)
      points.push_back({step, Curve(step) + noise(random)});
    worst = std::max(worst, std::abs(ForecastLoss(points, 1200).loss - Curve(1200)));
  }
  EXPECT_LT(worst, 0.03);
}

TEST(Guard, OneBadEvaluationDoesNotBendIt) {
  std::vector<LossPoint> points;
  for (double step = 200; step <= 1000; step += 100) points.push_back({step, Curve(step)});
  const double clean = ForecastLoss(points, 1200).loss;
  points[4].loss += 1;
  EXPECT_NEAR(ForecastLoss(points, 1200).loss, clean, 0.03);
}

TEST(Guard, NeverForecastsARiseAndSaysOnHowLittleItRests) {
  const std::vector<LossPoint> rising = {{100, 2}, {200, 2.1}, {300, 2.2}, {400, 2.3}};
  EXPECT_LE(ForecastLoss(rising, 500).loss, 2.3);
  const std::vector<LossPoint> two = {{100, 3}, {200, 2.5}};
  EXPECT_EQ(ForecastLoss(two, 300).loss, 2.5);
  EXPECT_EQ(ForecastLoss(two, 300).points, 2);
  EXPECT_EQ(ForecastLoss({}, 300).points, 0);
  const std::vector<LossPoint> broken = {{100, 3}, {200, std::nan("")}};
  EXPECT_EQ(ForecastLoss(broken, 300).loss, 3);
}

TEST(Guard, HoldsUpToTheToleranceAndNeverForWhatIsNoNumber) {
  EXPECT_TRUE(GuardHolds({2.0, 3}, 2.05, 0.05));
  EXPECT_FALSE(GuardHolds({2.0, 3}, 2.051, 0.05));
  EXPECT_TRUE(GuardHolds({2.0, 3}, 1.5, 0));
  EXPECT_FALSE(GuardHolds({2.0, 3}, std::nan(""), 10));
  EXPECT_FALSE(GuardHolds({2.0, 3}, std::numeric_limits<double>::infinity(), 10));
  EXPECT_TRUE(GuardHolds({0, 0}, 2.5, 0.05)) << "nothing is known to hold against it";
}

}  // namespace
}  // namespace espalier::planner
