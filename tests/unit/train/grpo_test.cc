// Goal: advantages and the clipped loss are GRPO's with DAPO's clip. Method: by hand, and by finite
// differences.
#include "libs/train/grpo.h"

#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "libs/train/rollout.h"

namespace espalier::train {
namespace {

TEST(GroupAdvantages, EqualRewardsCarryNoGradient) {
  // 0.1 three times does not average to 0.1 in binary.
  const std::vector<double> rewards = {0.1, 0.1, 0.1};
  EXPECT_EQ(GroupAdvantages(rewards, {true, true, true}), (std::vector<double>{0, 0, 0}));
}

TEST(GroupAdvantages, TracesWithoutVerdictNeitherCountNorLearn) {
  const std::vector<double> rewards = {1.0, -50.0, 3.0};
  const auto advantages = GroupAdvantages(rewards, {true, false, true});
  EXPECT_EQ(advantages[1], 0.0);
  EXPECT_NEAR(advantages[0], -1.0, 1e-3);
  EXPECT_NEAR(advantages[2], 1.0, 1e-3);
}

TEST(GroupAdvantages, NothingScoredIsNoGradient) {
  const std::vector<double> rewards = {1.0, 2.0};
  EXPECT_EQ(GroupAdvantages(rewards, {false, false}), (std::vector<double>{0, 0}));
}

TEST(GroupAdvantages, AreStandardised) {
  const std::vector<double> rewards = {4, 1, -2, 9, 0};
  const auto advantages = GroupAdvantages(rewards, std::vector<bool>(5, true));
  EXPECT_NEAR(std::accumulate(advantages.begin(), advantages.end(), 0.0), 0.0, 1e-12);
  double squares = 0;
  for (const double a : advantages) squares += a * a;
  EXPECT_NEAR(squares / 5, 1.0, 1e-3);
}

TEST(CarriesGradient, LeavesOutAbstentionsAndTracesCutOff) {
  RolloutTrace whole, cut, abstained, empty;
  whole.sample.tokens = cut.sample.tokens = abstained.sample.tokens = {5, 6};
  cut.sample.truncated = true;
  abstained.score.set_verdict(v1::VERDICT_ABSTAIN);
  for (const auto shaping :
       {v1::LENGTH_SHAPING_NONE, v1::LENGTH_SHAPING_GROUP, v1::LENGTH_SHAPING_OVERLONG}) {
    EXPECT_TRUE(CarriesGradient(whole, shaping));
    EXPECT_EQ(CarriesGradient(cut, shaping), shaping == v1::LENGTH_SHAPING_OVERLONG);
    EXPECT_FALSE(CarriesGradient(abstained, shaping));
    EXPECT_FALSE(CarriesGradient(empty, shaping));
  }
}

TEST(PolicyLoss, GradientIsTheLosssDerivative) {
  const std::vector<float> old_logps = {-1.0f, -2.0f, -0.5f, -3.0f, -1.5f};
  // Ratios: inside, far above, far below, just inside either side.
  const std::vector<float> logps = {-1.0f, -1.0f, -1.5f, -2.8f, -1.6f};
  for (const double advantage : {1.3, -0.7}) {
    std::vector<float> gradient(5), unused(5);
    PolicyLoss(logps, old_logps, advantage, {0.2, 0.28}, 10, gradient);
    for (int i = 0; i < 5; ++i) {
      std::vector<float> up = logps, down = logps;
      up[i] += 1e-3f;
      down[i] -= 1e-3f;
      const double slope = (PolicyLoss(up, old_logps, advantage, {0.2, 0.28}, 10, unused) -
                            PolicyLoss(down, old_logps, advantage, {0.2, 0.28}, 10, unused)) /
                           (up[i] - down[i]);
      EXPECT_NEAR(gradient[i], slope, 1e-4) << "token " << i << " advantage " << advantage;
    }
  }
}

TEST(PolicyLoss, ClipStopsWhatWentFarEnough) {
  const std::vector<float> old_logps = {0.0f, 0.0f};
  const std::vector<float> logps = {std::log(1.29f), std::log(0.79f)};
  std::vector<float> gradient(2);
  PolicyLoss(logps, old_logps, 1.0, {0.2, 0.28}, 1, gradient);
  EXPECT_EQ(gradient[0], 0.0f);  // good and already 1.28 times as likely
  EXPECT_LT(gradient[1], 0.0f);
  PolicyLoss(logps, old_logps, -1.0, {0.2, 0.28}, 1, gradient);
  EXPECT_GT(gradient[0], 0.0f);
  EXPECT_EQ(gradient[1], 0.0f);  // bad and already 0.8 times as likely
}

TEST(PolicyLoss, IsAMeanOverTheTokensOfAllTraces) {
  const std::vector<float> logps = {-1.0f, -2.0f};
  std::vector<float> gradient(2);
  EXPECT_DOUBLE_EQ(PolicyLoss(logps, logps, 3.0, {0.2, 0.28}, 12, gradient), -0.5);
  EXPECT_FLOAT_EQ(gradient[0], -0.25f);
}

}  // namespace
}  // namespace espalier::train
