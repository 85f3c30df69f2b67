// Goal: every published reward is what its paper says. Method: totals and parts worked out by hand
// for a right and a wrong trace of given lengths.
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/reward/presets.h"
#include "libs/reward/reward.h"
#include "libs/reward/shape.h"

namespace espalier::reward {
namespace {

constexpr char kRight[] = "The answer is 14.", kWrong[] = "The answer is 13.";

RewardOptions Named(const char* name, int64_t length_max = 0, int64_t length_target = 0) {
  RewardOptions options = FindPreset(name)->options;
  options.length_max = length_max;
  options.length_target = length_target;
  return options;
}

std::vector<double> Totals(const std::vector<TraceInput>& traces, const RewardOptions& options) {
  std::vector<double> totals;
  for (const TraceScore& score : ScoreGroup("14", traces, options)) totals.push_back(score.total);
  return totals;
}

std::string Restated(const char* statement, int times) {
  std::string trace = statement;
  const char* const kCounts[] = {"first", "second", "third", "fourth", "fifth"};
  for (int i = 0; i < times; ++i) {
    trace += std::string(" Now for the ") + kCounts[i] + " time, slowly. " + statement;
  }
  return trace;
}

TEST(Presets, RirmPaysAndFinesAsPublished) {
  // Right: 1 + R_ver + 1. Wrong, restating the right answer first: 1 + R_ver - 1, and the safe form
  // drops what it got for having answered.
  for (int v = 0; v <= 4; ++v) {
    const std::string right = Restated(kRight, v);
    const std::string wrong = Restated(kRight, v) + " No. " + kWrong;
    const double revised = std::min(1.0, v / 3.0),
                 paper = v <= 1 ? 0 : std::min(1.0, (v - 1) / 3.0);
    EXPECT_NEAR(3 - revised, Totals({{right}}, Named("rirm-revised/1"))[0], 1e-12) << v;
    EXPECT_NEAR(3 - revised, Totals({{right}}, Named("rirm-safe/1"))[0], 1e-12) << v;
    EXPECT_NEAR(3 - paper, Totals({{right}}, Named("rirm-paper/1"))[0], 1e-12) << v;
    EXPECT_NEAR(0 - revised, Totals({{wrong}}, Named("rirm-revised/1"))[0], 1e-12) << v;
    EXPECT_NEAR(-1 - revised, Totals({{wrong}}, Named("rirm-safe/1"))[0], 1e-12) << v;
    EXPECT_NEAR(0 - paper, Totals({{wrong}}, Named("rirm-paper/1"))[0], 1e-12) << v;
  }
  // No statement: -3, and the format check fails.
  for (const char* name : {"rirm-paper/1", "rirm-revised/1", "rirm-safe/1"}) {
    EXPECT_EQ(-4, Totals({{""}}, Named(name))[0]) << name;
  }
}

TEST(Presets, CorrectnessIsPlusOrMinusOne) {
  EXPECT_THAT(Totals({{kRight}, {kWrong}, {""}, {Restated(kRight, 5)}}, Named("correctness/1")),
              testing::ElementsAre(1, -1, -1, 1));
}

TEST(Presets, DapoFinesTheLastQuarterOfTheLength) {
  EXPECT_THAT(Totals({{kRight, 75}, {kRight, 80}, {kRight, 100}, {kRight, 300}, {kWrong, 90}},
                     Named("dapo/1", 100)),
              testing::ElementsAre(1, testing::DoubleNear(0.8, 1e-12), 0, 0,
                                   testing::DoubleNear(-1.6, 1e-12)));
}

TEST(Presets, KimiComparesWithinTheGroup) {
  // lambda = 0.5 - (length - 10) / 20, half of it beside correctness.
  EXPECT_THAT(Totals({{kRight, 10}, {kRight, 20}, {kRight, 30}, {kWrong, 10}, {kWrong, 30}},
                     Named("kimi/1")),
              testing::ElementsAre(1.25, 1, 0.75, -1, -1.25));
}

TEST(Presets, CosineFallsForRightAndRisesForWrongTraces) {
  // Half way the cosine is 0: right (2 + 1) / 2, wrong (-10 + 0) / 2; a third of the way it is 1/2.
  EXPECT_THAT(Totals({{kRight, 50}, {kWrong, 50}, {kRight, 100}, {kWrong, 100}, {kRight, 170}},
                     Named("cosine/1", 100)),
              testing::ElementsAre(testing::DoubleNear(1.5, 1e-12), testing::DoubleNear(-5, 1e-12),
                                   -10, -10, -10));
  EXPECT_NEAR(1.75, CosinePart(30, 90, true), 1e-12);
  EXPECT_NEAR(-7.5, CosinePart(30, 90, false), 1e-12);
  EXPECT_EQ(2, CosinePart(0, 90, true));
  EXPECT_EQ(-10, CosinePart(0, 90, false));
  EXPECT_NEAR(1, CosinePart(89999, 90000, true), 1e-6);
}

TEST(Presets, L1KeepsToTheWantedLength) {
  // Exact: 1/2 or -1/2 less 0.0003 a token off.
  EXPECT_THAT(
      Totals({{kRight, 1000}, {kRight, 1200}, {kRight, 800}, {kWrong, 2000}},
             Named("l1/1", 0, 1000)),
      testing::ElementsAre(0.5, testing::DoubleNear(0.44, 1e-12), testing::DoubleNear(0.44, 1e-12),
                           testing::DoubleNear(-0.8, 1e-12)));
  // Max: 1/2 + 0.0003 * (target - length), from 0 to 1, for right traces.
  EXPECT_THAT(Totals({{kRight, 1000}, {kRight, 2000}, {kRight, 4000}, {kRight, 10}, {kWrong, 10}},
                     Named("l1-max/1", 0, 3000)),
              testing::ElementsAre(1, testing::DoubleNear(0.8, 1e-12),
                                   testing::DoubleNear(0.2, 1e-12), 1, 0));
}

TEST(Presets, RawTotalsLeaveTheLengthOut) {
  const TraceScore score = ScoreGroup("14", {{kRight, 80}}, Named("dapo/1", 100))[0];
  EXPECT_EQ(1, score.raw_total);
  EXPECT_NEAR(0.8, score.total, 1e-12);
  EXPECT_NEAR(-0.2, score.raw_parts.length, 1e-12);
  EXPECT_EQ(1, score.raw_parts.answer) << "unweighted";
  EXPECT_EQ(0, score.parts.answer);
}

TEST(Presets, HesitationsCanBeTheCount) {
  RewardOptions options;
  options.count_hesitations = true;
  const std::string trace =
      "Hmm, 12 + 2. Wait, is it? Alternatively count. The answer is 14. The answer is 14.";
  const TraceScore score = ScoreGroup("14", {{trace}}, options)[0];
  EXPECT_EQ(3, score.hesitations);
  EXPECT_EQ(1, score.reflections);
  EXPECT_EQ(0, score.parts.reflection);
}

}  // namespace
}  // namespace espalier::reward
