// Goal: the policy makes exactly the decisions it should, and each goes from commanded to verified
// or failed. Method: synthetic loads with a known skew; ranks that apply commands after the same
// step.
#include <cmath>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"
#include "tests/integration/coordinator_pair.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CoordinatorPolicy, PrunesStableLayersOnceAndPlacesTheRestInTheSameCommand) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, PruningSpec());
  pair.StepAndApply(25);
  EXPECT_TRUE(harness.Decisions(pair.id).empty())
      << "two windows are one comparison: not stable yet";
  pair.StepAndApply(10);
  ASSERT_EQ(pair.run.applied.size(), 1u);
  const v1::Command command = pair.run.applied[0];
  EXPECT_EQ(command.sequence(), 1u);
  ASSERT_TRUE(command.has_set_layout());
  // beta 0.05: experts 6 and 7 of layer 0 carry 0.01; with expert 5 it would be 0.05, which is not
  // below beta.
  ASSERT_EQ(command.set_layout().layers_size(), 2);
  EXPECT_THAT(command.set_layout().layers(0).experts(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(command.set_layout().layers(1).experts(), ElementsAre(2, 3, 4, 5, 6, 7));

  auto decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].origin(), "policy");
  EXPECT_EQ(decisions[0].plan().experts_pruned(), 4u);
  EXPECT_GT(decisions[0].plan().experts_moved(), 0u);
  EXPECT_NEAR(decisions[0].plan().imbalance_before(), 1.74, 0.01);
  EXPECT_LT(decisions[0].plan().imbalance_after(), 1.1);
  EXPECT_LT(decisions[0].plan().step_seconds_predicted(),
            decisions[0].plan().step_seconds_before());
  EXPECT_TRUE(decisions[0].plan().layers(0).stable());
  EXPECT_EQ(decisions[0].state(), v1::DECISION_STATE_APPLIED)
      << "its window of 10 steps is not over";
  const uint64_t applied = decisions[0].applied_step();
  EXPECT_EQ(decisions[0].heldout_loss_before(), 2.5);
  EXPECT_EQ(decisions[0].heldout_loss_after(), 2.6);

  pair.run.step_seconds = 0.05;
  pair.StepAndApply(60);
  decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u) << "no second prune, and nothing left to balance";
  EXPECT_EQ(decisions[0].state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_NEAR(decisions[0].imbalance_realised(), decisions[0].plan().imbalance_after(), 0.02);
  EXPECT_GT(decisions[0].step_seconds_realised(), 0);

  v1::ExplainDecisionRequest explain;
  explain.set_run_id(pair.id);
  explain.set_decision_id(decisions[0].decision_id());
  grpc::ClientContext context;
  v1::ExplainDecisionResponse explained;
  ASSERT_TRUE(harness.plans().ExplainDecision(&context, explain, &explained).ok());
  EXPECT_EQ(explained.decision().SerializeAsString(), decisions[0].SerializeAsString());

  const v1::RunSummary summary = harness.Get(pair.id).summary();
  EXPECT_EQ(summary.prune_step(), applied);
  EXPECT_THAT(summary.experts_before(), ElementsAre(8, 8));
  EXPECT_THAT(summary.experts_after(), ElementsAre(6, 6));
  EXPECT_NEAR(summary.tokens_per_second_before_prune(), 1280, 1e-6);
  EXPECT_NEAR(summary.tokens_per_second_after(), 2560, 1e-6);
  EXPECT_NEAR(summary.imbalance_before(), 1.74, 0.01);
  EXPECT_LT(summary.imbalance_after(), 1.1);
  EXPECT_EQ(summary.heldout_loss_before_prune(), 2.5);
  EXPECT_EQ(summary.experts_moved(), decisions[0].plan().experts_moved());

  grpc::ClientContext c1, c2;
  v1::GetLayoutRequest layout_request;
  layout_request.set_run_id(pair.id);
  layout_request.set_step(applied - 1);
  v1::GetLayoutResponse before, after;
  ASSERT_TRUE(harness.history().GetLayout(&c1, layout_request, &before).ok());
  layout_request.set_step(0);
  ASSERT_TRUE(harness.history().GetLayout(&c2, layout_request, &after).ok());
  EXPECT_EQ(before.layout().layers(0).experts_size(), 8);
  EXPECT_EQ(after.layout().layers(0).experts_size(), 6);
}

