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
  for (const bool filter : {true, false}) {
    for (const auto shaping :
         {v1::LENGTH_SHAPING_NONE, v1::LENGTH_SHAPING_GROUP, v1::LENGTH_SHAPING_OVERLONG}) {
      v1::ReinforceStage spec;
      spec.set_overlong_filter(filter);
      spec.mutable_reward()->set_length_shaping(shaping);
      EXPECT_TRUE(CarriesGradient(whole, spec));
      EXPECT_EQ(CarriesGradient(cut, spec), !filter || shaping == v1::LENGTH_SHAPING_OVERLONG);
      EXPECT_FALSE(CarriesGradient(abstained, spec));
      EXPECT_FALSE(CarriesGradient(empty, spec));
    }
  }
}

// Ratios: inside, far above, far below, just inside either side.
const std::vector<float> kOldLogps = {-1.0f, -2.0f, -0.5f, -3.0f, -1.5f};
const std::vector<float> kLogps = {-1.0f, -1.0f, -1.5f, -2.8f, -1.6f};

double LossOf(const std::vector<float>& logps, double advantage, bool both_sides,
              std::span<const uint8_t> selected, std::span<float> gradient) {
  return PolicyLoss(logps, kOldLogps, advantage, {0.2, 0.28, both_sides}, 10, selected, gradient);
}

TEST(PolicyLoss, GradientIsTheLosssDerivativeWithEveryOption) {
  const std::vector<uint8_t> all, some = {1, 1, 0, 0, 1};
  for (const double advantage : {1.3, 0.0, -0.7}) {
    for (const bool both_sides : {false, true}) {
      for (const auto& selected : {all, some}) {
        std::vector<float> gradient(5, 77.0f), unused(5);
        LossOf(kLogps, advantage, both_sides, selected, gradient);
        for (int i = 0; i < 5; ++i) {
          std::vector<float> up = kLogps, down = kLogps;
          up[i] += 1e-3f;
          down[i] -= 1e-3f;
          const double slope = (LossOf(up, advantage, both_sides, selected, unused) -
                                LossOf(down, advantage, both_sides, selected, unused)) /
                               (up[i] - down[i]);
          EXPECT_NEAR(gradient[i], slope, 1e-4)
              << "token " << i << " advantage " << advantage << " both sides " << both_sides
              << " selected " << selected.size();
        }
      }
    }
  }
}

TEST(PolicyLoss, ClipStopsWhatWentFarEnough) {
  const std::vector<float> old_logps = {0.0f, 0.0f};
  const std::vector<float> logps = {std::log(1.29f), std::log(0.79f)};
  std::vector<float> gradient(2);
  PolicyLoss(logps, old_logps, 1.0, {0.2, 0.28}, 1, {}, gradient);
  EXPECT_EQ(gradient[0], 0.0f);  // good and already 1.28 times as likely
  EXPECT_LT(gradient[1], 0.0f);
  PolicyLoss(logps, old_logps, -1.0, {0.2, 0.28}, 1, {}, gradient);
  EXPECT_GT(gradient[0], 0.0f);
  EXPECT_EQ(gradient[1], 0.0f);  // bad and already 0.8 times as likely
}

TEST(PolicyLoss, BothSidesBoundABadTokenThatBecameMuchLikelier) {
  const std::vector<float> old_logps = {0.0f, 0.0f, 0.0f};
  const std::vector<float> logps = {std::log(50.0f), std::log(0.5f), std::log(1.1f)};
  std::vector<float> gradient(3);
  // By hand: the ratios 50, 0.5, 1.1 are taken as 1.28, 0.8, 1.1, times -A = 2, over 4 tokens.
  const double loss = PolicyLoss(logps, old_logps, -2.0, {0.2, 0.28, true}, 4, {}, gradient);
  EXPECT_NEAR(loss, 2 * (1.28 + 0.8 + 1.1) / 4, 1e-6);
  EXPECT_EQ(gradient[0], 0.0f);
  EXPECT_EQ(gradient[1], 0.0f);
  EXPECT_NEAR(gradient[2], 2 * 1.1 / 4, 1e-6);
  // With the smaller objective only, the 50 stands.
  EXPECT_NEAR(PolicyLoss(logps, old_logps, -2.0, {0.2, 0.28, false}, 4, {}, gradient),
              2 * (50 + 0.8 + 1.1) / 4, 1e-4);
  // Good traces are clipped as ever.
  std::vector<float> one_side(3);
  EXPECT_EQ(PolicyLoss(logps, old_logps, 2.0, {0.2, 0.28, true}, 4, {}, gradient),
            PolicyLoss(logps, old_logps, 2.0, {0.2, 0.28, false}, 4, {}, one_side));
  EXPECT_EQ(gradient, one_side);
}

TEST(PolicyLoss, IsAMeanOverTheTokensOfAllTraces) {
  const std::vector<float> logps = {-1.0f, -2.0f};
  std::vector<float> gradient(2);
  EXPECT_DOUBLE_EQ(PolicyLoss(logps, logps, 3.0, {0.2, 0.28}, 12, {}, gradient), -0.5);
  EXPECT_FLOAT_EQ(gradient[0], -0.25f);
}

}  // namespace
}  // namespace espalier::train
