// Goal: pinned checkpoints outlive the rotation and restarts, and a run that went back to one
// trains on as if what was revoked had never been. Method: whole runs in one process; folders,
// manifests and losses are compared.
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/integration/train_commands_fixture.h"

namespace espalier::train {
namespace {

namespace fs = std::filesystem;

class TrainCheckpoints : public TrainCommands {
 protected:
  TrainCheckpoints() {
    request_.spec.mutable_checkpoints()->set_every_steps(1);
    request_.spec.mutable_checkpoints()->set_keep(1);
  }

  std::string PathOf(uint64_t step, const std::string& run_id = "r1") const {
    return folder_.path() + "/runs/" + run_id + "/checkpoints/" + model::CheckpointName(step);
  }

  static size_t CheckpointsIn(const fs::path& checkpoints) {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(checkpoints)) {
      EXPECT_TRUE(model::ReadCheckpointState(entry.path().string()).ok()) << entry.path();
      ++count;
    }
    return count;
  }
};

TEST_F(TrainCheckpoints, APinnedOneStaysUntilItIsUnpinned) {
  request_.plan.commands = {Pin(1), Unpin(2, PathOf(3))};
  ArriveEverywhere(2, 1);
  const RunRecord kept = RunOnRanks(request_);
  ASSERT_TRUE(kept.Ok());
  EXPECT_EQ(kept.AckOf(0, 1).path(), PathOf(3));
  EXPECT_EQ(kept.AckOf(1, 1).path(), PathOf(3));
  EXPECT_TRUE(model::ReadCheckpointState(PathOf(3)).ok());
  EXPECT_EQ(CheckpointsIn(fs::path(PathOf(3)).parent_path()), 2u);  // and the newest

  request_.run_id = "freed";
  request_.plan.commands[1] = Unpin(2, PathOf(3, "freed"));
  ArriveEverywhere(6, 2);
  const RunRecord freed = RunOnRanks(request_);
  ASSERT_TRUE(freed.Ok());
  EXPECT_EQ(freed.AckOf(0, 2).error(), "");
  EXPECT_EQ(freed.AckOf(1, 2).path(), PathOf(3, "freed"));
  EXPECT_FALSE(fs::exists(PathOf(3, "freed")));
  EXPECT_EQ(CheckpointsIn(fs::path(PathOf(3, "freed")).parent_path()), 1u);
}

TEST_F(TrainCheckpoints, APinHoldsAfterARestartOnFewerRanks) {
  request_.plan.commands = {Pin(1), Stop(2)};
  ArriveEverywhere(2, 1);
  ArriveEverywhere(5, 2);
  const RunRecord stopped = RunOnRanks(request_);
  ASSERT_TRUE(stopped.Ok(TrainOutcome::kStopped));
  RunRequest rest = request_;
  rest.ranks = 1;
  rest.assigned = {AppliedAt(3, Pin(1)), AppliedAt(6, Stop(2))};
  rest.checkpoint = stopped.AckOf(0, 2).path();
  rest.plan = {};
  rest.spec.mutable_checkpoints()->set_keep(2);
  rest.spec.mutable_checkpoints()->set_every_steps(0);
  ASSERT_TRUE(RunOnRanks(rest).Ok());
  EXPECT_EQ(CheckpointsIn(fs::path(PathOf(3)).parent_path()), 3u);  // 3 is pinned; 6 and 10

  // And once more: the unpin comes in another process than the pin did.
  rest.assigned.push_back(Unpin(3, PathOf(3)));
  ASSERT_TRUE(RunOnRanks(rest).Ok());
  EXPECT_FALSE(fs::exists(PathOf(3)));
}

TEST_F(TrainCheckpoints, AFreedOneThatIsStillTheNewestStays) {
  request_.spec.mutable_checkpoints()->set_every_steps(0);
  request_.plan.commands = {Pin(1), Unpin(2, PathOf(3)), Unpin(3, PathOf(3)), Stop(4)};
  ArriveEverywhere(2, 1);
  ArriveEverywhere(5, 3);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(run.AckOf(0, 3).error(), "");  // twice is once
  // The end of the stage wrote the next one.
  EXPECT_FALSE(fs::exists(PathOf(3)));
  EXPECT_TRUE(fs::exists(PathOf(10)));
}

TEST_F(TrainCheckpoints, PathsThatAreNotTheRunsOwnAreRefused) {
  RunRequest other = request_;
  other.run_id = "other";
  other.plan.commands = {Pin(1)};
  other.plan.after_report[{0, 2}] = other.plan.after_report[{1, 2}] = 1;
  ASSERT_TRUE(RunOnRanks(other).Ok());
  const std::string own = fs::path(PathOf(3)).parent_path();
  const std::vector<std::string> strange = {PathOf(3, "other"),
                                            own,
                                            own + "/../../other/checkpoints/step-00000003",
                                            "/",
                                            "step-3",
                                            own + "/notes",
                                            own + "/step-00000003/x"};
  for (size_t i = 0; i < strange.size(); ++i) {
    request_.plan.commands.push_back(Unpin(i + 1, strange[i]));
  }
  v1::Command both = Unpin(strange.size() + 1, PathOf(3));
  both.mutable_checkpoint()->set_pin(true);
  request_.plan.commands.push_back(both);
  ArriveEverywhere(2, strange.size() + 1);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (size_t i = 0; i <= strange.size(); ++i) {
    EXPECT_NE(run.AckOf(0, i + 1).error(), "") << i;
    EXPECT_EQ(run.AckOf(0, i + 1).error(), run.AckOf(1, i + 1).error());
    EXPECT_EQ(run.AckOf(0, i + 1).path(), "");
  }
  EXPECT_TRUE(model::IsPinned(PathOf(3, "other")));
}

TEST_F(TrainCheckpoints, OneThatIsThereAlreadyIsPinnedNotRewritten) {
  request_.plan.commands = {Checkpoint(1), Pause(2), Resume(3), Pin(4)};
  ArriveEverywhere(2, 2);
  request_.plan.after_ack[2] = 4;
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(run.AckOf(0, 4).path(), PathOf(3));
  const auto state = model::ReadCheckpointState(PathOf(3));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->last_applied_sequence, 1u);
  EXPECT_TRUE(model::IsPinned(PathOf(3)));
}

