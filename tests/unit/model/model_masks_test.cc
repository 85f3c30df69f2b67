// Goal: a masked expert is out of the function and of the gradients, and is marked so that training
// leaves it as it is. Method: models with masks against models without these experts, in double;
// layouts that mask, move and unmask.
#include <map>
#include <string>

#include "tests/unit/model/model_test_util.h"

namespace espalier::model {
namespace {

// Masks expert 1 of layer 1 and expert 4 of layer 2.
ExpertLayout Masked(ExpertLayout layout) {
  layout.layers[1].masked[1] = layout.layers[2].masked[4] = 1;
  return layout;
}

ExpertLayout Removed(ExpertLayout layout) {
  for (const auto& [layer, at] : {std::pair(1, 1), std::pair(2, 4)}) {
    LayerLayout& one = layout.layers[layer];
    one.ids.erase(one.ids.begin() + at);
    one.ranks.erase(one.ranks.begin() + at);
    one.masked.erase(one.masked.begin() + at);
  }
  return layout;
}

template <typename T>
std::vector<T> Logps(Model<T>& model, const Batch& batch) {
  std::vector<T> logps;
  EXPECT_TRUE(model.Forward(batch, &logps, nullptr).ok());
  return logps;
}

std::string RouterName(int layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.gate.weight";
}

template <typename T>
std::map<std::string, Parameter<T>*> ByName(Model<T>& model) {
  std::map<std::string, Parameter<T>*> parameters;
  for (Parameter<T>* parameter : model.parameters()) parameters[parameter->name] = parameter;
  return parameters;
}

TEST(Masks, EqualRemovalInTheFunctionAndInEveryGradient) {
  for (const RouterKind router : {RouterKind::kSigmoid, RouterKind::kSoftmax}) {
    ModelConfig config = TinyConfig(router);
    config.aux_loss = 0.1;
    OnRanks(2, [&](int rank, collective::Communicator& communicator) {
      const ExpertLayout whole = InitialLayout(config, 2);
      auto masked = MakeModel<double>(config, Masked(whole), communicator);
      auto removed = MakeModel<double>(config, Removed(whole), communicator);
      const Batch batch = RandomBatch({30, 12}, config.vocabulary, rank);
      const auto a = Logps(*masked, batch), b = Logps(*removed, batch);
      for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12) << i;
      ASSERT_TRUE(masked->ForwardBackward(batch, CrossEntropy<double>(84), 1.0).ok());
      ASSERT_TRUE(removed->ForwardBackward(batch, CrossEntropy<double>(84), 1.0).ok());
      EXPECT_NEAR(masked->aux_loss(), removed->aux_loss(), 1e-12);
      const auto mine = ByName(*masked), theirs = ByName(*removed);
      for (const auto& [name, parameter] : mine) {
        if (theirs.count(name) == 0) {  // a masked expert of this rank
          for (const double g : parameter->grad) EXPECT_EQ(g, 0.0) << name;
          continue;
        }
        const std::vector<uint8_t>& frozen = parameter->frozen_rows;
        const std::vector<double>& expected = theirs.at(name)->grad;
        size_t at = 0;
        for (size_t i = 0; i < parameter->grad.size(); ++i) {
          if (!frozen.empty() && frozen[i / config.width] != 0) {  // the router's row of one
            EXPECT_EQ(parameter->grad[i], 0.0) << name;
          } else {
            EXPECT_NEAR(parameter->grad[i], expected[at++], 1e-12) << name << " " << i;
          }
        }
        EXPECT_EQ(at, expected.size()) << name;
      }
    });
  }
}

TEST(Masks, UnmaskingBringsBackTheFormerFunctionBitForBit) {
  for (const RouterKind router : {RouterKind::kSigmoid, RouterKind::kSoftmax}) {
    const ModelConfig config = TinyConfig(router);
    OnRanks(2, [&](int rank, collective::Communicator& communicator) {
      const ExpertLayout whole = InitialLayout(config, 2);
      auto model = MakeModel<float>(config, whole, communicator);
      const Batch batch = RandomBatch({30, 12}, config.vocabulary, rank);
      const std::vector<float> before = Logps(*model, batch);
      ASSERT_TRUE(model->ApplyLayout(Masked(whole)).ok());
      EXPECT_NE(Logps(*model, batch), before);
      EXPECT_EQ(model->route_counts()[1][1], 0);
      EXPECT_EQ(model->route_counts()[2][4], 0);
      ExpertLayout moved = Masked(whole);
      for (int& where : moved.layers[1].ranks) where = 1 - where;
      ASSERT_TRUE(model->ApplyLayout(moved).ok());  // masked experts move like any
      ASSERT_TRUE(model->ApplyLayout(whole).ok());
      EXPECT_EQ(Logps(*model, batch), before);
    });
  }
}

TEST(Masks, SamplingNeverChoosesThem) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  const auto communicator = collective::MakeSingleCommunicator();
  const ExpertLayout whole = InitialLayout(config, 1);
  auto masked = MakeModel<float>(config, Masked(whole), *communicator);
  auto removed = MakeModel<float>(config, Removed(whole), *communicator);
  const std::vector<std::vector<int32_t>> prompts = {{1, 2, 3}, {4, 5}};
  const std::vector<uint64_t> streams = {0, 1};
  const SampleOptions options{.max_new_tokens = 20, .end_token = -1};
  const auto a = masked->Generate(prompts, streams, options);
  const auto b = removed->Generate(prompts, streams, options);
  ASSERT_TRUE(a.ok() && b.ok());
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ((*a)[i].tokens, (*b)[i].tokens);
  EXPECT_EQ(masked->route_counts()[1][1], 0);
}

