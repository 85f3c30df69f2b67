// Goal: every option of the reinforce stage changes what is learned as it says, and the same on any
// number of ranks. Method: tiny runs with a reward of the text alone, ranks as threads, losses and
// gradients compared.
#include <string>

#include "gtest/gtest.h"
#include "tests/integration/train_harness.h"

namespace espalier::train {
namespace {

double RewardOfText(const v1::Trace& trace) { return static_cast<double>(trace.text().size()); }

class TrainReinforce : public ::testing::Test {
 protected:
  TrainReinforce() { WriteCorpus(folder_.path()); }

  // Two steps of two updates each.
  v1::RunSpec Spec() {
    v1::RunSpec spec = TinySpec();
    stage_ = AddReinforce(&spec, 2);
    stage_->set_minibatches(2);
    return spec;
  }

  RunRecord Run(const v1::RunSpec& spec, int ranks,
                std::function<double(const v1::Trace&)> reward = RewardOfText) {
    LocalScorer scorer(std::move(reward));
    RunRequest request;
    request.ranks = ranks;
    request.spec = spec;
    request.data_root = folder_.path();
    request.run_id = "r" + std::to_string(++runs_);
    request.scorer = &scorer;
    return RunOnRanks(request);
  }

  static const v1::StepMetrics& Metrics(const RunRecord& run, int step) {
    return run.ranks[0]->reports[step].metrics();
  }

  static void ExpectSame(const RunRecord& a, const RunRecord& b) {
    ASSERT_TRUE(a.Ok() && b.Ok());
    for (int step = 0; step < 2; ++step) {
      const auto &one = Metrics(a, step), &two = Metrics(b, step);
      EXPECT_GT(one.gradient_norm(), 0);
      EXPECT_NEAR(one.loss(), two.loss(), 1e-5);
      EXPECT_NEAR(one.gradient_norm(), two.gradient_norm(), 1e-3 * one.gradient_norm());
      EXPECT_DOUBLE_EQ(one.reinforce().mean_reward(), two.reinforce().mean_reward());
    }
  }

  static void ExpectOther(const RunRecord& a, const RunRecord& b) {
    ASSERT_TRUE(a.Ok() && b.Ok());
    // The same rollout, another update.
    EXPECT_EQ(Metrics(a, 0).reinforce().mean_reward(), Metrics(b, 0).reinforce().mean_reward());
    EXPECT_NE(Metrics(a, 0).gradient_norm(), Metrics(b, 0).gradient_norm());
  }

