// Goal: a run is the same whatever the number of ranks, repeats bit for bit, and continues from a
// checkpoint as if nothing had happened. Method: tiny runs of all stages, ranks as threads, losses
// compared step by step.
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/integration/train_harness.h"

namespace espalier::train {
namespace {

class TrainRuns : public ::testing::Test {
 protected:
  TrainRuns() { WriteCorpus(folder_.path()); }

  RunRecord Run(const v1::RunSpec& spec, int ranks, const std::string& run_id,
                const std::string& checkpoint = "") {
    RunRequest request;
    request.ranks = ranks;
    request.spec = spec;
    request.data_root = folder_.path();
    request.run_id = run_id;
    request.checkpoint = checkpoint;
    return RunOnRanks(request);
  }

  std::string CheckpointPath(const std::string& run_id, uint64_t step) const {
    return folder_.path() + "/runs/" + run_id + "/checkpoints/" + model::CheckpointName(step);
  }

  TempFolder folder_;
};

TEST_F(TrainRuns, MissingCorpusIsTheSameClearErrorOnEveryRank) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 2);
  spec.mutable_data()->set_corpus("nowhere.txt");
  const RunRecord run = Run(spec, 3, "r1");
  for (const auto& outcome : run.outcomes) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kNotFound);
    EXPECT_NE(std::string(outcome.status().message()).find("nowhere.txt"), std::string::npos);
    EXPECT_EQ(outcome.status(), run.outcomes[0].status());
  }
}

TEST_F(TrainRuns, CorpusTooSmallForAWindowIsRefused) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 2)->set_sequence_length(1 << 20);
  const RunRecord run = Run(spec, 2, "r1");
  for (const auto& outcome : run.outcomes) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(outcome.status().message()).find("stages[0].pretrain.sequence_length"),
              std::string::npos)
        << outcome.status();
  }
}

TEST_F(TrainRuns, MissingOrDamagedCheckpointIsRefusedOnEveryRank) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 2);
  RunRecord run = Run(spec, 2, "r1", folder_.path() + "/none");
  for (const auto& outcome : run.outcomes) EXPECT_FALSE(outcome.ok());
  EXPECT_EQ(run.outcomes[0].status(), run.outcomes[1].status());

  ASSERT_TRUE(Run(spec, 2, "r2").Ok());
  const std::string path = CheckpointPath("r2", 2);
  std::string largest;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().extension() == ".safetensors") largest = entry.path();
  }
  ASSERT_FALSE(largest.empty());
  std::fstream file(largest, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-5, std::ios::end);
  file.put('\x7f');
  file.close();
  run = Run(spec, 2, "r2", path);
  for (const auto& outcome : run.outcomes) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kDataLoss) << outcome.status();
  }
}

TEST_F(TrainRuns, PretrainLossesAreEqualOnOneTwoAndFourRanks) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 8)->set_eval_every(4);
  const RunRecord one = Run(spec, 1, "one"), two = Run(spec, 2, "two"), four = Run(spec, 4, "four");
  ASSERT_TRUE(one.Ok() && two.Ok() && four.Ok());
  ExpectSameCurve(one.Losses(), two.Losses(), 8, 1e-5);
  ExpectSameCurve(one.Losses(), four.Losses(), 8, 1e-5);
  ExpectSameCurve(one.HeldoutLosses(), four.HeldoutLosses(), 2, 1e-5);
  EXPECT_LT(one.Losses().rbegin()->second, 0.95 * one.Losses().begin()->second);
}

TEST_F(TrainRuns, MoreRanksThanSequencesStillAgree) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 3)->set_batch_sequences(2);
  AddFinetune(&spec, 2)->set_batch_traces(1);
  const RunRecord one = Run(spec, 1, "one"), four = Run(spec, 4, "four");
  ASSERT_TRUE(one.Ok() && four.Ok());
  ExpectSameCurve(one.Losses(), four.Losses(), 5, 1e-5);
}

TEST_F(TrainRuns, FinetuneLossesAreEqualOnOneAndTwoRanks) {
  v1::RunSpec spec = TinySpec();
  AddFinetune(&spec, 5)->set_eval_every(2);
  const RunRecord one = Run(spec, 1, "one"), two = Run(spec, 2, "two");
  ASSERT_TRUE(one.Ok() && two.Ok());
  ExpectSameCurve(one.Losses(), two.Losses(), 5, 1e-5);
  ExpectSameCurve(one.HeldoutLosses(), two.HeldoutLosses(), 3, 1e-5);
}

TEST_F(TrainRuns, SameSeedAndRanksRepeatBitForBit) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 4);
  AddFinetune(&spec, 2);
  AddReinforce(&spec, 2);
  const RunRecord first = Run(spec, 2, "a"), second = Run(spec, 2, "b");
  ASSERT_TRUE(first.Ok() && second.Ok());
  EXPECT_EQ(first.Losses(), second.Losses());
  EXPECT_EQ(first.HeldoutLosses(), second.HeldoutLosses());
  spec.set_seed(8);
  EXPECT_NE(Run(spec, 2, "c").Losses(), first.Losses());
}

