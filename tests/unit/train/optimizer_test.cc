// Goal: updates equal plain AdamW written out in double, and norms count every gradient once
// whatever the number of ranks. Method: random parameters in a model without layers.
#include "libs/train/optimizer.h"

#include <cmath>
#include <limits>
#include <random>

#include "gtest/gtest.h"
#include "tests/unit/train/fake_model.h"
#include "tests/unit/train/ranks.h"

namespace espalier::train {
namespace {

std::vector<float> Random(int count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

v1::OptimizerSpec Spec() {
  v1::OptimizerSpec spec;
  spec.set_learning_rate(0.01);
  spec.set_beta1(0.9);
  spec.set_beta2(0.95);
  spec.set_epsilon(1e-8);
  spec.set_weight_decay(0.1);
  spec.set_clip_norm(1.0);
  return spec;
}

// AdamW as its paper writes it, one element at a time.
struct PlainAdamW {
  std::vector<double> value, m, v;
  explicit PlainAdamW(const std::vector<float>& start)
      : value(start.begin(), start.end()), m(start.size()), v(start.size()) {}
  void Step(const std::vector<float>& grad, double lr, int t, double scale, double decay) {
    for (size_t i = 0; i < value.size(); ++i) {
      const double g = grad[i] * scale;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double m_hat = m[i] / (1 - std::pow(0.9, t));
      const double v_hat = v[i] / (1 - std::pow(0.95, t));
      value[i] -= lr * (m_hat / (std::sqrt(v_hat) + 1e-8) + decay * value[i]);
    }
  }
};

TEST(Optimizer, EqualsPlainAdamWOverManySteps) {
  const auto communicator = collective::MakeSingleCommunicator();
  FakeModel model(communicator.get());
  auto* matrix = model.Add("matrix", Random(1000, 1), Random(1000, 2), true, false);
  auto* norm = model.Add("norm", Random(33, 3), Random(33, 4), false, false);
  auto* expert = model.Add("expert", Random(77, 5), Random(77, 6), true, true);
  PlainAdamW plain_matrix(matrix->value), plain_norm(norm->value), plain_expert(expert->value);
  Optimizer optimizer(model);
  for (int t = 1; t <= 20; ++t) {
    matrix->grad = Random(1000, 100 + t);
    norm->grad = Random(33, 200 + t);
    expert->grad = Random(77, 300 + t);
    const double lr = 0.01 / t, scale = 1.0 / (1 + t % 3);
    ASSERT_TRUE(optimizer.ReduceDense().ok());
    ASSERT_TRUE(optimizer.Apply(Spec(), lr, t, scale).ok());
    plain_matrix.Step(matrix->grad, lr, t, scale, 0.1);
    plain_norm.Step(norm->grad, lr, t, scale, 0.0);
    plain_expert.Step(expert->grad, lr, t, scale, 0.1);
  }
  for (size_t i = 0; i < 1000; ++i) ASSERT_NEAR(matrix->value[i], plain_matrix.value[i], 2e-6) << i;
  for (size_t i = 0; i < 33; ++i) ASSERT_NEAR(norm->value[i], plain_norm.value[i], 2e-6) << i;
  for (size_t i = 0; i < 77; ++i) ASSERT_NEAR(expert->value[i], plain_expert.value[i], 2e-6) << i;
}

TEST(Optimizer, FrozenRowsKeepValueAndMomentsAndTheOthersTrainAsEver) {
  const auto communicator = collective::MakeSingleCommunicator();
  FakeModel model(communicator.get()), free(communicator.get());
  auto* router = model.Add("router", Random(20, 1), Random(20, 2), true, false);
  auto* expert = model.Add("expert", Random(12, 3), Random(12, 4), true, true);
  auto* free_router = free.Add("router", Random(20, 1), Random(20, 2), true, false);
  free.Add("expert", Random(12, 3), Random(12, 4), true, true);
  Optimizer optimizer(model), free_optimizer(free);
  // Momentum first: without freezing it would go on for steps.
  for (int t = 1; t <= 3; ++t) {
    ASSERT_TRUE(optimizer.Apply(Spec(), 0.01, t, 1.0).ok());
    ASSERT_TRUE(free_optimizer.Apply(Spec(), 0.01, t, 1.0).ok());
  }
  const model::Parameter<float> router_before = *router, expert_before = *expert;
  router->frozen_rows = {0, 1, 1, 0, 1};  // rows of 4
  expert->frozen_rows = {1, 1, 1};
  for (int t = 4; t <= 8; ++t) {
    ASSERT_TRUE(optimizer.Apply(Spec(), 0.01, t, 1.0).ok());
    ASSERT_TRUE(free_optimizer.Apply(Spec(), 0.01, t, 1.0).ok());
  }
  EXPECT_EQ(expert->value, expert_before.value);
  EXPECT_EQ(expert->moment1, expert_before.moment1);
  EXPECT_EQ(expert->moment2, expert_before.moment2);
  for (int i = 0; i < 20; ++i) {
    const bool frozen = router->frozen_rows[i / 4] != 0;
    const model::Parameter<float>& like = frozen ? router_before : *free_router;
    EXPECT_EQ(router->value[i], like.value[i]) << i;
    EXPECT_EQ(router->moment1[i], like.moment1[i]) << i;
    EXPECT_EQ(router->moment2[i], like.moment2[i]) << i;
  }
  router->frozen_rows.clear();
  ASSERT_TRUE(optimizer.Apply(Spec(), 0.01, 9, 1.0).ok());
  EXPECT_NE(router->value[5], router_before.value[5]);
}

TEST(Optimizer, SumsDenseGradientsAndCountsThemOnceInTheNorm) {
  constexpr int kRanks = 3;
  OnRanks(kRanks, [](collective::Communicator& communicator) {
    const float rank = static_cast<float>(communicator.rank());
    FakeModel model(&communicator);
    // Reduced: {1 + 2 + 3, 0 + 10 + 20} = {6, 30}.
    auto* dense = model.Add("dense", {0, 0}, {rank + 1, rank * 10}, true, false);
    // An expert of each rank: squared norm (rank + 1)^2.
    model.Add("expert", {0}, {rank + 1}, true, true);
    Optimizer optimizer(model);
    ASSERT_TRUE(optimizer.ReduceDense().ok());
    EXPECT_EQ(optimizer.MeasureNorms()->dense, 6.0 * 6 + 30.0 * 30);
    EXPECT_EQ(optimizer.MeasureNorms()->experts, (rank + 1) * (rank + 1));
    ASSERT_TRUE(optimizer.Apply(Spec(), 0.01, 1, 1.0).ok());
    // First AdamW step from zero is -lr * sign(gradient).
    EXPECT_NEAR(dense->value[0], -0.01, 1e-6);
    EXPECT_NEAR(dense->moment1[1], 3.0, 1e-5);
  });
}

TEST(Optimizer, SumsBuffersOfSeveralBucketsWhole) {
  // More than two buckets, and a length that no bucket divides.
  constexpr int kCount = (1 << 21) + 12345;
  OnRanks(2, [](collective::Communicator& communicator) {
    FakeModel model(&communicator);
    const float part = communicator.rank() == 0 ? 0.25f : 0.5f;
    model.Add("a", std::vector<float>(kCount), std::vector<float>(kCount, part), true, false);
    model.Add("b", std::vector<float>(7), std::vector<float>(7, part), true, false);
    Optimizer optimizer(model);
    ASSERT_TRUE(optimizer.ReduceDense().ok());
    EXPECT_DOUBLE_EQ(optimizer.MeasureNorms()->dense, (kCount + 7) * 0.75 * 0.75);
  });
}

TEST(Optimizer, ResetMomentsForgetsTheLastStage) {
  const auto communicator = collective::MakeSingleCommunicator();
  FakeModel model(communicator.get());
  auto* parameter = model.Add("p", {1, 2}, {3, 4}, true, false);
  Optimizer optimizer(model);
  ASSERT_TRUE(optimizer.ResetMoments().ok());  // before the first update there is nothing to forget
  ASSERT_TRUE(optimizer.Apply(Spec(), 0.01, 1, 1.0).ok());
  ASSERT_NE(parameter->moment1[0], 0.0f);
  ASSERT_TRUE(optimizer.ResetMoments().ok());
  EXPECT_EQ(parameter->moment1, (std::vector<float>{0, 0}));
  EXPECT_EQ(parameter->moment2, (std::vector<float>{0, 0}));
}

TEST(Optimizer, NormIsNotFiniteWhenOneGradientIsNot) {
  const auto communicator = collective::MakeSingleCommunicator();
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    FakeModel model(communicator.get());
    std::vector<float> grad(100, 1.0f);
    grad[57] = bad;
    model.Add("p", std::vector<float>(100), grad, true, false);
    Optimizer optimizer(model);
    EXPECT_FALSE(std::isfinite(optimizer.MeasureNorms()->dense));
  }
}

TEST(Optimizer, LargestFloatsDoNotOverflowTheNorm) {
  const auto communicator = collective::MakeSingleCommunicator();
  FakeModel model(communicator.get());
  model.Add("p", std::vector<float>(10), std::vector<float>(10, 3e38f), true, false);
  EXPECT_TRUE(std::isfinite(Optimizer(model).MeasureNorms()->dense));
}

TEST(ClipScale, OnlyEverShrinks) {
  EXPECT_EQ(ClipScale(0.5, 1.0), 1.0);
  EXPECT_EQ(ClipScale(4.0, 1.0), 0.25);
  EXPECT_EQ(ClipScale(4.0, 0.0), 1.0);
  EXPECT_EQ(ClipScale(0.0, 1.0), 1.0);
}

}  // namespace
}  // namespace espalier::train
