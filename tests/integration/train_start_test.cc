// Goal: a run starts where a checkpoint in Hugging Face layout stands, on any number of ranks, and
// says what does not agree with its spec. Method: a tiny run of OLMoE's architecture is exported,
// and another starts from the export: its held-out loss before the first step is the first run's
// last.
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/spec/spec.h"
#include "nlohmann/json.hpp"
#include "tests/integration/train_harness.h"

namespace espalier::train {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class TrainStart : public ::testing::Test {
 protected:
  TrainStart() { WriteCorpus(folder_.path()); }

  RunRecord Run(v1::RunSpec spec, int ranks, const std::string& run_id) {
    spec::FillDefaults(&spec);
    RunRequest request;
    request.ranks = ranks;
    request.spec = std::move(spec);
    request.data_root = folder_.path();
    request.run_id = run_id;
    return RunOnRanks(request);
  }

  // Without what the checkpoint decides.
  v1::RunSpec Spec(const std::string& start_from) {
    v1::RunSpec spec = TinySpec();
    v1::ModelSpec* model = spec.mutable_model();
    model->clear_router();
    model->clear_shared_expert_width();
    model->clear_kv_heads();
    model->clear_head_dim();
    model->clear_normalize_top_k();
    model->clear_routed_scaling();
    model->clear_rope_theta();
    model->clear_rms_eps();
    model->clear_tie_embeddings();
    model->clear_qk_norm();
    model->clear_dense_layers();
    model->clear_dense_width();
    model->set_start_from(start_from);
    return spec;
  }

  // Trains and exports to "first".
  RunRecord First() {
    v1::RunSpec spec = Spec("");
    spec.mutable_model()->set_router(v1::ROUTER_KIND_SOFTMAX);
    spec.mutable_model()->set_qk_norm(v1::QK_NORM_FULL);
    spec.mutable_model()->set_normalize_top_k(false);
    spec.mutable_model()->set_rope_theta(3000);
    AddPretrain(&spec, 12);
    v1::ExportStage* stage = spec.add_stages()->mutable_export_();
    stage->set_directory("first");
    stage->set_format(v1::EXPORT_FORMAT_OLMOE);
    return Run(spec, 2, "first");
  }

  TempFolder folder_;
};

TEST_F(TrainStart, TheRunBeginsAtTheLossWhereTheOtherEnded) {
  const RunRecord first = First();
  ASSERT_TRUE(first.Ok());
  const double last = first.HeldoutLosses().rbegin()->second;
  for (const int ranks : {1, 2, 3}) {
    v1::RunSpec spec = Spec("first");
    AddPretrain(&spec, 2)->mutable_optimizer()->set_learning_rate(1e-9);
    const RunRecord again = Run(spec, ranks, "again" + std::to_string(ranks));
    ASSERT_TRUE(again.Ok()) << again.outcomes[0].status();
    EXPECT_NEAR(again.HeldoutLosses().rbegin()->second, last, 1e-4);
  }
}

TEST_F(TrainStart, WhatIsGivenAndDisagreesIsNamedOnEveryRank) {
  ASSERT_TRUE(First().Ok());
  v1::RunSpec spec = Spec("first");
  AddPretrain(&spec, 2);
  spec.mutable_model()->set_rope_theta(10000);
  spec.mutable_model()->set_router(v1::ROUTER_KIND_SIGMOID);
  spec.mutable_model()->set_top_k(spec.model().top_k() + 1);
  const RunRecord run = Run(spec, 2, "other");
  for (const auto& outcome : run.outcomes) {
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(outcome.status().message());
    EXPECT_THAT(message, HasSubstr("model.rope_theta: found 10000"));
    EXPECT_THAT(message, HasSubstr("has 3000"));
    EXPECT_THAT(message, HasSubstr("model.router: found sigmoid"));
    EXPECT_THAT(message, HasSubstr("model.top_k"));
  }
}

TEST_F(TrainStart, AMissingFolderOrAForeignTokenizerIsAClearError) {
  v1::RunSpec spec = Spec("nowhere");
  AddPretrain(&spec, 2);
  const RunRecord missing = Run(spec, 2, "r1");
  EXPECT_THAT(std::string(missing.outcomes[0].status().message()),
              HasSubstr("nowhere/config.json"));

  ASSERT_TRUE(First().Ok());
  const std::string path = folder_.path() + "/first/tokenizer.json";
  json tokenizer;
  std::ifstream(path) >> tokenizer;
  tokenizer["pre_tokenizer"] = {{"type", "Whitespace"}};
  std::ofstream(path) << tokenizer;
  spec = Spec("first");
  AddPretrain(&spec, 2);
  const RunRecord foreign = Run(spec, 2, "r2");
  for (const auto& outcome : foreign.outcomes) {
    EXPECT_THAT(std::string(outcome.status().message()),
                HasSubstr("first/tokenizer.json: pre_tokenizer cuts text in another way"));
  }
}

}  // namespace
}  // namespace espalier::train
