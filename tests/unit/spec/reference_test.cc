// Goal: defaults, the reference of fields, YAML output and the domain's structs agree with the
// rules in the protos.
#include <set>

#include "google/protobuf/util/message_differencer.h"
#include "tests/unit/spec/spec_samples.h"

namespace espalier::spec {
namespace {

using google::protobuf::util::MessageDifferencer;

TEST(FillDefaults, FillsNestedFieldsAndKeepsWhatWasGiven) {
  const v1::RunSpec spec = Sample();
  EXPECT_EQ(1, spec.seed());
  EXPECT_EQ(1, spec.workers().count());
  EXPECT_EQ(v1::ROUTER_KIND_SIGMOID, spec.model().router());
  EXPECT_DOUBLE_EQ(0.95, spec.prune().stable_rank_correlation());
  EXPECT_DOUBLE_EQ(1e-3, spec.stages(0).pretrain().optimizer().learning_rate());
  EXPECT_DOUBLE_EQ(0.1, spec.stages(0).pretrain().optimizer().weight_decay());
  EXPECT_EQ(1, spec.stages_size());
  EXPECT_FALSE(spec.stages(0).has_name());
}

TEST(FillDefaults, IsIdempotent) {
  v1::RunSpec again = Sample();
  FillDefaults(&again);
  EXPECT_TRUE(MessageDifferencer::Equals(Sample(), again));
}

TEST(FillDefaults, LeavesRequiredPartsMissing) {
  v1::RunSpec spec;
  FillDefaults(&spec);
  EXPECT_FALSE(spec.has_model());
  EXPECT_FALSE(spec.has_data());
}

TEST(ToYaml, RoundTrips) {
  for (const char* path : {"deploy/runs/tiny.yaml", "deploy/runs/quickstart.yaml"}) {
    auto spec = ParseRunSpec(ReadText(path));
    ASSERT_TRUE(spec.ok()) << spec.status();
    for (int filled = 0; filled < 2; ++filled) {
      const auto again = ParseRunSpec(ToYaml(*spec));
      ASSERT_TRUE(again.ok()) << again.status() << "\n" << ToYaml(*spec);
      EXPECT_TRUE(MessageDifferencer::Equals(*spec, *again)) << ToYaml(*spec);
      FillDefaults(&*spec);
    }
  }
}

TEST(ToYaml, QuotesTextThatYamlWouldReadOtherwise) {
  for (const std::string text :
       {"no", "~", "1e3", "a: b", "x # y", "say \"hi\" \\", "- a", "日本", "&a", " lead"}) {
    v1::RunSpec spec;
    spec.mutable_data()->set_corpus(text);
    spec.add_stages()->mutable_export_();
    spec.add_stages();
    spec.mutable_prune()->add_protected_experts(3);
    const auto again = ParseRunSpec(ToYaml(spec));
    ASSERT_TRUE(again.ok()) << again.status() << ToYaml(spec);
    EXPECT_TRUE(MessageDifferencer::Equals(spec, *again)) << ToYaml(spec);
  }
}

TEST(DescribeFields, EveryFieldHasHelpAndAppearsOnce) {
  std::set<std::string> paths;
  for (const FieldHelp& field : DescribeFields()) {
    EXPECT_FALSE(field.help.empty()) << field.path;
    EXPECT_TRUE(paths.insert(field.path).second) << field.path;
  }
  for (const char* path :
       {"name", "model.top_k", "stages[].reinforce.reward.safe", "prune.protected_experts[]",
        "stages[].pretrain.optimizer.learning_rate", "stages[].export"}) {
    EXPECT_TRUE(paths.contains(path)) << path;
  }
}

TEST(ToModelConfig, ResolvesZeros) {
  v1::RunSpec spec = Sample();
  const model::ModelConfig config = ToModelConfig(spec.model(), 300);
  EXPECT_EQ(300, config.vocabulary);
  EXPECT_EQ(4, config.kv_heads);
  EXPECT_EQ(16, config.head_dim);
  EXPECT_EQ(64, config.dense_width);
  EXPECT_EQ(model::RouterKind::kSigmoid, config.router);
}

TEST(StageName, TakesTheKindWhenNoneIsGiven) {
  v1::StageSpec stage;
  stage.mutable_reinforce()->set_steps(7);
  EXPECT_STREQ("reinforce", StageName(stage));
  EXPECT_EQ(7, StageSteps(stage));
  stage.set_name("brevity");
  EXPECT_STREQ("brevity", StageName(stage));
  stage.mutable_export_();
  EXPECT_EQ(0, StageSteps(stage));
}

}  // namespace
}  // namespace espalier::spec
