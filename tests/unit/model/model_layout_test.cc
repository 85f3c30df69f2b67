// Goal: a new layout changes where experts are and which, and nothing else. Method: apply layouts
// to small models over several ranks and compare losses, weights and moments before and after.
#include <map>
#include <mutex>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

ModelConfig Config() { return TinyConfig(RouterKind::kSigmoid); }

std::vector<float> Logps(Model<float>& model, const Batch& batch) {
  std::vector<float> logps;
  EXPECT_TRUE(model.Forward(batch, &logps, nullptr).ok());
  return logps;
}

// Every parameter's moments become a function of its name, so that each can be recognised later.
void FillMoments(Model<float>& model) {
  for (Parameter<float>* parameter : model.parameters()) {
    const float tag = static_cast<float>(std::hash<std::string>()(parameter->name) % 1000);
    parameter->moment1.resize(parameter->size());
    parameter->moment2.resize(parameter->size());
    for (int64_t i = 0; i < parameter->size(); ++i) {
      parameter->moment1[i] = tag + static_cast<float>(i);
      parameter->moment2[i] = tag - static_cast<float>(i);
    }
  }
}

struct Content {
  std::vector<float> value, moment1, moment2;
  bool operator==(const Content&) const = default;
};

std::map<std::string, Content> Contents(Model<float>& model) {
  std::map<std::string, Content> contents;
  for (const Parameter<float>* parameter : model.parameters()) {
    contents[parameter->name] = {parameter->value, parameter->moment1, parameter->moment2};
  }
  return contents;
}

TEST(ModelLayout, MovingExpertsChangesNoLossAndMomentsMoveAlong) {
  const ModelConfig config = Config();
  std::mutex mutex;
  std::map<std::string, Content> before, after;
  OnRanks(2, [&](int rank, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
    FillMoments(*model);
    const Batch batch = RandomBatch({30, 12}, config.vocabulary, rank);
    const std::vector<float> logps = Logps(*model, batch);
    {
      std::lock_guard<std::mutex> lock(mutex);
      before.merge(Contents(*model));
    }
    ExpertLayout layout = model->layout();
    for (LayerLayout& layer : layout.layers) {
      for (int& where : layer.ranks) where = 1 - where;
    }
    const absl::StatusOr<int64_t> sent = model->ApplyLayout(layout);
    ASSERT_TRUE(sent.ok()) << sent.status();
    const int64_t experts_sent = rank == 0 ? 6 : 4;  // of two MoE layers with 3 and 2 of 5 experts
    EXPECT_EQ(*sent,
              experts_sent * (config.ExpertParams() * 3 * static_cast<int64_t>(sizeof(float)) + 1));
    EXPECT_EQ(model->layout(), layout);
    EXPECT_EQ(Logps(*model, batch), logps);
    std::lock_guard<std::mutex> lock(mutex);
    for (auto& [name, content] : Contents(*model)) {
      const bool expert = name.find(".experts.") != std::string::npos;
      EXPECT_FALSE(expert && after.contains(name)) << name << " is on two ranks";
      after[name] = content;
    }
  });
  EXPECT_EQ(before, after);
}

TEST(ModelLayout, RemovingAnExpertEqualsMaskingIt) {
  for (const RouterKind router : {RouterKind::kSigmoid, RouterKind::kSoftmax}) {
    const ModelConfig config = TinyConfig(router);
    OnRanks(2, [&](int rank, collective::Communicator& communicator) {
      auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
      FillMoments(*model);
      model->selection_bias(1) = {0.01f, 0.02f, 0.03f, 0.04f, 0.05f};
      const Batch batch = RandomBatch({30, 12}, config.vocabulary, rank);
      const std::vector<float> whole = Logps(*model, batch);
      ExpertLayout masked = model->layout(), removed = masked;
      masked.layers[1].masked[1] = masked.layers[2].masked[4] = 1;
      removed.layers[1] = {.ids = {0, 2, 3, 4}, .ranks = {0, 0, 1, 1}, .masked = {0, 0, 0, 0}};
      removed.layers[2] = {.ids = {0, 1, 2, 3}, .ranks = {0, 1, 0, 1}, .masked = {0, 0, 0, 0}};
      ASSERT_TRUE(model->ApplyLayout(masked).ok());
      const std::vector<float> with_mask = Logps(*model, batch);
      EXPECT_NE(with_mask, whole);
      const int64_t parameters = model->TotalParameters();
      const std::map<std::string, Content> before = Contents(*model);

      ASSERT_TRUE(model->ApplyLayout(removed).ok());
      const std::vector<float> without = Logps(*model, batch);
      ASSERT_EQ(without.size(), with_mask.size());
      for (size_t i = 0; i < without.size(); ++i) EXPECT_NEAR(without[i], with_mask[i], 1e-5) << i;
      EXPECT_EQ(model->TotalParameters(),
                parameters - 2 * config.ExpertParams() - 2 * config.width);
      EXPECT_EQ(model->selection_bias(1), (std::vector<float>{0.01f, 0.03f, 0.04f, 0.05f}));
      // Router rows left are those of the experts left, with their moments.
      const Content router_after = Contents(*model).at("model.layers.1.mlp.gate.weight");
      const Content& router_before = before.at("model.layers.1.mlp.gate.weight");
      ASSERT_EQ(router_after.value.size(), static_cast<size_t>(4 * config.width));
      for (int row = 0; row < 4; ++row) {
        const int old_row = row == 0 ? 0 : row + 1;
        for (int i = 0; i < config.width; ++i) {
          EXPECT_EQ(router_after.value[row * config.width + i],
                    router_before.value[old_row * config.width + i]);
          EXPECT_EQ(router_after.moment1[row * config.width + i],
                    router_before.moment1[old_row * config.width + i]);
        }
      }
      // And training goes on.
      EXPECT_TRUE(model->ForwardBackward(batch, CrossEntropy<float>(84), 1.0f).ok());
    });
  }
}

