// Goal: experts that are masked in the middle of a run come back as they were, whatever happened in
// between, and runs that judge experts by what they put out report it. Method: whole runs; tensors
// of their checkpoints, losses and reports are compared.
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "libs/model/checkpoint.h"
#include "tests/integration/train_commands_fixture.h"

namespace espalier::train {
namespace {

// Experts 0 and 4 of layer 0 masked, on `ranks` ranks; or none.
v1::ExpertLayout Layout(int ranks, bool masked) {
  const int last = ranks - 1;
  v1::ExpertLayout layout = MakeLayout({{{0, 1, 2, 3, 4, 5}, {0, 0, 0, last, last, last}}});
  if (masked) {
    layout.mutable_layers(0)->add_masked(0);
    layout.mutable_layers(0)->add_masked(4);
  }
  return layout;
}

class TrainMasks : public TrainCommands {
 protected:
  TrainMasks() {
    request_.spec.mutable_checkpoints()->set_every_steps(1);
    request_.spec.mutable_checkpoints()->set_keep(100);
    request_.plan.commands = {SetLayout(1, Layout(2, true)), SetLayout(2, Layout(2, false))};
    ArriveEverywhere(2, 1);
    ArriveEverywhere(6, 2);
  }

  std::string PathOf(uint64_t step, const std::string& run_id = "r1") const {
    return folder_.path() + "/runs/" + run_id + "/checkpoints/" + model::CheckpointName(step);
  }
};

TEST_F(TrainMasks, MaskedExpertsKeepWeightsAndOptimizerStateUntilTheyComeBack) {
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  ASSERT_EQ(AgreedStep(run, 1), 3u);
  ASSERT_EQ(AgreedStep(run, 2), 7u);
  const auto at3 = TensorsOf(PathOf(3), 2), at7 = TensorsOf(PathOf(7), 2),
             at10 = TensorsOf(PathOf(10), 2);
  ASSERT_EQ(at3.size(), at7.size());
  int kept = 0;
  for (const auto& [name, values] : at3) {
    if (name.find("bias") != std::string::npos) continue;
    const bool masked = name.find("layers.0.mlp.experts.0.") != std::string::npos ||
                        name.find("layers.0.mlp.experts.4.") != std::string::npos;
    EXPECT_EQ(at7.at(name) == values, masked) << name;
    kept += masked;
    if (name.find("moment") != std::string::npos) continue;  // reset at the end of the stage
    EXPECT_NE(at10.at(name), values) << name;                // and it trains again
  }
  EXPECT_EQ(kept, 2 * 3 * 3);  // experts, projections, value and moments
  // The router's rows of the masked, and of the others.
  for (const char* part : {"", ".moment1", ".moment2"}) {
    const std::string name = std::string("model.layers.0.mlp.gate.weight") + part;
    for (int expert = 0; expert < 6; ++expert) {
      const auto row = [&](const auto& tensors) {
        const auto begin = tensors.at(name).begin() + expert * 16;
        return std::vector<float>(begin, begin + 16);
      };
      EXPECT_EQ(row(at7) == row(at3), expert == 0 || expert == 4) << name << " " << expert;
    }
  }
}

TEST_F(TrainMasks, HeldoutLossIsMeasuredWhereTheyGoAndWhereTheyComeBack) {
  request_.plan.commands.push_back(SetLayout(3, Layout(2, false)));
  ArriveEverywhere(8, 3);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (const uint64_t sequence : {1, 2}) {
    const v1::CommandAck ack = run.AckOf(0, sequence);
    EXPECT_TRUE(ack.has_heldout_loss_before() && ack.has_heldout_loss_after()) << sequence;
    EXPECT_NE(ack.heldout_loss_before(), ack.heldout_loss_after()) << sequence;
  }
  EXPECT_FALSE(run.AckOf(0, 3).has_heldout_loss_before());  // nothing changed
}

TEST_F(TrainMasks, MasksSurviveACheckpointAndAnotherNumberOfRanks) {
  const RunRecord whole = RunOnRanks(request_);
  ASSERT_TRUE(whole.Ok());
  for (const int ranks : {1, 2, 3}) {
    RunRequest rest = request_;
    rest.run_id = "rest" + std::to_string(ranks);
    rest.ranks = ranks;
    rest.plan = {};
    rest.assigned = {AppliedAt(3, SetLayout(1, Layout(2, true))),
                     AppliedAt(7, SetLayout(2, Layout(ranks, false)))};
    rest.checkpoint = PathOf(5);
    const RunRecord resumed = RunOnRanks(rest);
    ASSERT_TRUE(resumed.Ok()) << ranks;
    ExpectSameCurve(resumed.Losses(), whole.Losses(), 5, ranks == 2 ? 0.0 : 1e-5);
    uint64_t masked = 0;
    for (const auto& rank : resumed.ranks) {
      for (const v1::StepReport& report : rank->reports) {
        if (report.last_step() > 7 || report.loads().empty() || report.loads(0).layer() != 0) {
          continue;
        }
        for (int i = 0; i < report.loads(0).experts_size(); ++i) {
          const uint32_t expert = report.loads(0).experts(i);
          if (expert == 0 || expert == 4) masked += 1 + 1000 * report.loads(0).tokens(i);
        }
      }
    }
    EXPECT_EQ(masked, 4u);  // steps 6 and 7, both experts reported, no token
  }
}

TEST_F(TrainMasks, DroppingWhatWasMaskedChangesNoLoss) {
  RunRequest only_masked = request_;
  only_masked.plan.commands.pop_back();
  for (int rank = 0; rank < 2; ++rank) only_masked.plan.after_report.erase({rank, 6});
  const RunRecord masked = RunOnRanks(only_masked);
  request_.run_id = "dropped";
  request_.plan.commands.back() = SetLayout(2, MakeLayout({{{1, 2, 3, 5}, {0, 1, 0, 1}}}));
  const RunRecord dropped = RunOnRanks(request_);
  ASSERT_TRUE(masked.Ok() && dropped.Ok());
  ExpectSameCurve(dropped.Losses(), masked.Losses(), 10, 1e-5);
  const v1::CommandAck ack = dropped.AckOf(0, 2);
  ASSERT_TRUE(ack.has_heldout_loss_before() && ack.has_heldout_loss_after());
  EXPECT_NEAR(ack.heldout_loss_after(), ack.heldout_loss_before(), 1e-6);
}

TEST_F(TrainMasks, OutputNormsAreReportedWhereTheyAreTheScoreAndOnlyThere) {
  request_.plan = {};
  const RunRecord plain = RunOnRanks(request_);
  ASSERT_TRUE(plain.Ok());
  for (const v1::StepReport& report : plain.ranks[0]->reports) {
    for (const v1::LayerLoads& loads : report.loads()) EXPECT_EQ(loads.output_norms_size(), 0);
  }
  request_.spec.mutable_prune()->set_score(v1::PRUNE_SCORE_OUTPUT_NORM);
  using Norms = std::map<std::pair<uint32_t, uint32_t>, std::vector<double>>;  // by layer, expert
  std::map<int, Norms> by_ranks;
  for (const int ranks : {1, 2, 3}) {
    request_.ranks = ranks;
    request_.run_id = "scored" + std::to_string(ranks);
    const RunRecord scored = RunOnRanks(request_);
    ASSERT_TRUE(scored.Ok());
    if (ranks == 2) {
      EXPECT_EQ(scored.Losses(), plain.Losses());
    }
    for (const auto& rank : scored.ranks) {
      for (const v1::StepReport& report : rank->reports) {
        for (const v1::LayerLoads& loads : report.loads()) {
          ASSERT_EQ(loads.output_norms_size(), loads.experts_size());
          for (int i = 0; i < loads.experts_size(); ++i) {
            EXPECT_EQ(loads.output_norms(i) > 0, loads.tokens(i) > 0);
            by_ranks[ranks][{loads.layer(), loads.experts(i)}].push_back(
                static_cast<double>(loads.output_norms(i)));
          }
        }
      }
    }
  }
  ASSERT_EQ(by_ranks.at(1).size(), 12u);
  for (const auto& [expert, norms] : by_ranks.at(1)) {
    ASSERT_EQ(norms.size(), 10u);
    for (const int ranks : {2, 3}) {
      for (size_t step = 0; step < 10; ++step) {
        EXPECT_NEAR(by_ranks.at(ranks).at(expert)[step], norms[step], 2 + 1e-4 * norms[step]);
      }
    }
  }
}

TEST_F(TrainMasks, OutputNormsCoverSampledTokensToo) {
  request_.plan = {};
  request_.spec.clear_stages();
  AddReinforce(&request_.spec, 2);
  request_.spec.mutable_prune()->set_score(v1::PRUNE_SCORE_OUTPUT_NORM);
  const RunRecord run = RunOnRanks(request_);
  ASSERT_TRUE(run.Ok());
  for (const v1::StepReport& report : run.ranks[1]->reports) {
    ASSERT_GT(report.loads_size(), 0);
    for (const v1::LayerLoads& loads : report.loads()) {
      ASSERT_EQ(loads.output_norms_size(), loads.experts_size());
      for (int i = 0; i < loads.experts_size(); ++i) {
        EXPECT_EQ(loads.output_norms(i) > 0, loads.tokens(i) > 0);
      }
    }
  }
}

}  // namespace
}  // namespace espalier::train
