// Goal: which tokens and groups an update learns from is what the options say, whatever the number
// of ranks. Method: references by hand and by sorting, tokens dealt to one, two and three ranks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <random>

#include "gtest/gtest.h"
#include "libs/train/data.h"
#include "libs/train/entropy.h"
#include "libs/train/policy.h"
#include "libs/train/refill.h"
#include "tests/unit/train/ranks.h"

namespace espalier::train {
namespace {

// Marks of all tokens, put together from `ranks` ranks' contiguous shares.
std::vector<uint8_t> Mark(const std::vector<float>& entropies, double share, int ranks) {
  std::vector<uint8_t> marks(entropies.size(), 9);
  OnRanks(ranks, [&](collective::Communicator& communicator) {
    const Share mine =
        ShareOf(static_cast<int64_t>(entropies.size()), communicator.rank(), communicator.size());
    const auto marked = MarkHighestEntropies(std::span(entropies).subspan(mine.begin, mine.count()),
                                             share, communicator);
    ASSERT_TRUE(marked.ok());
    ASSERT_EQ(static_cast<int64_t>(marked->size()), mine.count());
    std::copy(marked->begin(), marked->end(), marks.begin() + mine.begin);
  });
  return marks;
}

// By a stable sort: of equal entropies the earlier goes first.
std::vector<uint8_t> MarkBySorting(const std::vector<float>& entropies, size_t wanted) {
  std::vector<size_t> order(entropies.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return entropies[a] > entropies[b]; });
  std::vector<uint8_t> marks(entropies.size(), 0);
  for (size_t i = 0; i < wanted; ++i) marks[order[i]] = 1;
  return marks;
}

TEST(HighestEntropies, AreThoseOfASortWhateverTheNumberOfRanks) {
  std::mt19937 random(3);
  for (const int tokens : {1, 2, 17, 500}) {
    for (const bool coarse : {false, true}) {
      std::vector<float> entropies;
      for (int i = 0; i < tokens; ++i) {
        // Coarse values collide often; most tokens of a trained model have next to no entropy.
        const float value = std::exponential_distribution<float>(2.0f)(random);
        entropies.push_back(coarse ? std::floor(value * 4) / 4 : value * value * value);
      }
      for (const double share : {0.01, 0.2, 0.5, 1.0}) {
        const auto wanted = static_cast<size_t>(std::ceil(share * tokens));
        const auto expected = MarkBySorting(entropies, wanted);
        for (const int ranks : {1, 2, 3}) {
          EXPECT_EQ(Mark(entropies, share, ranks), expected)
              << tokens << " tokens, share " << share << ", ranks " << ranks << ", coarse "
              << coarse;
        }
      }
    }
  }
}

TEST(HighestEntropies, EqualOnesAreCutAtExactlyTheShare) {
  const std::vector<float> entropies(10, 0.0f);
  EXPECT_EQ(Mark(entropies, 0.2, 3), (std::vector<uint8_t>{1, 1, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(HighestEntropies, NoNumberIsNoEntropyAndNoTokenIsFine) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Mark({nan, 0.5f, -1e-9f, 0.1f}, 0.5, 2), (std::vector<uint8_t>{0, 1, 0, 1}));
  EXPECT_TRUE(Mark({}, 0.2, 3).empty());
  // Two ranks have nothing.
  EXPECT_EQ(Mark({0.3f}, 0.2, 3), (std::vector<uint8_t>{1}));
}

GroupStanding Standing(int64_t index, int64_t correct, double reward, int64_t tokens) {
  return {
      .index = index, .traces = 8, .correct = correct, .reward = reward, .gradient_tokens = tokens};
}

TEST(RefillUses, TheEasiestFillUpForGroupsWithoutGradient) {
  // By hand: groups 0, 3 and 5 carry nothing; of the others 4 has most correct, then 1, then 2.
  const std::vector<GroupStanding> groups = {Standing(0, 8, 24, 0),  Standing(1, 5, 9, 100),
                                             Standing(2, 2, 20, 90), Standing(3, 0, 0, 0),
                                             Standing(4, 7, 3, 80),  Standing(5, 8, 24, 0)};
  // Six places for three groups: each twice.
  EXPECT_EQ(RefillUses(groups), (std::vector<int64_t>{0, 2, 2, 0, 2, 0}));
  // Four carry gradient: two are used again, the easiest two.
  std::vector<GroupStanding> more = groups;
  more[5] = Standing(5, 1, 1, 10);
  EXPECT_EQ(RefillUses(more), (std::vector<int64_t>{0, 2, 1, 0, 2, 1}));
}

TEST(RefillUses, TiesGoToTheHigherRewardThenTheLowerIndex) {
  const std::vector<GroupStanding> groups = {Standing(4, 5, 9, 1), Standing(6, 5, 10, 1),
                                             Standing(8, 5, 9, 1), Standing(10, 8, 24, 0),
                                             Standing(12, 0, 0, 0)};
  EXPECT_EQ(RefillUses(groups), (std::vector<int64_t>{2, 2, 1, 0, 0}));
}

TEST(RefillUses, NothingIsRefilledWhenAllOrNoneCarryGradient) {
  EXPECT_EQ(RefillUses(std::vector{Standing(0, 1, 1, 5), Standing(1, 2, 2, 5)}),
            (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(RefillUses(std::vector{Standing(0, 1, 1, 0), Standing(1, 2, 2, 0)}),
            (std::vector<int64_t>{0, 0}));
  EXPECT_TRUE(RefillUses({}).empty());
}

TEST(GroupStandings, EveryRankLearnsAllGroups) {
  OnRanks(3, [](collective::Communicator& communicator) {
    // Rank 1 holds none; the rewards' bits must survive.
    std::vector<GroupStanding> mine;
    if (communicator.rank() == 0) mine = {Standing(0, 3, -0.1, 40), Standing(1, 8, 24, 0)};
    if (communicator.rank() == 2) mine = {Standing(2, 1, 1.0 / 3, 7)};
    Exchange exchange(communicator);
    exchange.AddSum(5);
    GroupStandings standings(3);
    standings.Pack(mine, &exchange);
    ASSERT_TRUE(exchange.Run().ok());
    const auto all = standings.Unpack(exchange);
    ASSERT_EQ(all.size(), 3u);
    EXPECT_EQ(all[0].reward, -0.1);
    EXPECT_EQ(all[1].gradient_tokens, 0);
    EXPECT_EQ(all[2].reward, 1.0 / 3);
    EXPECT_EQ(all[2].correct, 1);
    EXPECT_EQ(all[2].index, 2);
  });
}

// Two traces a group, the first right; the policy was at logp -1 everywhere.
RolloutGroup Group(int64_t index, double first_reward, double second_reward) {
  RolloutGroup group{.index = index, .prompt = {1, 2}, .traces = {}};
  for (const double reward : {first_reward, second_reward}) {
    RolloutTrace trace;
    trace.sample.tokens = {3, 4, 0};
    trace.sample.logps = {-1, -1, -1};
    trace.score.set_total(reward);
    trace.score.set_verdict(group.traces.empty() ? v1::VERDICT_CORRECT : v1::VERDICT_WRONG);
    group.traces.push_back(trace);
  }
  return group;
}

TEST(PolicyBatch, AGroupUsedTwiceIsTheSameAsStandingTwice) {
  v1::ReinforceStage spec;
  spec.set_clip_low(0.2);
  spec.set_clip_high(0.28);
  const RolloutGroup first = Group(0, 3, 0), second = Group(1, 1, -1);
  PolicyBatch once, twice;
  const std::vector<GroupStanding> standings = {once.Add(first, spec), once.Add(second, spec)};
  EXPECT_EQ(standings[0].gradient_tokens, 6);
  EXPECT_EQ(standings[0].correct, 1);
  EXPECT_DOUBLE_EQ(standings[0].reward, 3);
  once.SetUses(standings, std::vector<int64_t>{1, 2});
  for (const RolloutGroup* group : {&first, &second, &second}) twice.Add(*group, spec);

  // Each sequence has two prompt tokens and three sampled ones: four inputs, the last three
  // predict. One ratio is beyond the clip.
  const std::vector<float> logps = {0, -1, -0.9, -0.2, 0, -1.1, -1, -0.95,
                                    0, -1, -0.9, -0.2, 0, -1.1, -1, -0.95};
  std::vector<float> longer = logps;
  longer.insert(longer.end(), logps.begin() + 8, logps.end());
  std::vector<float> gradient(16), longer_gradient(24);
  const double loss = once.Loss(logps, spec, 18, {}, gradient);
  EXPECT_NEAR(loss, twice.Loss(longer, spec, 18, {}, longer_gradient), 1e-12);
  for (int i = 0; i < 8; ++i) {
    EXPECT_FLOAT_EQ(gradient[i], longer_gradient[i]);
    EXPECT_FLOAT_EQ(gradient[8 + i], longer_gradient[8 + i] + longer_gradient[16 + i]);
  }
  EXPECT_EQ(gradient[0], 0.0f);  // a prompt token
  EXPECT_NE(gradient[1], 0.0f);
}

TEST(PolicyBatch, SelectedTokensAreThoseOfTheTracesInOrder) {
  v1::ReinforceStage spec;
  spec.set_clip_low(0.2);
  spec.set_clip_high(0.28);
  PolicyBatch policy;
  const RolloutGroup even = Group(0, 1, 1), learns = Group(1, 1, -1);
  EXPECT_EQ(policy.Add(even, spec).gradient_tokens, 0);
  policy.Add(learns, spec);
  ASSERT_EQ(policy.sampled_tokens(), 6);
  ASSERT_EQ(policy.batch().tokens.size(), 8u);
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(policy.OfSampledTokens(values), (std::vector<float>{1, 2, 3, 5, 6, 7}));
  const std::vector<float> logps(8, -1.0f);
  std::vector<float> gradient(8);
  const std::vector<uint8_t> selected = {0, 1, 0, 0, 0, 1};
  // The mean stays over all six tokens; the second trace's advantage is the negative of the
  // first's.
  EXPECT_NEAR(policy.Loss(logps, spec, 6, selected, gradient), 0.0, 1e-12);
  for (const int i : {0, 1, 3, 4, 5, 6}) EXPECT_EQ(gradient[i], 0.0f) << i;
  EXPECT_NEAR(gradient[2], -1.0 / 6, 1e-4);
  EXPECT_NEAR(gradient[7], 1.0 / 6, 1e-4);
}

}  // namespace
}  // namespace espalier::train