  TempFolder folder_;
  v1::ReinforceStage* stage_ = nullptr;
  int runs_ = 0;
};

// Every third problem's traces are all worth the same.
double RewardWithEqualGroups(const v1::Trace& trace) {
  const std::string id = trace.trace_id();  // step/problem/trace
  const size_t slash = id.find('/');
  const int problem = std::stoi(id.substr(slash + 1));
  return problem % 3 == 0 ? 1.0 : static_cast<double>(trace.text().size());
}

TEST_F(TrainReinforce, TokensOfHighestEntropyAreTheSameOnAnyNumberOfRanks) {
  v1::RunSpec spec = Spec();
  stage_->set_entropy_share(0.2);
  const RunRecord one = Run(spec, 1);
  ExpectSame(one, Run(spec, 2));
  ExpectSame(one, Run(spec, 3));
  stage_->set_entropy_share(1);
  ExpectOther(one, Run(spec, 1));
}

TEST_F(TrainReinforce, FewerTokensPullLess) {
  v1::RunSpec spec = Spec();
  stage_->set_minibatches(1);
  double last = 0;
  for (const double share : {0.05, 0.3, 1.0}) {
    stage_->set_entropy_share(share);
    const RunRecord run = Run(spec, 1);
    ASSERT_TRUE(run.Ok());
    EXPECT_GT(Metrics(run, 0).gradient_norm(), last) << share;
    last = Metrics(run, 0).gradient_norm();
  }
}

TEST_F(TrainReinforce, GroupsUsedAgainAreTheSameOnAnyNumberOfRanks) {
  v1::RunSpec spec = Spec();
  stage_->set_refill_groups(true);
  const RunRecord one = Run(spec, 1, RewardWithEqualGroups);
  ExpectSame(one, Run(spec, 2, RewardWithEqualGroups));
  ExpectSame(one, Run(spec, 4, RewardWithEqualGroups));
  stage_->set_refill_groups(false);
  ExpectOther(one, Run(spec, 1, RewardWithEqualGroups));
}

TEST_F(TrainReinforce, NothingIsRefilledWhereEveryGroupTeaches) {
  v1::RunSpec spec = Spec();
  const RunRecord plain = Run(spec, 2);
  stage_->set_refill_groups(true);
  const RunRecord refilled = Run(spec, 2);
  ASSERT_TRUE(plain.Ok() && refilled.Ok());
  EXPECT_EQ(plain.Losses(), refilled.Losses());
}

TEST_F(TrainReinforce, GroupsThatAreAllEqualTeachNothingRefilledOrNot) {
  v1::RunSpec spec = Spec();
  stage_->set_refill_groups(true);
  stage_->set_entropy_share(0.2);
  const RunRecord run = Run(spec, 2, [](const v1::Trace&) { return 0.1; });
  ASSERT_TRUE(run.Ok());
  for (int step = 0; step < 2; ++step) EXPECT_EQ(Metrics(run, step).gradient_norm(), 0.0);
}

TEST_F(TrainReinforce, EveryOptionTogetherIsTheSameOnAnyNumberOfRanks) {
  v1::RunSpec spec = Spec();
  stage_->set_entropy_share(0.5);
  stage_->set_refill_groups(true);
  stage_->set_clip_both_sides(true);
  stage_->set_overlong_filter(false);
  stage_->mutable_reward()->set_length_shaping(v1::LENGTH_SHAPING_NONE);
  const RunRecord one = Run(spec, 1, RewardWithEqualGroups);
  ExpectSame(one, Run(spec, 2, RewardWithEqualGroups));
  // And again, bit for bit.
  EXPECT_EQ(one.Losses(), Run(spec, 1, RewardWithEqualGroups).Losses());
}

TEST_F(TrainReinforce, TracesCutOffTeachOnlyWithoutTheFilter) {
  v1::RunSpec spec = Spec();
  stage_->mutable_reward()->set_length_shaping(v1::LENGTH_SHAPING_NONE);
  stage_->set_max_new_tokens(1);  // an untrained model seldom ends at once
  const RunRecord filtered = Run(spec, 1);
  ASSERT_TRUE(filtered.Ok());
  ASSERT_EQ(Metrics(filtered, 0).reinforce().truncated_share(), 1.0);
  EXPECT_EQ(Metrics(filtered, 0).gradient_norm(), 0.0);
  stage_->set_overlong_filter(false);
  const RunRecord whole = Run(spec, 1);
  ASSERT_TRUE(whole.Ok());
  EXPECT_GT(Metrics(whole, 0).gradient_norm(), 0.0);
}

TEST_F(TrainReinforce, ReplayedRoutingIsTheSameOnAnyNumberOfRanks) {
  v1::RunSpec spec = Spec();
  stage_->mutable_optimizer()->set_learning_rate(0.1);
  stage_->mutable_optimizer()->set_warmup_steps(0);
  const RunRecord chosen = Run(spec, 1);
  stage_->set_replay_routing(true);
  stage_->set_entropy_share(0.5);
  const RunRecord one = Run(spec, 1);
  ExpectSame(one, Run(spec, 2));
  stage_->set_entropy_share(1);
  // The first update moves the routers; the second one's tokens go where they went before.
  const RunRecord replayed = Run(spec, 1);
  ASSERT_TRUE(chosen.Ok() && replayed.Ok());
  EXPECT_NE(Metrics(chosen, 0).loss(), Metrics(replayed, 0).loss());
}

TEST_F(TrainReinforce, ClippingBothSidesMattersOnceThePolicyMoved) {
  v1::RunSpec spec = Spec();
  // The first update is at a ratio of 1 and the same either way; it moves the policy so far that in
  // the second one many ratios are beyond the clip.
  stage_->mutable_optimizer()->set_learning_rate(0.1);
  stage_->mutable_optimizer()->set_warmup_steps(0);
  const RunRecord one_side = Run(spec, 1);
  stage_->set_clip_both_sides(true);
  const RunRecord both = Run(spec, 1);
  ASSERT_TRUE(one_side.Ok() && both.Ok());
  EXPECT_LT(Metrics(both, 0).loss(), Metrics(one_side, 0).loss() - 1e-3);
}

}  // namespace
}  // namespace espalier::train
