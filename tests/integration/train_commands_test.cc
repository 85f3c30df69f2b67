// Goal: every rank applies a command after the same step or none does, and a restart repeats what
// was applied. Method: commands reach the ranks at different times; what each rank acked, and the
// losses, are compared.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/integration/train_commands_fixture.h"

namespace espalier::train {
namespace {

TEST_F(TrainCommands, InvalidLayoutsAreRefusedAndChangeNothing) {
  const RunRecord plain = RunOnRanks(request_);
  request_.run_id = "r2";
  request_.plan.commands = {
      SetLayout(1, MakeLayout({{{0}, {0}}, {{0, 1}, {0, 0}}})),  // fewer than top_k
      SetLayout(2, MakeLayout({{{0, 1, 9}, {0, 0, 0}}})),        // no such expert
      SetLayout(3, MakeLayout({{{0, 1}, {0, 2}}})),              // no such rank
      SetLayout(4, MakeLayout({{{0, 1, 2}, {0, 1}}})),           // a rank is missing
      NewCommand(5)};                                            // no action at all
  ArriveEverywhere(2, 5);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(plain.Ok() && run.Ok());
  for (uint64_t sequence = 1; sequence <= 5; ++sequence) {
    EXPECT_NE(run.AckOf(0, sequence).error(), "") << sequence;
    EXPECT_EQ(run.AckOf(0, sequence).error(), run.AckOf(1, sequence).error());
    AgreedStep(run, sequence);
  }
  EXPECT_EQ(run.Losses(), plain.Losses());
  EXPECT_TRUE(run.Events("layout_applied").empty());
}

TEST_F(TrainCommands, ACommandWaitsForTheSlowestRank) {
  request_.ranks = 3;
  request_.plan.commands = {Checkpoint(1), Checkpoint(2)};
  request_.plan.after_report[{0, 1}] = 2;
  request_.plan.after_report[{1, 6}] = 1;
  request_.plan.after_report[{1, 8}] = 2;
  request_.plan.after_report[{2, 3}] = 2;
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  // Rank 1 holds the first from the report of step 6 on, so step 7's collective is the first to
  // carry it.
  EXPECT_EQ(AgreedStep(run, 1), 7u);
  EXPECT_EQ(AgreedStep(run, 2), 9u);
}

TEST_F(TrainCommands, ACommandThatOneRankNeverGetsIsAppliedByNone) {
  request_.plan.commands = {Checkpoint(1)};
  request_.plan.after_report[{0, 1}] = 1;
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (const auto& rank : run.ranks) EXPECT_TRUE(rank->acks.empty());
}

TEST_F(TrainCommands, PruningAndMovingMidRunIsEqualOnAnyNumberOfRanks) {
  std::map<int, RunRecord> runs;
  for (const int ranks : {1, 2, 4}) {
    request_.ranks = ranks;
    request_.run_id = std::to_string(ranks);
    request_.plan = {};
    request_.plan.commands = {SetLayout(1, Pruned(ranks))};
    ArriveEverywhere(4, 1);
    runs.emplace(ranks, RunOnRanks(request_));
    ASSERT_TRUE(runs.at(ranks).Ok());
    EXPECT_EQ(AgreedStep(runs.at(ranks), 1), 5u);
  }
  ExpectSameCurve(runs.at(1).Losses(), runs.at(2).Losses(), 10, 1e-5);
  ExpectSameCurve(runs.at(1).Losses(), runs.at(4).Losses(), 10, 1e-5);
  const v1::CommandAck ack = runs.at(2).AckOf(0, 1);
  EXPECT_TRUE(ack.has_heldout_loss_before() && ack.has_heldout_loss_after());
  EXPECT_NE(ack.heldout_loss_before(), ack.heldout_loss_after());
  EXPECT_GT(ack.bytes_moved() + runs.at(2).AckOf(1, 1).bytes_moved(), 0u);
  EXPECT_FALSE(runs.at(2).AckOf(1, 1).has_heldout_loss_before());
  const auto events = runs.at(2).Events("layout_applied");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].fields().at("experts"), "5,4");
  // Loads go to the new holders, and only to experts alive.
  std::set<uint32_t> experts;
  for (const auto& rank : runs.at(2).ranks) {
    for (const auto& loads : rank->reports.back().loads()) {
      if (loads.layer() != 1) continue;
      experts.insert(loads.experts().begin(), loads.experts().end());
    }
  }
  EXPECT_EQ(experts, (std::set<uint32_t>{0, 2, 3, 5}));
}