TEST_F(TrainCheckpoints, AnotherOneOfTheSameStepLeavesThePinnedOneAsItWas) {
  request_.plan.commands = {Pin(1), SetLayout(2, Pruned(2)), Checkpoint(3)};
  ArriveEverywhere(9, 3);  // the last step: the next stage's start is written after it as well
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  ASSERT_EQ(AgreedStep(run, 3), 10u);
  EXPECT_EQ(run.AckOf(0, 1).path(), PathOf(10));
  EXPECT_NE(run.AckOf(0, 3).path(), PathOf(10));
  const auto pinned = model::ReadCheckpointState(PathOf(10));
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ(pinned->layout.layers[1].ids.size(), 6u);
  EXPECT_EQ(CheckpointsIn(fs::path(PathOf(10)).parent_path()), 2u);
}

TEST_F(TrainCheckpoints, ASecondOneOfOneStepTakesTheFirstOnesPlace) {
  request_.spec.mutable_checkpoints()->set_keep(10);
  request_.plan.commands = {Checkpoint(1), SetLayout(2, Pruned(2)), Checkpoint(3)};
  ArriveEverywhere(2, 3);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  // Under a name of its own: had the second not been finished, the first would still be there.
  EXPECT_EQ(run.AckOf(0, 3).path(), run.AckOf(0, 1).path() + ".2");
  EXPECT_FALSE(fs::exists(run.AckOf(0, 1).path()));
  const auto state = model::ReadCheckpointState(run.AckOf(0, 3).path());
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->last_applied_sequence, 3u);
  EXPECT_EQ(state->layout.layers[1].ids.size(), 4u);
}

// A prune after step 5, with a checkpoint pinned after step 4; judged and found bad after step 8.
class TakenBack : public TrainCheckpoints {
 protected:
  TakenBack() {
    whole_ = RunOnRanks(WithId("plain"));
    request_.plan.commands = {Pin(1), SetLayout(2, Pruned(2)), Evaluate(3)};
    ArriveEverywhere(3, 1);
    ArriveEverywhere(4, 2);
    ArriveEverywhere(7, 3);
    const RunRecord pruned = RunOnRanks(request_);
    EXPECT_TRUE(whole_.Ok() && pruned.Ok());
    EXPECT_EQ(pruned.AckOf(0, 1).path(), PathOf(4));
    EXPECT_NE(pruned.Losses().at(6), whole_.Losses().at(6));
    request_.plan = {};
    request_.assigned = {AppliedAt(4, Pin(1)), AppliedAt(5, Revoked(2)), AppliedAt(8, Revoked(3)),
                         Unpin(4, PathOf(4))};
  }

  RunRequest WithId(const std::string& id) const {
    RunRequest request = request_;
    request.run_id = id;
    return request;
  }