TEST(CoordinatorPolicy, ARestartInTheMiddleOfAWindowStillMakesOneDecision) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, PruningSpec());
  pair.StepAndApply(25);
  harness.Restart();
  pair.a.Attach(harness.address(), true);
  pair.b.Attach(harness.address(), true);
  ASSERT_TRUE(pair.a.WaitWelcome()->reattached());
  ASSERT_TRUE(pair.b.WaitWelcome()->reattached());
  pair.StepAndApply(30);
  EXPECT_EQ(pair.run.applied.size(), 1u);
  const auto decisions = harness.Decisions(pair.id);
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].plan().experts_pruned(), 4u);
}

TEST(CoordinatorPolicy, NeverPrunesOutsidePretraining) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = PruningSpec(20);
  auto* finetune = spec.add_stages()->mutable_finetune();
  finetune->set_steps(60);
  finetune->set_batch_traces(4);
  finetune->mutable_optimizer()->set_learning_rate(1e-4);
  Pair pair(&harness, spec);
  pair.StepAndApply(20);
  pair.run.stage = v1::STAGE_KIND_FINETUNE;
  pair.StepAndApply(40);
  EXPECT_TRUE(pair.run.applied.empty());
  EXPECT_TRUE(harness.Decisions(pair.id).empty());
}

TEST(CoordinatorPolicy, AFixedStepNeedsNoStability) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = PruningSpec();
  spec.mutable_prune()->set_fixed_step(7);
  Pair pair(&harness, spec);
  pair.StepAndApply(6);
  EXPECT_TRUE(pair.run.applied.empty());
  pair.StepAndApply(4);
  ASSERT_EQ(pair.run.applied.size(), 1u);
  EXPECT_EQ(pair.run.applied[0].set_layout().layers(0).experts_size(), 6);
}

TEST(CoordinatorPolicy, NeverKeepsFewerThanTopK) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = PruningSpec();
  spec.mutable_prune()->set_beta(0.9);
  spec.mutable_prune()->set_fixed_step(5);
  spec.mutable_model()->set_top_k(4);
  Pair pair(&harness, spec);
  pair.StepAndApply(10);
  ASSERT_GE(pair.run.applied.size(), 1u);
  for (const auto& layer : pair.run.applied[0].set_layout().layers())
    EXPECT_GE(layer.experts_size(), 4);
}

TEST(CoordinatorPolicy, MovesExpertsWithoutPruningWhenOnlyPlacementIsOn) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = PruningSpec();
  spec.mutable_prune()->set_enabled(false);
  Pair pair(&harness, spec);
  pair.StepAndApply(30);
  ASSERT_EQ(pair.run.applied.size(), 1u) << "balanced after one decision";
  const v1::ExpertLayout& layout = pair.run.applied[0].set_layout();
  EXPECT_EQ(layout.layers(0).experts_size(), 8);
  std::set<uint32_t> ranks(layout.layers(0).ranks().begin(), layout.layers(0).ranks().end());
  EXPECT_EQ(ranks.size(), 2u);
}

TEST(CoordinatorPolicy, ARefusedCommandFailsItsDecisionAndIsNotRepeated) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, PruningSpec());
  pair.StepAndApply(45, "not enough memory on rank 1");
  const auto decisions = harness.Decisions(pair.id);
  ASSERT_FALSE(decisions.empty());
  EXPECT_EQ(decisions.back().state(), v1::DECISION_STATE_FAILED);
  EXPECT_THAT(decisions.back().error(), HasSubstr("not enough memory"));
  EXPECT_TRUE(harness.HasEvent(pair.id, "command_failed"));
  int prunes = 0;
  for (const v1::Decision& decision : decisions)
    prunes += decision.plan().experts_pruned() > 0 ? 1 : 0;
  EXPECT_EQ(prunes, 1);
  grpc::ClientContext context;
  v1::GetLayoutRequest request;
  request.set_run_id(pair.id);
  v1::GetLayoutResponse layout;
  ASSERT_TRUE(harness.history().GetLayout(&context, request, &layout).ok());
  EXPECT_EQ(layout.layout().layers(0).experts_size(), 8) << "nothing changed";
}

