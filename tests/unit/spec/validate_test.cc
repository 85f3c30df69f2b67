// Goal: no spec that cannot run passes, and each refusal names the field. Method: a good spec with
// one thing wrong at a time.
#include "tests/unit/spec/spec_samples.h"

namespace espalier::spec {
namespace {

v1::RunSpec WithExport(v1::ExportFormat format) {
  v1::RunSpec spec = Sample();
  spec.mutable_model()->set_router(v1::ROUTER_KIND_SOFTMAX);
  spec.add_stages()->mutable_export_()->set_format(format);
  return spec;
}

TEST(ValidateRunSpec, ExportFormatsNeedTheirArchitecture) {
  EXPECT_TRUE(ValidateRunSpec(WithExport(v1::EXPORT_FORMAT_MIXTRAL)).ok());
  EXPECT_THAT(MessageOf(ValidateRunSpec(WithExport(v1::EXPORT_FORMAT_GLM4_MOE))),
              ::testing::HasSubstr("model.router"));
  EXPECT_THAT(MessageOf(ValidateRunSpec(WithExport(v1::EXPORT_FORMAT_OLMOE))),
              ::testing::HasSubstr("model.qk_norm: found none, stages[1].export.format olmoe needs full"));
  v1::RunSpec spec = WithExport(v1::EXPORT_FORMAT_QWEN3_MOE);
  spec.mutable_model()->set_qk_norm(v1::QK_NORM_HEAD);
  EXPECT_TRUE(ValidateRunSpec(spec).ok()) << ValidateRunSpec(spec);
  spec.mutable_model()->set_router(v1::ROUTER_KIND_SIGMOID);
  spec.mutable_model()->set_shared_expert_width(32);
  spec.mutable_model()->set_routed_scaling(2.5);
  const std::string message = MessageOf(ValidateRunSpec(spec));
  EXPECT_THAT(message, ::testing::HasSubstr("model.router: found sigmoid"));
  EXPECT_THAT(message, ::testing::HasSubstr("model.shared_expert_width: found 32"));
  EXPECT_THAT(message, ::testing::HasSubstr("model.routed_scaling: found 2.5"));
}

TEST(ValidateRunSpec, ACheckpointDecidesWhatIsAbsent) {
  auto spec = ParseRunSpec(kSample);
  ASSERT_TRUE(spec.ok());
  spec->mutable_model()->set_start_from("olmoe");
  spec->mutable_model()->set_width(66);  // no multiple of heads: the checkpoint knows how wide they are
  spec->mutable_model()->set_rope_theta(7);
  spec->add_stages()->mutable_export_()->set_format(v1::EXPORT_FORMAT_OLMOE);
  FillDefaults(&*spec);
  EXPECT_FALSE(spec->model().has_router());
  EXPECT_FALSE(spec->model().has_qk_norm());
  EXPECT_EQ(7, spec->model().rope_theta());
  EXPECT_TRUE(spec->model().has_aux_loss());
  EXPECT_TRUE(ValidateRunSpec(*spec).ok()) << ValidateRunSpec(*spec);
  v1::RunSpec again = *spec;
  FillDefaults(&again);
  EXPECT_EQ(spec->SerializeAsString(), again.SerializeAsString());
}

TEST(ConfigOfStart, TakesTheCheckpointsAndNamesWhatDisagrees) {
  auto spec = ParseRunSpec(kSample);
  ASSERT_TRUE(spec.ok());
  spec->mutable_model()->set_start_from("x");
  spec->mutable_model()->set_aux_loss(0.5);
  FillDefaults(&*spec);
  model::ModelConfig start = ToModelConfig(Sample().model(), 300);
  start.router = model::RouterKind::kSoftmax;
  start.qk_norm = model::QkNorm::kFull;
  start.rope_theta = 123;
  const auto config = ConfigOfStart(spec->model(), start);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(model::QkNorm::kFull, config->qk_norm);
  EXPECT_EQ(123, config->rope_theta);
  EXPECT_EQ(0.5, config->aux_loss);
  start.dense_layers = 1;
  spec->mutable_model()->set_tie_embeddings(true);
  const std::string message = MessageOf(ConfigOfStart(spec->model(), start).status());
  EXPECT_THAT(message, ::testing::HasSubstr("model.dense_layers: found 0, the checkpoint of model.start_from has 1"));
  EXPECT_THAT(message, ::testing::HasSubstr("model.tie_embeddings: found true"));
}

using ::testing::HasSubstr;

// Changes to a spec with all four stages, and the field that the error must name.
struct Case {
  const char* path;
  const char* value;
  const char* named;
};

v1::RunSpec Tiny() {
  auto spec = ParseRunSpec(ReadText("deploy/runs/tiny.yaml"));
  EXPECT_TRUE(spec.ok()) << spec.status();
  FillDefaults(&*spec);
  return *std::move(spec);
}

class ValidateRefuses : public testing::TestWithParam<Case> {};

TEST_P(ValidateRefuses, NamesTheField) {
  v1::RunSpec spec = Tiny();
  ASSERT_TRUE(ValidateRunSpec(spec).ok()) << ValidateRunSpec(spec);
  const Case& wrong = GetParam();
  const absl::Status set = SetField(&spec, wrong.path, wrong.value);
  ASSERT_TRUE(set.ok()) << set;
  FillDefaults(&spec);
  EXPECT_THAT(MessageOf(ValidateRunSpec(spec)), HasSubstr(std::string(wrong.named) + ":"));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ValidateRefuses,
    testing::Values(
        Case{"name", "\"\"", "name"}, Case{"name", "a/b", "name"}, Case{"name", "..", "name"},
        Case{"name", "née", "name"}, Case{"workers.count", "0", "workers.count"},
        Case{"workers.count", "9", "workers.count"},
        Case{"workers.count", "16385", "workers.count"}, Case{"model", "{}", "model.layers"},
        Case{"model.layers", "0", "model.layers"}, Case{"model.layers", "1025", "model.layers"},
        Case{"model.width", "66", "model.width"}, Case{"model.heads", "3", "model.width"},
        Case{"model.head_dim", "15", "model.head_dim"},
        Case{"model.kv_heads", "3", "model.kv_heads"}, Case{"model.top_k", "500", "model.top_k"},
        Case{"model.top_k", "9", "model.top_k"},
        Case{"model.dense_layers", "2", "model.dense_layers"},
        Case{"model.router", "softmax", "model.router"},
        Case{"model.shared_expert_width", "33", "model.shared_expert_width"},
        Case{"model.init_std", "0", "model.init_std"},
        Case{"model.aux_loss", "-1", "model.aux_loss"}, Case{"data.corpus", "\"\"", "data.corpus"},
        Case{"data.vocabulary", "259", "data.vocabulary"},
        Case{"data.heldout_fraction", "0.6", "data.heldout_fraction"},
        Case{"data.task.steps_min", "3", "data.task.steps_min"},
        Case{"data.task.operand_max", "21", "data.task.operand_max"},
        Case{"stages", "[]", "stages"}, Case{"stages", "[{}]", "stages[0]"},
        Case{"stages", "[{name: x}]", "stages[0]"},
        Case{"stages[0].pretrain.steps", "0", "stages[0].pretrain.steps"},
        Case{"stages[0].pretrain.batch_sequences", "1", "stages[0].pretrain.batch_sequences"},
        Case{"stages[0].pretrain.optimizer.final_learning_rate", "0.1",
             "stages[0].pretrain.optimizer.final_learning_rate"},
        Case{"stages[0].pretrain.optimizer.learning_rate", "0",
             "stages[0].pretrain.optimizer.learning_rate"},
        Case{"stages[1].finetune.batch_traces", "1", "stages[1].finetune.batch_traces"},
        Case{"stages[2].reinforce.prompts", "1", "stages[2].reinforce.prompts"},
        Case{"stages[2].reinforce.group_size", "1", "stages[2].reinforce.group_size"},
        Case{"stages[2].reinforce.minibatches", "17", "stages[2].reinforce.minibatches"},
        Case{"stages[2].reinforce.entropy_share", "0", "stages[2].reinforce.entropy_share"},
        Case{"stages[2].reinforce.temperature", "0", "stages[2].reinforce.temperature"},
        Case{"stages[2].reinforce.reward.reflection_min", "3",
             "stages[2].reinforce.reward.reflection_min"},
        Case{"stages[2].reinforce.reward.length_buffer", "65",
             "stages[2].reinforce.reward.length_buffer"},
        Case{"prune.keep_min", "9", "prune.keep_min"}, Case{"prune.beta", "0.95", "prune.beta"},
        Case{"prune.protected_experts", "[1, 8]", "prune.protected_experts[1]"},
        Case{"prune.fixed_step", "61", "prune.fixed_step"},
        Case{"stages", "[{export: {}}]", "prune.enabled"},
        Case{"placement.trigger", "0.5", "placement.trigger"},
        Case{"checkpoints.keep", "0", "checkpoints.keep"},
        Case{"reports.steps_per_report", "0", "reports.steps_per_report"}));

TEST(ValidateRunSpec, AcceptsTheRunsThatShip) {
  for (const char* path : {"deploy/runs/tiny.yaml", "deploy/runs/quickstart.yaml"}) {
    auto spec = ParseRunSpec(ReadText(path));
    ASSERT_TRUE(spec.ok()) << path << ": " << spec.status();
    FillDefaults(&*spec);
    EXPECT_TRUE(ValidateRunSpec(*spec).ok()) << path << ": " << ValidateRunSpec(*spec);
  }
}

TEST(ValidateRunSpec, ListsEverythingThatIsMissing) {
  v1::RunSpec spec;
  FillDefaults(&spec);
  const std::string errors = MessageOf(ValidateRunSpec(spec));
  for (const char* path : {"name:", "model:", "data:", "stages:"})
    EXPECT_THAT(errors, HasSubstr(path));
}

TEST(ValidateRunSpec, NeedsTheTaskOnlyForStagesThatUseIt) {
  v1::RunSpec spec = Tiny();
  spec.mutable_data()->clear_task();
  EXPECT_THAT(MessageOf(ValidateRunSpec(spec)), HasSubstr("data.task"));
  v1::RunSpec pretrain = Sample();
  pretrain.mutable_data()->clear_task();
  EXPECT_TRUE(ValidateRunSpec(pretrain).ok());
}

TEST(ValidateRunSpec, RefusesEnumValuesFromTheFuture) {
  v1::RunSpec spec = Sample();
  spec.mutable_model()->set_router(static_cast<v1::RouterKind>(77));
  EXPECT_THAT(MessageOf(ValidateRunSpec(spec)), HasSubstr("model.router: found 77"));
}

}  // namespace
}  // namespace espalier::spec