  RunRecord whole_;
};

TEST_F(TakenBack, TheRunTrainsOnWithTheOldLayout) {
  for (const int ranks : {2, 1}) {
    RunRequest request = WithId("back" + std::to_string(ranks));
    request.ranks = ranks;
    request.checkpoint = PathOf(4);
    request.assigned.back() = Checkpoint(4);
    const RunRecord back = RunOnRanks(request);
    ASSERT_TRUE(back.Ok());
    EXPECT_EQ(back.Losses().begin()->first, 5u);
    ExpectSameCurve(back.Losses(), whole_.Losses(), 6, ranks == 2 ? 0.0 : 1e-5);
    // Nothing waits for the steps at which the revoked commands once stood.
    for (uint64_t sequence = 2; sequence <= 3; ++sequence) {
      EXPECT_EQ(AgreedStep(back, sequence), 4u) << sequence;
      EXPECT_EQ(back.AckOf(0, sequence).error(), "");
    }
    EXPECT_EQ(AgreedStep(back, 4), 5u);
    EXPECT_TRUE(back.Events("layout_applied").empty());
  }
}

TEST_F(TakenBack, TheOrderHoldsFromACheckpointBeforeThePin) {
  // A run of the same course that wrote step 2, long before any command.
  RunRequest early = WithId("early");
  early.spec.mutable_checkpoints()->set_every_steps(2);
  early.spec.mutable_checkpoints()->set_keep(10);
  early.assigned.clear();
  ASSERT_TRUE(RunOnRanks(early).Ok());
  RunRequest request = WithId("replayed");
  request.checkpoint = PathOf(2, "early");
  request.assigned.back() = Checkpoint(4);
  const RunRecord back = RunOnRanks(request);
  ASSERT_TRUE(back.Ok());
  ExpectSameCurve(back.Losses(), whole_.Losses(), 8, 0.0);
  EXPECT_EQ(AgreedStep(back, 1), 4u);  // in its place
  EXPECT_EQ(AgreedStep(back, 2), 4u);  // behind it, not before
  EXPECT_TRUE(model::IsPinned(PathOf(4, "replayed")));
}

TEST_F(TakenBack, OneThatContainsTheRevokedCommandsRepeatsNothing) {
  RunRequest request = WithId("later");
  request.checkpoint = PathOf(10);  // of the pruned course, at its end: as a person may ask for it
  AddFinetune(&request.spec, 2);
  request.assigned.back() = Checkpoint(4);
  const RunRecord later = RunOnRanks(request);
  ASSERT_TRUE(later.Ok());
  EXPECT_EQ(later.Losses().begin()->first, 11u);
  EXPECT_EQ(later.ranks[0]->acks.size(), 1u);
  EXPECT_EQ(AgreedStep(later, 4), 11u);
}

TEST_F(TakenBack, CheckpointsOfTheCourseThatWasLeftDoNotPushOutTheOneToStandOn) {
  ASSERT_TRUE(fs::exists(PathOf(10)));
  request_.checkpoint = PathOf(4);
  request_.spec.mutable_checkpoints()->set_every_steps(3);
  request_.assigned.push_back(Stop(5));  // held from the start, so it comes with the first step
  const RunRecord back = RunOnRanks(request_);
  ASSERT_TRUE(back.Ok(TrainOutcome::kStopped));
  EXPECT_EQ(back.AckOf(0, 4).error(), "");
  EXPECT_EQ(back.AckOf(0, 5).path(), PathOf(5));
  EXPECT_TRUE(fs::exists(PathOf(5)));
  EXPECT_FALSE(fs::exists(PathOf(4)));   // unpinned, and older than the newest
  EXPECT_FALSE(fs::exists(PathOf(10)));  // of the course that was left
  EXPECT_EQ(model::NewestCheckpoint(fs::path(PathOf(5)).parent_path()), PathOf(5));
}

TEST_F(TakenBack, UnpinningWhatTheRunStandsOnKeepsItWhileNothingNewerIsWritten) {
  request_.checkpoint = PathOf(4);
  request_.spec.mutable_checkpoints()->set_every_steps(0);
  request_.plan.cancel_after_ack = 4;  // the worker dies right after the unpin
  const RunRecord back = RunOnRanks(request_);
  for (const auto& outcome : back.outcomes) EXPECT_FALSE(outcome.ok());
  EXPECT_TRUE(model::ReadCheckpointState(PathOf(4)).ok());
  EXPECT_FALSE(model::IsPinned(PathOf(4)));
}

}  // namespace
}  // namespace espalier::train
