// Goal: no fault of a worker, a stream or the coordinator loses what was acknowledged or lets an
// old epoch speak. Method: real streams that break, fall silent or leave; a coordinator destroyed
// and created again over its folder.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/coordinator_harness.h"

namespace espalier::coordinator::testing {
namespace {

using ::testing::HasSubstr;

struct TwoRanks {
  explicit TwoRanks(Harness* harness, v1::RunSpec spec = SmallSpec("pair"))
      : a("a"), b("b"), run({&a, &b}, SkewedShares()) {
    a.Attach(harness->address());
    b.Attach(harness->address());
    id = harness->MustSubmit(spec);
    EXPECT_TRUE(a.WaitAssignment().has_value());
    EXPECT_TRUE(b.WaitAssignment().has_value());
  }
  FakeWorker a, b;
  FakeRun run;
  std::string id;
};

TEST(CoordinatorRecovery, ALostWorkerSendsTheRunBackToItsNewestCheckpointWithAllCommands) {
  Harness harness(absl::Milliseconds(800));
  TwoRanks pair(&harness);
  pair.run.Steps(10);
  pair.a.Event("checkpoint_written", 10, {{"path", "/data/step-10"}});
  pair.run.Steps(5);
  v1::ApplyPlanRequest apply;
  apply.set_run_id(pair.id);
  apply.mutable_options()->mutable_placement()->set_window_steps(5);
  apply.set_request_id("move-1");
  grpc::ClientContext context;
  v1::ApplyPlanResponse applied;
  const grpc::Status status = harness.plans().ApplyPlan(&context, apply, &applied);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_TRUE(Eventually([&] {
    pair.run.ApplyCommands();
    return pair.run.applied.size() == 1;
  }));
  pair.run.Steps(3);
  ASSERT_TRUE(harness.HasEvent(pair.id, "decision_applied"));

  // The process of b dies: its stream breaks and nobody comes back within the lease.
  pair.b.Break();
  const auto release = pair.a.WaitRelease();
  ASSERT_TRUE(release.has_value());
  EXPECT_EQ(release->epoch(), 1u);
  EXPECT_THAT(release->reason(), HasSubstr("worker b"));
  EXPECT_EQ(harness.Get(pair.id).state(), v1::RUN_STATE_RECOVERING);
  FakeWorker c("c");
  c.Attach(harness.address());
  ASSERT_TRUE(pair.a.WaitAssignment().has_value());
  ASSERT_TRUE(c.WaitAssignment().has_value());
  for (const FakeWorker* worker : {&pair.a, &c}) {
    const v1::Assignment& assignment = worker->assignment();
    EXPECT_EQ(assignment.epoch(), 2u);
    EXPECT_EQ(assignment.checkpoint(), "/data/step-10");
    ASSERT_EQ(assignment.commands_size(), 1);
    EXPECT_EQ(assignment.commands(0).sequence(), 1u);
    EXPECT_EQ(assignment.commands(0).applied_step(), 15u);
    EXPECT_TRUE(assignment.commands(0).has_set_layout());
  }
  EXPECT_EQ(pair.a.assignment().rank(), 0u) << "a keeps its rank";
  EXPECT_EQ(c.assignment().rank(), 1u);
  EXPECT_NE(pair.a.assignment().link_key(), "");

  // Steps 11.. are taken again, and what was recorded of them is replaced, not doubled.
  EXPECT_EQ(harness.Get(pair.id).progress().step(), 10u);
  FakeRun again({&pair.a, &c}, SkewedShares());
  again.set_step(10);
  again.Steps(10);
  EXPECT_EQ(harness.Get(pair.id).progress().step(), 20u);
  v1::GetLoadsRequest request;
  request.set_run_id(pair.id);
  request.set_resolution(1);
  grpc::ClientContext loads_context;
  v1::GetLoadsResponse loads;
  ASSERT_TRUE(harness.history().GetLoads(&loads_context, request, &loads).ok());
  EXPECT_EQ(loads.layers(0).first_steps_size(), 20);
  uint64_t sum = 0;
  for (const uint64_t tokens : loads.layers(0).tokens()) sum += tokens;
  EXPECT_EQ(sum, 20u * 100000u);
  grpc::ClientContext series_context;
  v1::GetSeriesRequest series_request;
  series_request.set_run_id(pair.id);
  v1::GetSeriesResponse series;
  ASSERT_TRUE(harness.history().GetSeries(&series_context, series_request, &series).ok());
  EXPECT_EQ(series.points_size(), 20);
}

TEST(CoordinatorRecovery, AnOldEpochsWordsAreRefused) {
  Harness harness;
  TwoRanks pair(&harness);
  pair.run.Steps(3);
  const v1::Assignment old = pair.a.assignment();
  pair.b.End(v1::AssignmentEnd::OUTCOME_INTERRUPTED, "link to rank 0 was lost");
  ASSERT_TRUE(pair.a.WaitRelease().has_value());
  ASSERT_TRUE(pair.a.WaitAssignment().has_value());
  ASSERT_TRUE(pair.b.WaitAssignment().has_value());
  EXPECT_EQ(pair.a.assignment().epoch(), 2u);

  // A word of epoch 1 after epoch 2 has begun.
  v1::AttachRequest word;
  word.mutable_report()->set_run_id(old.run_id());
  word.mutable_report()->set_epoch(old.epoch());
  word.mutable_report()->set_rank(old.rank());
  word.mutable_report()->set_first_step(1);
  word.mutable_report()->set_last_step(1);
  pair.a.Write(word);
  word.mutable_event()->set_run_id(old.run_id());
  word.mutable_event()->set_epoch(old.epoch());
  word.mutable_event()->set_rank(old.rank());
  word.mutable_event()->set_name("ghost");
  pair.a.Write(word);
  // A stranger's word about this run gets a Release of its own.
  FakeWorker stranger("stranger");
  stranger.Attach(harness.address());
  stranger.Write(word);
  const auto release = stranger.WaitRelease();
  ASSERT_TRUE(release.has_value());
  EXPECT_EQ(release->run_id(), pair.id);
  EXPECT_EQ(release->epoch(), 1u);
  EXPECT_EQ(harness.Get(pair.id).progress().step(), 0u);
  EXPECT_FALSE(harness.HasEvent(pair.id, "ghost"));
  pair.run.set_step(0);
  pair.run.Steps(2);  // the new epoch goes on undisturbed
  EXPECT_EQ(harness.Get(pair.id).epoch(), 2u);
}

TEST(CoordinatorRecovery, AWorkerWhoseStreamBrokeGoesOnInItsEpochAndGetsTheCommandsItLacks) {
  Harness harness;
  TwoRanks pair(&harness);
  pair.run.Steps(4);
  pair.b.Break();
  v1::PauseRunRequest pause;
  pause.set_run_id(pair.id);
  v1::PauseRunResponse paused;
  grpc::ClientContext context;
  ASSERT_TRUE(harness.runs().PauseRun(&context, pause, &paused).ok());
  ASSERT_TRUE(pair.a.WaitCommand().has_value());
  pair.b.Attach(harness.address(), /*resume=*/true);
  const auto welcome = pair.b.WaitWelcome();
  ASSERT_TRUE(welcome.has_value());
  EXPECT_TRUE(welcome->reattached());
  const auto command = pair.b.WaitCommand();
  ASSERT_TRUE(command.has_value());
  EXPECT_TRUE(command->has_pause());
  EXPECT_EQ(command->sequence(), 1u);
  EXPECT_TRUE(pair.b.WaitDurable(4)) << "it learns how far its reports are durable";
  pair.run.Steps(1);
  pair.a.Ack(1, 5);
  pair.b.Ack(1, 5);
  EXPECT_TRUE(harness.WaitState(pair.id, v1::RUN_STATE_PAUSED));
  EXPECT_EQ(harness.Get(pair.id).epoch(), 1u);
  EXPECT_FALSE(harness.HasEvent(pair.id, "run_recovering"));
}

TEST(CoordinatorRecovery, ASilentWorkerLosesItsLease) {
  Harness harness(absl::Milliseconds(600));
  TwoRanks pair(&harness);
  pair.b.StopHeartbeats();
  EXPECT_TRUE(pair.b.WaitClosed(absl::Seconds(10)));
  EXPECT_TRUE(pair.a.WaitRelease().has_value());
  EXPECT_TRUE(harness.WaitState(pair.id, v1::RUN_STATE_RECOVERING));
  // It comes back too late: its epoch is over, and it is an idle worker like any other.
  pair.b.Attach(harness.address(), /*resume=*/true);
  const auto welcome = pair.b.WaitWelcome();
  ASSERT_TRUE(welcome.has_value());
  EXPECT_FALSE(welcome->reattached());
  ASSERT_TRUE(pair.b.WaitAssignment().has_value());
  EXPECT_EQ(pair.b.assignment().epoch(), 2u);
}

TEST(CoordinatorRecovery, AWorkerThatLeavesInGoodOrderIsReplacedAtOnce) {
  Harness harness(absl::Seconds(60));
  TwoRanks pair(&harness);
  FakeWorker c("c");
  c.Attach(harness.address());
  pair.b.Leave();
  ASSERT_TRUE(c.WaitAssignment().has_value());
  EXPECT_EQ(c.assignment().epoch(), 2u);
  EXPECT_EQ(c.assignment().rank(), 1u);
}

TEST(CoordinatorRecovery, ARestartedCoordinatorKeepsTheEpochOfWorkersThatAttachAgain) {
  Harness harness(absl::Seconds(5));
  TwoRanks pair(&harness);
  pair.run.Steps(6);
  pair.a.Event("checkpoint_written", 6, {{"path", "/data/step-6"}});
  ASSERT_TRUE(Eventually([&] { return harness.Get(pair.id).checkpoint() == "/data/step-6"; }));
  const uint64_t revision = harness.Get(pair.id).revision();
  harness.Restart();
  EXPECT_EQ(harness.Get(pair.id).state(), v1::RUN_STATE_RUNNING);
  EXPECT_GE(harness.Get(pair.id).revision(), revision) << "a watcher's cursor never goes back";
  EXPECT_EQ(harness.Get(pair.id).progress().step(), 6u) << "an acknowledged step survives";
  pair.a.Attach(harness.address(), /*resume=*/true);
  pair.b.Attach(harness.address(), /*resume=*/true);
  EXPECT_TRUE(pair.a.WaitWelcome()->reattached());
  EXPECT_TRUE(pair.b.WaitWelcome()->reattached());
  pair.run.Steps(4);
  const v1::Run run = harness.Get(pair.id);
  EXPECT_EQ(run.progress().step(), 10u);
  EXPECT_EQ(run.epoch(), 1u);
  EXPECT_EQ(run.checkpoint(), "/data/step-6");
  EXPECT_TRUE(harness.HasEvent(pair.id, "run_reattached"));
}

TEST(CoordinatorRecovery, ARestartedCoordinatorRecoversWhenAWorkerStaysAway) {
  Harness harness(absl::Milliseconds(700));
  TwoRanks pair(&harness);
  pair.run.Steps(6);
  harness.Restart();
  pair.a.Attach(harness.address(), /*resume=*/true);
  EXPECT_TRUE(pair.a.WaitWelcome()->reattached());
  FakeWorker c("c");
  c.Attach(harness.address());
  EXPECT_TRUE(pair.a.WaitRelease().has_value());
  ASSERT_TRUE(c.WaitAssignment().has_value());
  EXPECT_EQ(c.assignment().epoch(), 2u);
  EXPECT_EQ(c.assignment().checkpoint(), "");
}

TEST(CoordinatorRecovery, AWorkerThatForgotItsRunIsNotLeftHoldingARank) {
  Harness harness;
  TwoRanks pair(&harness);
  pair.b.Break();
  pair.b.Attach(harness.address(), /*resume=*/false);
  EXPECT_FALSE(pair.b.WaitWelcome()->reattached());
  ASSERT_TRUE(pair.a.WaitRelease().has_value());
  ASSERT_TRUE(pair.b.WaitAssignment().has_value());
  EXPECT_EQ(pair.b.assignment().epoch(), 2u);
}

TEST(CoordinatorRecovery, GivesUpAfterRecoveriesWithoutProgress) {
  Harness harness;
  FakeWorker a("a");
  a.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("hopeless", 1));
  uint64_t epochs = 0;
  while (a.WaitAssignment(absl::Seconds(3)).has_value()) {
    ++epochs;
    FakeRun run({&a}, SkewedShares());
    run.Steps(2);  // always as far, never farther
    a.End(v1::AssignmentEnd::OUTCOME_INTERRUPTED, "rank 0 ran out of luck");
    if (epochs > 20) break;
  }
  EXPECT_EQ(epochs, Coordinator::kFruitlessRecoveriesMax + 1);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_FAILED));
  EXPECT_THAT(harness.Get(id).detail(), HasSubstr("ran out of luck"));
  EXPECT_THAT(harness.Get(id).detail(), HasSubstr("step 2"));
}