TEST_F(TrainRuns, ResumedRunsContinueTheSameCurve) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 6);
  AddFinetune(&spec, 4);
  spec.mutable_checkpoints()->set_every_steps(2);
  spec.mutable_checkpoints()->set_keep(100);
  const RunRecord whole = Run(spec, 2, "whole");
  ASSERT_TRUE(whole.Ok());
  for (const uint64_t step : {4, 6, 8}) {
    for (const int ranks : {1, 2, 3}) {
      const RunRecord rest = Run(spec, ranks, "rest", CheckpointPath("whole", step));
      ASSERT_TRUE(rest.Ok());
      EXPECT_EQ(rest.Losses().begin()->first, step + 1);
      ExpectSameCurve(rest.Losses(), whole.Losses(), 10 - step, ranks == 2 ? 0.0 : 1e-5);
    }
  }
}

TEST_F(TrainRuns, OneRankGrowsToTwo) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 6);
  spec.mutable_checkpoints()->set_every_steps(3);
  const RunRecord whole = Run(spec, 1, "whole");
  ASSERT_TRUE(whole.Ok());
  const RunRecord rest = Run(spec, 2, "rest", CheckpointPath("whole", 3));
  ASSERT_TRUE(rest.Ok());
  ExpectSameCurve(rest.Losses(), whole.Losses(), 3, 1e-5);
}

TEST_F(TrainRuns, ReinforceIsEqualOnOneAndTwoRanks) {
  v1::RunSpec spec = TinySpec();
  AddReinforce(&spec, 2)->set_minibatches(2);
  LocalScorer scorer(
      [](const v1::Trace& trace) { return static_cast<double>(trace.text().size()); });
  std::vector<RunRecord> runs;
  for (const int ranks : {1, 2}) {
    RunRequest request;
    request.ranks = ranks;
    request.spec = spec;
    request.data_root = folder_.path();
    request.run_id = std::to_string(ranks);
    request.scorer = &scorer;
    runs.push_back(RunOnRanks(request));
    ASSERT_TRUE(runs.back().Ok());
  }
  for (int step = 0; step < 2; ++step) {
    const auto& one = runs[0].ranks[0]->reports[step].metrics();
    const auto& two = runs[1].ranks[0]->reports[step].metrics();
    EXPECT_NEAR(one.loss(), two.loss(), 1e-5);
    EXPECT_NEAR(one.gradient_norm(), two.gradient_norm(), 1e-3 * one.gradient_norm());
    EXPECT_EQ(one.reinforce().traces(), 24u);
    EXPECT_DOUBLE_EQ(one.reinforce().mean_reward(), two.reinforce().mean_reward());
  }
}

TEST_F(TrainRuns, PolicyGradientRaisesTheReward) {
  v1::RunSpec spec = TinySpec();
  v1::ReinforceStage* stage = AddReinforce(&spec, 12);
  stage->mutable_optimizer()->set_learning_rate(2e-2);
  stage->set_eval_prompts(64);
  // The share of characters below 'A': every token counts, and an untrained model gets a quarter.
  LocalScorer scorer([](const v1::Trace& trace) {
    int low = 0, characters = 0;
    for (const char c : trace.text()) {
      low += static_cast<unsigned char>(c) < 'A';
      characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    }
    return static_cast<double>(low) / (1.0 + characters);
  });
  RunRequest request;
  request.ranks = 2;
  request.spec = spec;
  request.data_root = folder_.path();
  request.scorer = &scorer;
  const RunRecord run = RunOnRanks(request);
  ASSERT_TRUE(run.Ok());
  const auto evaluations = run.Events("reinforce_evaluation");
  ASSERT_EQ(evaluations.size(), 2u);
  EXPECT_EQ(evaluations[0].fields().at("phase"), "before");
  EXPECT_EQ(evaluations[1].fields().at("phase"), "after");
  EXPECT_GT(std::stod(evaluations[1].fields().at("mean_reward")),
            std::stod(evaluations[0].fields().at("mean_reward")) + 0.1);
}

TEST_F(TrainRuns, TracesWithoutVerdictTeachNothing) {
  v1::RunSpec spec = TinySpec();
  AddReinforce(&spec, 2);
  LocalScorer scorer(
      [](const v1::Trace& trace) { return static_cast<double>(trace.text().size()); });
  scorer.abstains = true;
  RunRequest request;
  request.ranks = 2;
  request.spec = spec;
  request.data_root = folder_.path();
  request.scorer = &scorer;
  const RunRecord run = RunOnRanks(request);
  ASSERT_TRUE(run.Ok());
  ASSERT_EQ(run.ranks[0]->reports.size(), 2u);
  for (const v1::StepReport& report : run.ranks[0]->reports) {
    EXPECT_EQ(report.metrics().gradient_norm(), 0.0);
    EXPECT_EQ(report.metrics().reinforce().accuracy(), 0.0);
  }
  const auto events = run.Events("reward_abstained");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].fields().at("traces"), "24");
}