TEST(CoordinatorPolicy, ProposesOnTheRecordsOfAnEndedRunAfterARestart) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, SmallSpec("over"));
  pair.run.Steps(20);
  pair.a.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  pair.b.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  ASSERT_TRUE(harness.WaitState(pair.id, v1::RUN_STATE_COMPLETED));
  harness.Restart();
  v1::ProposePlanRequest propose;
  propose.set_run_id(pair.id);
  propose.mutable_options()->mutable_prune()->set_beta(0.05);
  propose.mutable_options()->mutable_prune()->set_window_steps(10);
  v1::ProposePlanResponse proposed;
  grpc::ClientContext context;
  ASSERT_TRUE(harness.plans().ProposePlan(&context, propose, &proposed).ok());
  EXPECT_EQ(proposed.plan().experts_pruned(), 4u);
  EXPECT_EQ(proposed.plan().last_step(), 20u);
  EXPECT_TRUE(proposed.plan().layers(0).stable());
  v1::ApplyPlanRequest apply;
  apply.set_run_id(pair.id);
  *apply.mutable_options() = propose.options();
  v1::ApplyPlanResponse applied;
  grpc::ClientContext other;
  EXPECT_EQ(harness.plans().ApplyPlan(&other, apply, &applied).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST(CoordinatorPolicy, ProposesWithoutChangingAndAppliesOnce) {
  Harness harness(absl::Seconds(30));
  v1::RunSpec spec = SmallSpec("by-hand");
  Pair pair(&harness, spec);
  v1::ProposePlanRequest propose;
  propose.set_run_id(pair.id);
  propose.mutable_options()->mutable_prune()->set_beta(0.05);
  propose.mutable_options()->mutable_placement()->set_window_steps(10);
  v1::ProposePlanResponse proposed;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(harness.plans().ProposePlan(&context, propose, &proposed).ok());
    EXPECT_TRUE(proposed.plan().empty());
    EXPECT_THAT(proposed.plan().reason(), HasSubstr("no loads"));
  }
  pair.run.Steps(20);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(harness.plans().ProposePlan(&context, propose, &proposed).ok());
    EXPECT_EQ(proposed.plan().experts_pruned(), 4u);
    EXPECT_TRUE(harness.Decisions(pair.id).empty());
  }
  {
    grpc::ClientContext context;
    v1::ProposePlanRequest wrong = propose;
    wrong.mutable_options()->mutable_prune()->set_beta(2);
    const grpc::Status status = harness.plans().ProposePlan(&context, wrong, &proposed);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("prune.beta"));
  }
  v1::ApplyPlanRequest apply;
  apply.set_run_id(pair.id);
  *apply.mutable_options() = propose.options();
  apply.set_request_id("by-hand-1");
  v1::ApplyPlanResponse first, second;
  grpc::ClientContext c1, c2, c3;
  ASSERT_TRUE(harness.plans().ApplyPlan(&c1, apply, &first).ok());
  EXPECT_EQ(first.decision().origin(), "request");
  EXPECT_EQ(first.decision().state(), v1::DECISION_STATE_COMMANDED);
  ASSERT_TRUE(harness.plans().ApplyPlan(&c2, apply, &second).ok());
  EXPECT_EQ(first.decision().decision_id(), second.decision().decision_id());
  apply.set_request_id("by-hand-2");
  EXPECT_EQ(harness.plans().ApplyPlan(&c3, apply, &second).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION)
      << "one decision at a time";
  ASSERT_TRUE(Eventually([&] {
    pair.run.ApplyCommands();
    return pair.run.applied.size() == 1;
  }));
  EXPECT_TRUE(Eventually(
      [&] { return harness.Decisions(pair.id)[0].state() == v1::DECISION_STATE_APPLIED; }));
}

}  // namespace
}  // namespace espalier::coordinator::testing
