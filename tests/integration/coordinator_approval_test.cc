// Goal: with policy.approval manual nothing is commanded that nobody approved, what waits outlives the coordinator, and each way that
// a waiting decision can end is told.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_pair.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::HasSubstr;

v1::RunSpec ManualSpec(uint32_t approval_steps = 0) {
  v1::RunSpec spec = PruningSpec();
  spec.mutable_policy()->set_approval(v1::APPROVAL_MANUAL);
  spec.mutable_policy()->set_approval_steps(approval_steps);
  return spec;
}

grpc::Status Approve(Harness& harness, const std::string& run, const std::string& decision,
                     v1::Decision* out = nullptr) {
  v1::ApplyPlanRequest request;
  request.set_run_id(run);
  request.set_decision_id(decision);
  v1::ApplyPlanResponse response;
  grpc::ClientContext context;
  const grpc::Status status = harness.plans().ApplyPlan(&context, request, &response);
  if (out != nullptr) *out = response.decision();
  return status;
}

grpc::Status Reject(Harness& harness, const std::string& run, const std::string& decision,
                    const std::string& reason, v1::Decision* out = nullptr) {
  v1::RejectDecisionRequest request;
  request.set_run_id(run);
  request.set_decision_id(decision);
  request.set_reason(reason);
  v1::RejectDecisionResponse response;
  grpc::ClientContext context;
  const grpc::Status status = harness.plans().RejectDecision(&context, request, &response);
  if (out != nullptr) *out = response.decision();
  return status;
}

// Steps until the prune waits; returns it.
v1::Decision WaitForPlan(Harness& harness, Pair& pair) {
  pair.StepAndApply(35);
  const auto decisions = harness.Decisions(pair.id);
  EXPECT_EQ(decisions.size(), 1u);
  if (decisions.empty()) return {};
  EXPECT_EQ(decisions[0].state(), v1::DECISION_STATE_WAITING);
  EXPECT_EQ(decisions[0].plan().experts_pruned(), 4u);
  EXPECT_TRUE(pair.run.applied.empty());
  return decisions[0];
}

TEST(CoordinatorApproval, NothingIsCommandedUntilSomebodyApproves) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec());
  const v1::Decision waiting = WaitForPlan(harness, pair);
  EXPECT_EQ(waiting.policy(), "built-in");
  EXPECT_TRUE(harness.HasEvent(pair.id, "decision_waiting"));
  pair.StepAndApply(10);
  EXPECT_TRUE(pair.run.applied.empty());
  EXPECT_EQ(harness.Decisions(pair.id).size(), 1u) << "one plan waits, not one a window";

  v1::Decision approved;
  ASSERT_TRUE(Approve(harness, pair.id, waiting.decision_id(), &approved).ok());
  EXPECT_EQ(approved.state(), v1::DECISION_STATE_COMMANDED);
  EXPECT_FALSE(approved.approved_by().empty());
  EXPECT_EQ(approved.plan().SerializeAsString(), waiting.plan().SerializeAsString());
  pair.StepAndApply(3);
  ASSERT_EQ(pair.run.applied.size(), 1u);
  EXPECT_EQ(pair.run.applied[0].set_layout().layers(0).experts_size(), 6);
  EXPECT_EQ(harness.Decisions(pair.id)[0].state(), v1::DECISION_STATE_APPLIED);

  v1::Decision again;
  ASSERT_TRUE(Approve(harness, pair.id, waiting.decision_id(), &again).ok()) << "idempotent";
  EXPECT_EQ(again.sequence(), harness.Decisions(pair.id)[0].sequence());
  EXPECT_EQ(pair.run.applied.size(), 1u);
  const grpc::Status late = Reject(harness, pair.id, waiting.decision_id(), "");
  EXPECT_EQ(late.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(late.error_message(), HasSubstr("roll it back"));
}

TEST(CoordinatorApproval, WhatWaitsOutlivesTheCoordinator) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec());
  const v1::Decision waiting = WaitForPlan(harness, pair);
  harness.Restart();
  pair.a.Attach(harness.address(), true);
  pair.b.Attach(harness.address(), true);
  ASSERT_TRUE(pair.a.WaitWelcome()->reattached());
  ASSERT_TRUE(pair.b.WaitWelcome()->reattached());
  pair.StepAndApply(5);
  ASSERT_EQ(harness.Decisions(pair.id).size(), 1u);
  EXPECT_EQ(harness.Decisions(pair.id)[0].SerializeAsString(), waiting.SerializeAsString());
  ASSERT_TRUE(Approve(harness, pair.id, waiting.decision_id()).ok());
  pair.StepAndApply(3);
  EXPECT_EQ(pair.run.applied.size(), 1u);
}

