// Goal: a watched prune ends as the quality guard says, nothing is dropped that did not hold, and a
// decision can be taken back. Method: scripted ranks that measure whatever loss the test wants.
#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::RunSpec GuardedSpec(double tolerance, uint32_t soft_steps) {
  v1::RunSpec spec = SmallSpec("guarded", 2, 400);
  v1::PrunePolicy* prune = spec.mutable_prune();
  prune->set_enabled(true);
  prune->set_beta(0.05);
  prune->set_window_steps(10);
  prune->set_fixed_step(20);
  prune->set_guard_tolerance(tolerance);
  prune->set_guard_recovery_steps(15);
  prune->set_soft_steps(soft_steps);
  v1::PlacementPolicy* placement = spec.mutable_placement();
  placement->set_enabled(true);
  placement->set_window_steps(10);
  placement->set_interval_steps(300);
  return spec;
}

class GuardTest : public ::testing::Test {
 protected:
  void Start(const v1::RunSpec& spec) {
    a_.Attach(harness_.address());
    b_.Attach(harness_.address());
    id_ = harness_.MustSubmit(spec);
    ASSERT_TRUE(a_.WaitAssignment().has_value());
    ASSERT_TRUE(b_.WaitAssignment().has_value());
  }
  void Step(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      run_.Steps(1);
      run_.ApplyCommands();
    }
  }
  v1::Decision Only() {
    const auto decisions = harness_.Decisions(id_);
    EXPECT_EQ(decisions.size(), 1u);
    return decisions.empty() ? v1::Decision() : decisions.back();
  }
  std::vector<v1::Command::ActionCase> Actions() const {
    std::vector<v1::Command::ActionCase> actions;
    for (const v1::Command& command : run_.applied) actions.push_back(command.action_case());
    return actions;
  }
  grpc::Status RollBack(const std::string& decision_id, v1::RollbackDecisionResponse* response) {
    v1::RollbackDecisionRequest request;
    request.set_run_id(id_);
    request.set_decision_id(decision_id);
    request.set_reason("the operator changed their mind");
    grpc::ClientContext context;
    return harness_.plans().RollbackDecision(&context, request, response);
  }
  v1::ExpertLayout Layout() {
    grpc::ClientContext context;
    v1::GetLayoutRequest request;
    request.set_run_id(id_);
    v1::GetLayoutResponse response;
    EXPECT_TRUE(harness_.history().GetLayout(&context, request, &response).ok());
    return response.layout();
  }

  Harness harness_{absl::Seconds(30)};
  FakeWorker a_{"a"}, b_{"b"};
  FakeRun run_{{&a_, &b_}, SkewedShares()};
  std::string id_;
};