TEST_F(TrainCommands, MovingAloneChangesNoLoss) {
  const RunRecord plain = RunOnRanks(request_);
  request_.run_id = "moved";
  request_.plan.commands = {SetLayout(1, MakeLayout({{{0, 1, 2, 3, 4, 5}, {1, 0, 1, 0, 0, 0}},
                                                     {{0, 1, 2, 3, 4, 5}, {1, 1, 1, 0, 1, 1}}}))};
  ArriveEverywhere(3, 1);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(plain.Ok() && run.Ok());
  ExpectSameCurve(run.Losses(), plain.Losses(), 10, 1e-5);
  EXPECT_FALSE(run.AckOf(0, 1).has_heldout_loss_before());
}

TEST_F(TrainCommands, MaskedExpertsGetNoTokensAndCanComeBack) {
  v1::ExpertLayout masked = MakeLayout({{{0, 1, 2, 3, 4, 5}, {0, 0, 0, 1, 1, 1}}});
  const v1::ExpertLayout open = masked;
  masked.mutable_layers(0)->add_masked(0);
  masked.mutable_layers(0)->add_masked(4);
  request_.plan.commands = {SetLayout(1, masked), SetLayout(2, open)};
  ArriveEverywhere(2, 1);
  ArriveEverywhere(6, 2);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  EXPECT_TRUE(run.AckOf(0, 1).has_heldout_loss_after());
  for (const v1::StepReport& report : run.ranks[0]->reports) {
    const bool in_mask = report.last_step() > 3 && report.last_step() <= 7;
    EXPECT_EQ(report.loads(0).tokens(0) == 0, in_mask) << "step " << report.last_step();
  }
}

TEST_F(TrainCommands, StopLeavesACheckpointThatContinuesTheCurve) {
  const RunRecord whole = RunOnRanks(request_);
  ASSERT_TRUE(whole.Ok());
  request_.run_id = "stopped";
  request_.plan.commands = {Stop(1)};
  request_.plan.after_report[{0, 2}] = 1;
  request_.plan.after_report[{1, 4}] = 1;
  const RunRecord stopped = RunOnRanks(request_);
  ASSERT_TRUE(stopped.Ok(TrainOutcome::kStopped));
  EXPECT_EQ(AgreedStep(stopped, 1), 5u);
  for (const int ranks : {1, 2}) {
    RunRequest rest = request_;
    rest.ranks = ranks;
    rest.plan = {};
    rest.assigned = {Stop(1)};
    rest.assigned[0].set_applied_step(5);
    rest.checkpoint = stopped.AckOf(0, 1).path();
    const RunRecord resumed = RunOnRanks(rest);
    ASSERT_TRUE(resumed.Ok());
    EXPECT_EQ(resumed.Losses().begin()->first, 6u);
    ExpectSameCurve(resumed.Losses(), whole.Losses(), 5, ranks == 2 ? 0.0 : 1e-5);
  }
}

TEST_F(TrainCommands, AStopAtTheLastStepKeepsTheLastEvaluation) {
  AddFinetune(&request_.spec, 2);
  request_.plan.commands = {Stop(1)};
  ArriveEverywhere(9, 1);
  const RunRecord stopped = RunOnRanks(request_);
  ASSERT_TRUE(stopped.Ok(TrainOutcome::kStopped));
  EXPECT_EQ(AgreedStep(stopped, 1), 10u);
  EXPECT_EQ(stopped.HeldoutLosses().count(10), 1u);
  request_.plan = {};
  request_.assigned = {Stop(1)};
  request_.checkpoint = stopped.AckOf(0, 1).path();
  const RunRecord rest = RunOnRanks(request_);
  ASSERT_TRUE(rest.Ok());
  EXPECT_EQ(rest.Losses().begin()->first, 11u);
  EXPECT_EQ(rest.Losses().size(), 2u);
  EXPECT_EQ(rest.Events("heldout_evaluated").size(), 1u);  // finetuning's own
}