TEST(CoordinatorRecovery, APausedRunIsPausedAgainAfterARecovery) {
  Harness harness;
  FakeWorker a("a");
  a.Attach(harness.address());
  const std::string id = harness.MustSubmit(SmallSpec("sleepy", 1));
  ASSERT_TRUE(a.WaitAssignment().has_value());
  grpc::ClientContext context;
  v1::PauseRunRequest pause;
  pause.set_run_id(id);
  v1::PauseRunResponse paused;
  ASSERT_TRUE(harness.runs().PauseRun(&context, pause, &paused).ok());
  ASSERT_TRUE(a.WaitCommand().has_value());
  a.Ack(1, 3);
  ASSERT_TRUE(harness.WaitState(id, v1::RUN_STATE_PAUSED));
  a.End(v1::AssignmentEnd::OUTCOME_INTERRUPTED, "link lost");
  ASSERT_TRUE(a.WaitAssignment().has_value());
  ASSERT_EQ(a.assignment().commands_size(), 2);
  EXPECT_TRUE(a.assignment().commands(1).has_pause());
  EXPECT_FALSE(a.assignment().commands(1).has_applied_step());
  EXPECT_FALSE(a.TakeCommand().has_value()) << "what came with the assignment is not sent twice";
  a.Ack(2, 0);
  EXPECT_TRUE(harness.WaitState(id, v1::RUN_STATE_PAUSED));
}

TEST(CoordinatorRecovery, AStreamWithoutHelloIsTurnedAway) {
  Harness harness;
  auto stub = v1::FleetService::NewStub(rpc::MakeChannel(harness.address()));
  grpc::ClientContext context;
  auto stream = stub->Attach(&context);
  v1::AttachRequest word;
  word.mutable_heartbeat();
  stream->Write(word);
  v1::AttachResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

}  // namespace
}  // namespace espalier::coordinator::testing