TEST(Masks, FreezeTheExpertAndItsRowOfTheRouterAndNothingElse) {
  const ModelConfig config = TinyConfig(RouterKind::kSigmoid);
  OnRanks(2, [&](int, collective::Communicator& communicator) {
    const auto expect_frozen = [&](Model<float>& model) {
      for (const auto& [name, parameter] : ByName(model)) {
        std::vector<uint8_t> expected;
        if (name == RouterName(1)) expected = {0, 1, 0, 0, 0};
        if (name == RouterName(2)) expected = {0, 0, 0, 0, 1};
        if (name.find("layers.1.mlp.experts.1.") != std::string::npos ||
            name.find("layers.2.mlp.experts.4.") != std::string::npos) {
          expected.assign(parameter->shape[0], 1);
        }
        EXPECT_EQ(parameter->frozen_rows, expected) << name;
      }
    };
    const ExpertLayout whole = InitialLayout(config, 2);
    // From the start, as after a checkpoint.
    expect_frozen(*MakeModel<float>(config, Masked(whole), communicator));
    auto model = MakeModel<float>(config, whole, communicator);
    for (const auto& [name, parameter] : ByName(*model)) {
      EXPECT_TRUE(parameter->frozen_rows.empty()) << name;
    }
    ExpertLayout moved = Masked(whole);
    for (LayerLayout& layer : moved.layers) {
      for (int& where : layer.ranks) where = 1 - where;
    }
    ASSERT_TRUE(model->ApplyLayout(moved).ok());
    expect_frozen(*model);
    // Rows that go take their marks along.
    ExpertLayout less = moved;
    less.layers[1] = {.ids = {1, 3, 4}, .ranks = {0, 0, 1}, .masked = {1, 0, 0}};
    ASSERT_TRUE(model->ApplyLayout(less).ok());
    EXPECT_EQ(ByName(*model).at(RouterName(1))->frozen_rows, (std::vector<uint8_t>{1, 0, 0}));
    less.layers[1].masked = less.layers[2].masked = {0, 0, 0};
    less.layers[2].masked.resize(5);
    ASSERT_TRUE(model->ApplyLayout(less).ok());
    for (const auto& [name, parameter] : ByName(*model)) {
      EXPECT_TRUE(parameter->frozen_rows.empty()) << name;
    }
  });
}

}  // namespace
}  // namespace espalier::model