TEST_F(TrainCommands, StopWithoutAPlaceForItsCheckpointIsAnError) {
  std::ofstream(folder_.path() + "/runs") << "in the way";
  request_.plan.commands = {Stop(1)};
  ArriveEverywhere(2, 1);
  const RunRecord run = RunOnRanks(request_);
  for (const auto& outcome : run.outcomes) {
    EXPECT_FALSE(outcome.ok());
    EXPECT_FALSE(absl::IsAborted(outcome.status())) << outcome.status();
  }
  EXPECT_NE(run.AckOf(0, 1).error(), "");
}

TEST_F(TrainCommands, CommandsWorkInAPause) {
  request_.plan.commands = {
      Pause(1),     SetLayout(2, Pruned(2)), Export(3, "paused_export"), Checkpoint(4), Resume(5),
      Checkpoint(6)};
  request_.plan.after_report[{0, 2}] = 1;
  request_.plan.after_report[{1, 3}] = 1;
  for (uint64_t sequence = 1; sequence <= 5; ++sequence) {
    request_.plan.after_ack[sequence] = sequence + 1;
  }
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (uint64_t sequence = 1; sequence <= 5; ++sequence) {
    EXPECT_EQ(AgreedStep(run, sequence), 4u);
    EXPECT_EQ(run.AckOf(0, sequence).error(), "") << sequence;
  }
  EXPECT_EQ(AgreedStep(run, 6), 5u);
  EXPECT_GT(run.AckOf(1, 5).pause().seconds() * 1e9 + run.AckOf(1, 5).pause().nanos(), 5e7);
  EXPECT_TRUE(std::filesystem::exists(folder_.path() + "/paused_export/config.json"));
  EXPECT_EQ(run.Losses().size(), 10u);
}

TEST_F(TrainCommands, ARankToldToLeaveInAPauseLeaves) {
  request_.plan.commands = {Pause(1)};
  ArriveEverywhere(2, 1);
  request_.plan.cancel_after_ack = 1;
  const RunRecord run = RunOnRanks(request_);
  for (const auto& outcome : run.outcomes) {
    EXPECT_TRUE(absl::IsAborted(outcome.status()) || absl::IsUnavailable(outcome.status()))
        << outcome.status();
  }
}

TEST_F(TrainCommands, StopEndsAPause) {
  request_.plan.commands = {Pause(1), Stop(2)};
  ArriveEverywhere(2, 1);
  request_.plan.after_ack[1] = 2;
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok(TrainOutcome::kStopped));
  EXPECT_EQ(AgreedStep(run, 2), 3u);
}

TEST_F(TrainCommands, ARestartRepeatsWhatItsCheckpointLacksAfterTheSameSteps) {
  // A run that checkpoints at 4, prunes after 6 and masks after 8.
  v1::ExpertLayout mask = MakeLayout({{{0, 2, 3, 4, 5}, {0, 0, 0, 1, 1}}});
  mask.mutable_layers(0)->add_masked(3);
  request_.spec.mutable_checkpoints()->set_every_steps(4);
  request_.spec.mutable_checkpoints()->set_keep(10);
  request_.plan.commands = {SetLayout(1, Pruned(2)), SetLayout(2, mask)};
  ArriveEverywhere(5, 1);
  ArriveEverywhere(7, 2);
  const RunRecord whole = RunOnRanks(request_);
  ASSERT_TRUE(whole.Ok());
  ASSERT_EQ(AgreedStep(whole, 1), 6u);
  ASSERT_EQ(AgreedStep(whole, 2), 8u);

  RunRequest again = request_;
  again.run_id = "again";
  again.assigned = request_.plan.commands;
  again.assigned[0].set_applied_step(6);
  again.assigned[1].set_applied_step(8);
  again.plan = {};
  const std::string checkpoints = folder_.path() + "/runs/r1/checkpoints/";
  for (const uint64_t step : {4, 8}) {
    again.checkpoint = checkpoints + model::CheckpointName(step);
    const RunRecord repeated = RunOnRanks(again);
    ASSERT_TRUE(repeated.Ok());
    ExpectSameCurve(repeated.Losses(), whole.Losses(), 10 - step, 0.0);
    if (step == 4) {
      EXPECT_EQ(AgreedStep(repeated, 1), 6u);
      EXPECT_EQ(AgreedStep(repeated, 2), 8u);
    }
  }
}