TEST_F(TrainRuns, OnlyTheNewestCheckpointsStay) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 7);
  spec.mutable_checkpoints()->set_every_steps(2);
  spec.mutable_checkpoints()->set_keep(2);
  const RunRecord run = Run(spec, 2, "r1");
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(run.Events("checkpoint_written").size(), 4u);
  EXPECT_FALSE(std::filesystem::exists(CheckpointPath("r1", 4)));
  EXPECT_TRUE(std::filesystem::exists(CheckpointPath("r1", 6)));
  EXPECT_EQ(model::NewestCheckpoint(folder_.path() + "/runs/r1/checkpoints"),
            CheckpointPath("r1", 7));
}

TEST_F(TrainRuns, ARewardServiceThatStaysAwayEndsTheRunOnEveryRank) {
  v1::RunSpec spec = TinySpec();
  AddReinforce(&spec, 3);
  LocalScorer scorer;
  scorer.fail_after_calls = 3;
  RunRequest request;
  request.ranks = 2;
  request.spec = spec;
  request.data_root = folder_.path();
  request.scorer = &scorer;
  const RunRecord run = RunOnRanks(request);
  for (const auto& outcome : run.outcomes) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_NE(std::string(outcome.status().message()).find("reward service"), std::string::npos);
  }
}

TEST_F(TrainRuns, StepsThatAreNotFiniteAreSkippedAndReported) {
  v1::RunSpec spec = TinySpec();
  v1::PretrainStage* stage = AddPretrain(&spec, 12);
  // Weights explode at once; from then on no gradient is finite.
  stage->mutable_optimizer()->set_learning_rate(1e30);
  stage->mutable_optimizer()->set_weight_decay(0);
  const RunRecord run = Run(spec, 2, "r1");
  ASSERT_TRUE(run.Ok());
  const uint64_t skipped = run.ranks[0]->reports.back().metrics().skipped_steps();
  EXPECT_GT(skipped, 0u);
  EXPECT_EQ(run.Events("step_skipped").size(), skipped);
}

TEST_F(TrainRuns, ReportsCoverEveryStepOnceAndEveryToken) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 7)->set_eval_every(0);
  AddFinetune(&spec, 2);
  spec.mutable_reports()->set_steps_per_report(3);
  const RunRecord run = Run(spec, 2, "r1");
  ASSERT_TRUE(run.Ok());
  uint64_t routed = 0, fed = 0;
  for (const auto& rank : run.ranks) {
    uint64_t next = 1;
    for (const v1::StepReport& report : rank->reports) {
      EXPECT_EQ(report.first_step(), next);
      EXPECT_LE(report.last_step(), next + 2);
      EXPECT_EQ(report.has_metrics(), rank == run.ranks[0]);
      EXPECT_EQ(report.stage(), next <= 7 ? v1::STAGE_KIND_PRETRAIN : v1::STAGE_KIND_FINETUNE);
      EXPECT_GT(report.phases().experts_seconds(), 0);
      next = report.last_step() + 1;
      fed += report.tokens();
      for (const v1::LayerLoads& loads : report.loads()) {
        EXPECT_EQ(loads.experts_size(), 3);
        for (const uint64_t tokens : loads.tokens()) routed += tokens;
      }
    }
    EXPECT_EQ(next, 10u);
  }
  EXPECT_EQ(routed, fed * 2 * 2);  // two layers, top 2
}

TEST_F(TrainRuns, AFullDiskCostsACheckpointButNotTheRun) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 4);
  spec.mutable_checkpoints()->set_every_steps(2);
  // A file stands where the run's folder should be: nothing can be written there.
  std::ofstream(folder_.path() + "/runs") << "in the way";
  const RunRecord run = Run(spec, 2, "r1");
  ASSERT_TRUE(run.Ok());
  EXPECT_EQ(run.Losses().size(), 4u);
  const auto events = run.Events("checkpoint_failed");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].severity(), v1::EVENT_SEVERITY_ERROR);
}

TEST_F(TrainRuns, ARankThatIsToldToLeaveTakesTheOthersWithIt) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 1000);
  RunRequest request;
  request.ranks = 2;
  request.spec = spec;
  request.data_root = folder_.path();
  request.plan.cancel_after_step = 3;
  const RunRecord run = RunOnRanks(request);
  for (const auto& outcome : run.outcomes) {
    EXPECT_TRUE(absl::IsAborted(outcome.status()) || absl::IsUnavailable(outcome.status()))
        << outcome.status();
  }
}

TEST_F(TrainRuns, ExportStageWritesAndAnnouncesTheModel) {
  v1::RunSpec spec = TinySpec();
  AddPretrain(&spec, 2);
  spec.add_stages()->mutable_export_()->set_directory("out/model");
  const RunRecord run = Run(spec, 2, "r1");
  ASSERT_TRUE(run.Ok());
  const auto events = run.Events("export_written");
  ASSERT_EQ(events.size(), 1u);
  const std::string path = events[0].fields().at("path");
  EXPECT_EQ(path, folder_.path() + "/out/model");
  EXPECT_TRUE(std::filesystem::exists(path + "/config.json"));
  EXPECT_TRUE(std::filesystem::exists(path + "/tokenizer.json"));
}

}  // namespace
}  // namespace espalier::train