TEST_F(GuardTest, ASoftPruneMasksThenDropsAndMovesInOneCommandWhenTheGuardHolds) {
  Start(GuardedSpec(0.05, 12));
  run_.heldout = 2.6;
  Step(21);
  ASSERT_THAT(Actions(), ElementsAre(v1::Command::kSetLayout));
  const v1::ExpertLayout& mask = run_.applied[0].set_layout();
  EXPECT_EQ(mask.layers(0).experts_size(), 8) << "the weights stay";
  EXPECT_THAT(mask.layers(0).masked(), ElementsAre(6, 7));
  EXPECT_THAT(mask.layers(1).masked(), ElementsAre(0, 1));
  v1::Decision decision = Only();
  EXPECT_EQ(decision.state(), v1::DECISION_STATE_OBSERVED);
  EXPECT_TRUE(decision.plan().soft());
  const uint64_t masked_at = decision.applied_step();
  EXPECT_EQ(decision.guard().judge_step(), masked_at + 12);
  EXPECT_FALSE(harness_.Get(id_).summary().has_prune_step()) << "nothing is gone yet";

  run_.evaluated = 2.52;
  Step(20);
  ASSERT_THAT(Actions(), ElementsAre(v1::Command::kSetLayout, v1::Command::kEvaluate,
                                     v1::Command::kSetLayout));
  const v1::ExpertLayout& drop = run_.applied[2].set_layout();
  EXPECT_THAT(drop.layers(0).experts(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(drop.layers(0).masked(), IsEmpty());
  Step(15);
  decision = Only();
  EXPECT_EQ(decision.state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_TRUE(decision.guard().held());
  EXPECT_DOUBLE_EQ(decision.guard().heldout_loss_measured(), 2.52);
  EXPECT_GT(decision.guard().points(), 0u);
  EXPECT_GT(decision.plan().experts_moved(), 0u) << "dropped and moved in one reshuffle";
  EXPECT_GE(decision.applied_step(), masked_at + 12);
  EXPECT_EQ(harness_.Get(id_).summary().prune_step(), decision.applied_step());
  EXPECT_EQ(harness_.Get(id_).summary().heldout_loss_before_prune(), 2.5);
}

TEST_F(GuardTest, ASoftPruneThatHurtsIsUnmaskedAndNotTriedAgain) {
  Start(GuardedSpec(0.05, 12));
  Step(21);
  run_.evaluated = 2.7;
  Step(60);
  ASSERT_GE(run_.applied.size(), 3u);
  const v1::ExpertLayout& back = run_.applied[2].set_layout();
  EXPECT_EQ(back.layers(0).experts_size(), 8);
  EXPECT_THAT(back.layers(0).masked(), IsEmpty());
  const auto decisions = harness_.Decisions(id_);
  const v1::Decision& decision = decisions.back();
  EXPECT_EQ(decision.state(), v1::DECISION_STATE_ROLLED_BACK);
  EXPECT_FALSE(decision.guard().held());
  EXPECT_THAT(decision.rollback_reason(), HasSubstr("2.7"));
  EXPECT_TRUE(harness_.HasEvent(id_, "guard_failed"));
  EXPECT_TRUE(harness_.HasEvent(id_, "decision_rolled_back"));
  for (const v1::Command& command : run_.applied) {
    if (!command.has_set_layout()) continue;
    EXPECT_EQ(command.set_layout().layers(0).experts_size(), 8);
  }
  EXPECT_FALSE(harness_.Get(id_).summary().has_prune_step());
}

TEST_F(GuardTest, ADropThatHurtsGoesBackToTheCheckpointTakenBefore) {
  Start(GuardedSpec(0.05, 0));
  Step(22);
  ASSERT_THAT(Actions(), ElementsAre(v1::Command::kCheckpoint, v1::Command::kSetLayout));
  EXPECT_TRUE(run_.applied[0].checkpoint().pin());
  const v1::Decision watched = Only();
  EXPECT_EQ(watched.state(), v1::DECISION_STATE_OBSERVED);
  const uint64_t kept = watched.guard().checkpoint_step();
  EXPECT_EQ(watched.guard().checkpoint(), "/checkpoints/step-" + std::to_string(kept));
  EXPECT_EQ(Layout().layers(0).experts_size(), 6);

  run_.evaluated = 3.0;
  for (int i = 0; i < 40 && Only().state() == v1::DECISION_STATE_OBSERVED; ++i) {
    run_.Steps(1);
    run_.ApplyCommands();
    if (harness_.Get(id_).epoch() > 1) break;
  }
  ASSERT_TRUE(a_.WaitRelease().has_value());
  ASSERT_TRUE(b_.WaitRelease().has_value());
  for (FakeWorker* worker : {&a_, &b_}) {
    const auto again = worker->WaitAssignment();
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->epoch(), 2u);
    EXPECT_EQ(again->checkpoint(), watched.guard().checkpoint());
    // The prune has lost its effect but not its place.
    for (const v1::Command& command : again->commands()) {
      EXPECT_FALSE(command.has_set_layout());
      if (command.sequence() == watched.sequence()) {
        EXPECT_TRUE(command.has_revoked());
        EXPECT_TRUE(command.has_applied_step());
      }
    }
  }
  const v1::Decision decision = Only();
  EXPECT_EQ(decision.state(), v1::DECISION_STATE_ROLLED_BACK);
  EXPECT_THAT(decision.rollback_reason(), HasSubstr("forecast"));
  const v1::Run run = harness_.Get(id_);
  EXPECT_EQ(run.progress().step(), kept);
  EXPECT_FALSE(run.summary().has_prune_step());
  EXPECT_THAT(run.summary().experts_after(), ElementsAre(8, 8));
  EXPECT_EQ(Layout().layers(0).experts_size(), 8);

  run_.ResetLayout();
  run_.set_step(kept);
  Step(30);
  EXPECT_EQ(harness_.Get(id_).progress().step(), kept + 30);
  for (const v1::Decision& later : harness_.Decisions(id_))
    EXPECT_TRUE(later.decision_id() == decision.decision_id() || later.plan().experts_pruned() == 0)
        << "the policy does not try the prune again";
}

TEST_F(GuardTest, AGuardedDropThatHoldsLetsItsCheckpointGo) {
  Start(GuardedSpec(0.5, 0));
  Step(22);
  const std::string checkpoint = Only().guard().checkpoint();
  ASSERT_FALSE(checkpoint.empty());
  run_.evaluated = 2.4;
  Step(40);
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_TRUE(Only().guard().held());
  ASSERT_THAT(Actions(), ElementsAre(v1::Command::kCheckpoint, v1::Command::kSetLayout,
                                     v1::Command::kEvaluate, v1::Command::kCheckpoint));
  EXPECT_EQ(run_.applied.back().checkpoint().unpin(), checkpoint);
  v1::RollbackDecisionResponse response;
  const grpc::Status status = RollBack(Only().decision_id(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("no checkpoint"));
}

TEST_F(GuardTest, ARestartOfTheCoordinatorForgetsNoWatch) {
  Start(GuardedSpec(0.05, 12));
  Step(21);
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_OBSERVED);
  harness_.Restart();
  a_.Attach(harness_.address(), true);
  b_.Attach(harness_.address(), true);
  ASSERT_TRUE(a_.WaitWelcome()->reattached());
  ASSERT_TRUE(b_.WaitWelcome()->reattached());
  run_.evaluated = 2.5;
  Step(40);
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_TRUE(Only().guard().held());
}

TEST_F(GuardTest, AMoveIsTakenBackByRequestOnce) {
  v1::RunSpec spec = GuardedSpec(0, 0);
  spec.mutable_prune()->set_enabled(false);
  Start(spec);
  Step(25);
  const v1::Decision moved = Only();
  ASSERT_EQ(moved.state(), v1::DECISION_STATE_VERIFIED) << moved.DebugString();
  v1::RollbackDecisionResponse first, second;
  ASSERT_TRUE(RollBack(moved.decision_id(), &first).ok());
  EXPECT_EQ(first.decision().state(), v1::DECISION_STATE_ROLLING_BACK);
  Step(3);
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_ROLLED_BACK);
  ASSERT_TRUE(RollBack(moved.decision_id(), &second).ok());
  EXPECT_EQ(second.decision().state(), v1::DECISION_STATE_ROLLED_BACK);
  const v1::ExpertLayout layout = Layout();
  EXPECT_THAT(layout.layers(0).ranks(), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_EQ(Only().rollback_reason(), "the operator changed their mind");
}

TEST_F(GuardTest, SoftWithoutAGuardDropsAfterItsSteps) {
  Start(GuardedSpec(0, 8));
  Step(50);
  EXPECT_THAT(Actions(), ElementsAre(v1::Command::kSetLayout, v1::Command::kSetLayout))
      << "nothing is measured that nobody judges";
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_VERIFIED);
  EXPECT_FALSE(Only().guard().has_held());
}

TEST_F(GuardTest, NothingElseIsDecidedWhileAPruneIsWatched) {
  Start(GuardedSpec(0.05, 100));
  Step(22);
  ASSERT_EQ(Only().state(), v1::DECISION_STATE_OBSERVED);
  v1::ApplyPlanRequest apply;
  apply.set_run_id(id_);
  apply.mutable_options()->mutable_placement()->set_window_steps(5);
  v1::ApplyPlanResponse response;
  grpc::ClientContext context;
  const grpc::Status status = harness_.plans().ApplyPlan(&context, apply, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("watched until step"));
  v1::RollbackDecisionResponse rolled;
  ASSERT_TRUE(RollBack(Only().decision_id(), &rolled).ok());
  Step(3);
  EXPECT_EQ(Only().state(), v1::DECISION_STATE_ROLLED_BACK);
}

}  // namespace
}  // namespace espalier::coordinator::testing