TEST_F(TrainCommands, AssignedCommandsThatNobodyAppliedAreNew) {
  request_.assigned = {Checkpoint(1), Checkpoint(2)};
  request_.assigned[0].set_applied_step(3);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(AgreedStep(run, 1), 3u);
  EXPECT_EQ(AgreedStep(run, 2), 3u);  // held from the start, but the order is total
}

// An action of a field that this worker was built without.
v1::Command FromTheFuture(uint64_t sequence, uint8_t field) {
  v1::Command command;
  std::string bytes = NewCommand(sequence).SerializeAsString();
  const int tag = field << 3 | 2;  // length-delimited
  bytes += {static_cast<char>((tag & 0x7f) | 0x80), static_cast<char>(tag >> 7), '\0'};
  EXPECT_TRUE(command.ParseFromString(bytes));
  return command;
}

TEST_F(TrainCommands, AnActionFromANewerCoordinatorIsAnErrorThatNamesIt) {
  request_.plan.commands = {FromTheFuture(1, 30), Checkpoint(2)};
  ArriveEverywhere(2, 2);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (int rank = 0; rank < 2; ++rank) {
    const std::string error = run.AckOf(rank, 1).error();
    EXPECT_NE(error.find("field 30"), std::string::npos) << error;
    EXPECT_NE(error.find("update the workers"), std::string::npos) << error;
    EXPECT_EQ(run.AckOf(rank, 2).error(), "");  // and the order goes on
  }
  EXPECT_EQ(AgreedStep(run, 1), 3u);
}

TEST_F(TrainCommands, AnActionThatOneRankDoesNotKnowIsDoneByNone) {
  const RunRecord plain = RunOnRanks(request_);
  request_.run_id = "mixed";
  request_.plan.commands = {SetLayout(1, Pruned(2))};
  request_.plan.seen_otherwise[{1, 1}] = FromTheFuture(1, 30);
  ArriveEverywhere(2, 1);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(plain.Ok() && run.Ok());
  EXPECT_EQ(run.AckOf(0, 1).error(), run.AckOf(1, 1).error());
  EXPECT_NE(run.AckOf(0, 1).error().find("rank 1"), std::string::npos) << run.AckOf(0, 1).error();
  EXPECT_EQ(run.Losses(), plain.Losses());
}

TEST_F(TrainCommands, EvaluateMeasuresTheModelOfItsStep) {
  AddFinetune(&request_.spec, 4)->set_eval_every(2);
  request_.spec.mutable_stages(0)->mutable_pretrain()->set_eval_every(4);
  request_.plan.commands = {Evaluate(1), Evaluate(2), Evaluate(3)};
  ArriveEverywhere(3, 1);
  ArriveEverywhere(4, 2);
  ArriveEverywhere(11, 3);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  const auto regular = run.HeldoutLosses();
  for (const auto& [sequence, step] : std::map<uint64_t, uint64_t>{{1, 4}, {2, 5}, {3, 12}}) {
    EXPECT_EQ(AgreedStep(run, sequence), step);
    EXPECT_EQ(run.AckOf(0, sequence).error(), "");
    EXPECT_FALSE(run.AckOf(0, sequence).has_heldout_loss_before());
    EXPECT_FALSE(run.AckOf(1, sequence).has_heldout_loss_after());
  }
  EXPECT_EQ(run.AckOf(0, 1).heldout_loss_after(), regular.at(4));
  EXPECT_NE(run.AckOf(0, 2).heldout_loss_after(), regular.at(4));
  EXPECT_EQ(run.AckOf(0, 3).heldout_loss_after(), regular.at(12));
  EXPECT_EQ(regular.count(5), 0u);  // the ack alone has it
}

TEST_F(TrainCommands, EvaluateInReinforcementMeasuresHeldoutTraces) {
  request_.spec.clear_stages();
  AddReinforce(&request_.spec, 3);
  request_.plan.commands = {Evaluate(1)};
  ArriveEverywhere(1, 1);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(run.AckOf(0, 1).error(), "");
  EXPECT_GT(run.AckOf(0, 1).heldout_loss_after(), 0.0);
}

}  // namespace
}  // namespace espalier::train