TEST(ModelLayout, AnInvalidLayoutChangesNothingOnAnyRank) {
  const ModelConfig config = Config();
  OnRanks(2, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 2), communicator);
    const ExpertLayout initial = model->layout();
    const auto refused = [&](const ExpertLayout& layout) {
      const absl::StatusOr<int64_t> sent = model->ApplyLayout(layout);
      EXPECT_EQ(sent.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(model->layout(), initial);
      return std::string(sent.status().message());
    };
    ExpertLayout layout = initial;
    layout.layers[1].ranks[0] = 2;
    EXPECT_EQ(refused(layout), "layout of layer 1: expert 0 is on rank 2 of 2");
    layout = initial;
    std::swap(layout.layers[2].ids[0], layout.layers[2].ids[1]);
    EXPECT_EQ(refused(layout), "layout of layer 2: expert 0 follows 1; ids must ascend");
    layout = initial;
    layout.layers[2].masked = {1, 1, 1, 1, 0};
    EXPECT_EQ(refused(layout),
              "layout of layer 2: 1 experts may be chosen but top_k is 2; keep at least that many");
    layout = initial;
    layout.layers[0] = initial.layers[1];
    EXPECT_EQ(refused(layout), "layout of layer 0: a dense layer has no experts; leave it empty");
    layout = initial;
    layout.layers.pop_back();
    EXPECT_EQ(refused(layout), "the layout has 2 layers, the model 3");
  });
}

TEST(ModelLayout, ARemovedExpertCannotComeBack) {
  const ModelConfig config = Config();
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    auto model = MakeModel<float>(config, InitialLayout(config, 1), communicator);
    const ExpertLayout initial = model->layout();
    ExpertLayout less = initial;
    less.layers[1] = {.ids = {0, 1, 3}, .ranks = {0, 0, 0}, .masked = {0, 0, 0}};
    ASSERT_TRUE(model->ApplyLayout(less).ok());
    EXPECT_EQ(model->ApplyLayout(initial).status().message(),
              "layout of layer 1: expert 2 was removed before and cannot come back");
    EXPECT_EQ(model->layout(), less);
  });
}

TEST(ModelLayout, WeightsDependNeitherOnRankCountNorOnWhoIsAlive) {
  const ModelConfig config = Config();
  std::map<std::string, Content> one;
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    one = Contents(*MakeModel<float>(config, InitialLayout(config, 1), communicator));
  });
  OnRanks(3, [&](int, collective::Communicator& communicator) {
    for (const auto& [name, content] :
         Contents(*MakeModel<float>(config, InitialLayout(config, 3), communicator))) {
      EXPECT_EQ(content, one.at(name)) << name;
    }
  });
  OnRanks(1, [&](int, collective::Communicator& communicator) {
    ExpertLayout less = InitialLayout(config, 1);
    less.layers[1] = {.ids = {0, 1, 3}, .ranks = {0, 0, 0}, .masked = {0, 0, 0}};
    const auto contents = Contents(*MakeModel<float>(config, less, communicator));
    EXPECT_EQ(contents.count("model.layers.1.mlp.experts.2.up_proj.weight"), 0u);
    EXPECT_EQ(contents.at("model.layers.1.mlp.experts.3.up_proj.weight"),
              one.at("model.layers.1.mlp.experts.3.up_proj.weight"));
    const std::vector<float>&row = contents.at("model.layers.1.mlp.gate.weight").value,
          &all = one.at("model.layers.1.mlp.gate.weight").value;
    EXPECT_TRUE(std::equal(row.begin() + 2 * config.width, row.end(),
                           all.begin() + 3 * config.width, all.begin() + 4 * config.width));
  });
}

TEST(ModelLayout, InitialSharesAreEqualAndContiguous) {
  ModelConfig config = Config();
  config.experts = 8;
  const ExpertLayout layout = InitialLayout(config, 3);
  EXPECT_TRUE(ValidateLayout(config, layout, 3).ok());
  EXPECT_TRUE(layout.layers[0].ids.empty());
  EXPECT_EQ(layout.layers[1].ranks, (std::vector<int>{0, 0, 0, 1, 1, 1, 2, 2}));
  EXPECT_FALSE(ValidateLayout(config, layout, 2).ok());
}

}  // namespace
}  // namespace espalier::model