TEST(CoordinatorApproval, ARejectedPruneIsNotProposedAgain) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec());
  const v1::Decision waiting = WaitForPlan(harness, pair);
  v1::Decision rejected;
  ASSERT_TRUE(Reject(harness, pair.id, waiting.decision_id(), "not this week", &rejected).ok());
  EXPECT_EQ(rejected.state(), v1::DECISION_STATE_REJECTED);
  EXPECT_EQ(rejected.error(), "not this week");
  EXPECT_FALSE(rejected.rejected_by().empty());
  ASSERT_TRUE(Reject(harness, pair.id, waiting.decision_id(), "again").ok()) << "idempotent";
  pair.StepAndApply(60);
  EXPECT_TRUE(pair.run.applied.empty());
  for (const v1::Decision& decision : harness.Decisions(pair.id)) {
    if (decision.decision_id() == waiting.decision_id()) continue;
    EXPECT_EQ(decision.plan().experts_pruned(), 0u) << decision.ShortDebugString();
  }
  const grpc::Status late = Approve(harness, pair.id, waiting.decision_id());
  EXPECT_EQ(late.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(late.error_message(), HasSubstr("not this week"));
}

TEST(CoordinatorApproval, LapsesWhenNobodyApprovesInTime) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec(/*approval_steps=*/6));
  const v1::Decision waiting = WaitForPlan(harness, pair);
  ASSERT_TRUE(waiting.has_lapse_step());
  pair.StepAndApply(12);
  const auto decisions = harness.Decisions(pair.id);  // newest first
  ASSERT_EQ(decisions.size(), 2u) << "planned anew on newer loads";
  EXPECT_EQ(decisions[1].decision_id(), waiting.decision_id());
  EXPECT_EQ(decisions[1].state(), v1::DECISION_STATE_LAPSED);
  EXPECT_THAT(decisions[1].error(), HasSubstr("nobody approved it by step"));
  EXPECT_TRUE(pair.run.applied.empty());
  const grpc::Status late = Approve(harness, pair.id, waiting.decision_id());
  EXPECT_EQ(late.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(late.error_message(), HasSubstr("nobody approved"));
}

TEST(CoordinatorApproval, APlanByHandIsCommandedAndTakesThePlaceOfWhatWaits) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec());
  const v1::Decision waiting = WaitForPlan(harness, pair);
  v1::ApplyPlanRequest request;
  request.set_run_id(pair.id);
  request.mutable_options()->set_skip_prune(true);
  v1::ApplyPlanResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(harness.plans().ApplyPlan(&context, request, &response).ok());
  EXPECT_EQ(response.decision().state(), v1::DECISION_STATE_COMMANDED);
  EXPECT_FALSE(response.decision().asked_by().empty());
  pair.StepAndApply(2);
  EXPECT_EQ(pair.run.applied.size(), 1u);
  for (const v1::Decision& decision : harness.Decisions(pair.id)) {
    if (decision.decision_id() != waiting.decision_id()) continue;
    EXPECT_EQ(decision.state(), v1::DECISION_STATE_LAPSED);
    EXPECT_THAT(decision.error(), HasSubstr(response.decision().decision_id()));
  }
}

TEST(CoordinatorApproval, RefusesWhatMakesNoSense) {
  Harness harness(absl::Seconds(30));
  Pair pair(&harness, ManualSpec());
  const v1::Decision waiting = WaitForPlan(harness, pair);
  EXPECT_EQ(Approve(harness, pair.id, "d-999999").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Reject(harness, pair.id, "d-999999", "").error_code(), grpc::StatusCode::NOT_FOUND);
  v1::ApplyPlanRequest both;
  both.set_run_id(pair.id);
  both.set_decision_id(waiting.decision_id());
  both.mutable_options()->set_skip_prune(true);
  v1::ApplyPlanResponse response;
  grpc::ClientContext c1, c2;
  EXPECT_THAT(harness.plans().ApplyPlan(&c1, both, &response).error_message(),
              HasSubstr("options: given together with decision_id"));
  v1::RollbackDecisionRequest back;
  back.set_run_id(pair.id);
  back.set_decision_id(waiting.decision_id());
  v1::RollbackDecisionResponse rolled;
  EXPECT_THAT(harness.plans().RollbackDecision(&c2, back, &rolled).error_message(),
              HasSubstr("reject it instead"));
  pair.a.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  pair.b.End(v1::AssignmentEnd::OUTCOME_COMPLETED);
  ASSERT_TRUE(harness.WaitState(pair.id, v1::RUN_STATE_COMPLETED));
  EXPECT_EQ(harness.Decisions(pair.id)[0].state(), v1::DECISION_STATE_LAPSED);
}

}  // namespace
}  // namespace espalier::coordinator::testing
