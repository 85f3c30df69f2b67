// Goal: log-probabilities, entropies and the gradient of logits are the CPU's at any vocabulary,
// aligned rows or not. The CPU's head makes its logits from hidden states: with width 1 and hidden
// states that are powers of two, those logits are exact in every element type.
#include "kernels/cuda/head.h"

#include "kernels/head.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows, vocabulary;
  double scale;
};
const Shape kShapes[] = {{1, 1, 1},      {3, 2, 1},     {5, 7, 3},     {33, 1000, 3},
                         {4, 4099, 30},  {9, 32000, 3}, {3, 50257, 3}, {3, 50304, 10},
                         {2, 128256, 3}, {600, 515, 1}};

struct Case {
  Shape shape;
  std::vector<float> logits, dlogp;
  std::vector<int32_t> targets;
  std::vector<double> logp, entropy, lse, gradient;
};

template <typename T>
Case Draw(Shape shape) {
  Case c{shape,
         {},
         RandomValues<float>(shape.rows),
         RandomInts(shape.rows, 0, static_cast<int32_t>(shape.vocabulary))};
  for (int64_t row = 2; row < shape.rows; row += 3) c.targets[row] = -1;
  const auto weight = Doubles(RandomValues<T>(shape.vocabulary, shape.scale));
  std::vector<double> hidden;
  for (int64_t row = 0; row < shape.rows; ++row) {
    hidden.push_back(std::vector<double>{1, -1, 0.5, -2}[row % 4]);
    for (const double w : weight) c.logits.push_back(static_cast<float>(hidden.back() * w));
  }
  c.logp.resize(shape.rows);
  c.entropy.resize(shape.rows);
  c.lse.resize(shape.rows);
  kernels::Buffer<double> logits;
  const kernels::HeadArgs<double> args{.hidden = hidden.data(),
                                       .weight = weight.data(),
                                       .targets = c.targets.data(),
                                       .logp = c.logp.data(),
                                       .entropy = c.entropy.data(),
                                       .lse = c.lse.data(),
                                       .rows = shape.rows,
                                       .width = 1,
                                       .vocabulary = shape.vocabulary,
                                       .keep = true};
  kernels::Head(args, logits, Pool());
  const auto dlogp = Doubles(c.dlogp);
  std::vector<double> dhidden(shape.rows), dweight(shape.vocabulary, 0.0);
  kernels::HeadBackward(args, dlogp.data(), dhidden.data(), dweight.data(), logits, Pool());
  c.gradient.assign(
      logits.data(),
      logits.data() + shape.rows * shape.vocabulary);  // it stands where the logits stood
  return c;
}

template <typename T>
class HeadTest : public ::testing::Test {};
TYPED_TEST_SUITE(HeadTest, Elements);

TYPED_TEST(HeadTest, LogProbabilitiesAndEntropiesAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.vocabulary);
    const Case c = Draw<T>(shape);
    const Device<T> logits(c.logits);
    const Device<int32_t> targets(c.targets);
    const Device<float> logp(shape.rows), lse(shape.rows), entropy(shape.rows), again(shape.rows);
    LogProbArgs<T> args{.logits = logits.get(),
                        .targets = targets.get(),
                        .logp = logp.get(),
                        .lse = lse.get(),
                        .entropy = entropy.get(),
                        .rows = shape.rows,
                        .vocabulary = shape.vocabulary};
    ASSERT_EQ(cudaSuccess, LogProb(args, nullptr));
    // Logits are exact; sums, exponentials and logarithms are fp32's, on values of up to a hundred:
    // 1e-5 of that.
    const double bound = 1e-6 * (1 + 10 * shape.scale) * std::sqrt(static_cast<double>(shape.rows));
    EXPECT_LT(ErrorOver(logp.Floats(), c.logp, 1.0), bound);
    EXPECT_LT(ErrorOver(lse.Floats(), c.lse, 1.0), bound);
    EXPECT_LT(ErrorOver(entropy.Floats(), c.entropy, 1.0), bound);
    for (int64_t row = 0; row < shape.rows; ++row) {
      if (c.targets[row] < 0) {
        EXPECT_EQ(0.0f, logp.Floats()[row]);
      }
    }
    args.entropy = nullptr;
    args.logp = again.get();
    ASSERT_EQ(cudaSuccess, LogProb(args, nullptr));
    EXPECT_TRUE(SameBits(logp.Raw(), again.Raw()));
  }
}

TYPED_TEST(HeadTest, GradientOfLogitsIsTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.vocabulary);
    const Case c = Draw<T>(shape);
    const Device<T> logits(c.logits);
    const Device<float> lse(c.lse), dlogp(c.dlogp);
    ASSERT_EQ(cudaSuccess, LogitsGradient(logits.get(), Device<int32_t>(c.targets).get(), lse.get(),
                                          dlogp.get(), shape.rows, shape.vocabulary, nullptr));
    // e^(logit - lse) carries the rounding of lse: 4e-6 where it is near 100. A likely target's 1 -
    // p may cancel, so the scale is that of dlogp.
    EXPECT_LT(
        ErrorOver(logits.Floats(), c.gradient, std::max(Norm(c.gradient), 0.1 * Norm(c.dlogp))),
        2 * OneRounding<T>());
    const auto got = logits.Floats();
    for (int64_t row = 0; row < shape.rows; ++row) {
      if (c.targets[row] >= 0) continue;
      for (int64_t i = 0; i < shape.vocabulary; ++i)
        ASSERT_EQ(0.0f, got[row * shape.vocabulary + i]);
    }
  }
}

TYPED_TEST(HeadTest, OneKernelGivesWhatTwoGive) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.vocabulary);
    const Case c = Draw<T>(shape);
    const Device<T> logits(c.logits);
    const Device<int32_t> targets(c.targets);
    const Device<float> dlogp(c.dlogp), logp(shape.rows), want_logp(shape.rows), lse(shape.rows);
    ASSERT_EQ(cudaSuccess, LogProb<T>({.logits = logits.get(),
                                       .targets = targets.get(),
                                       .logp = want_logp.get(),
                                       .lse = lse.get(),
                                       .rows = shape.rows,
                                       .vocabulary = shape.vocabulary},
                                      nullptr));
    ASSERT_EQ(cudaSuccess, LogProbAndGradient(logits.get(), targets.get(), dlogp.get(), logp.get(),
                                              shape.rows, shape.vocabulary, nullptr));
    // The sums go over other numbers of threads.
    EXPECT_LT(ErrorOver(logp.Floats(), want_logp.Floats(), std::max(1.0, Norm(want_logp.Floats()))),
              1e-5);
    EXPECT_LT(
        ErrorOver(logits.Floats(), c.gradient, std::max(Norm(c.gradient), 0.1 * Norm(c.dlogp))),
        2 * OneRounding<T>());
  }
}

TYPED_TEST(HeadTest, EqualLogitsHaveTheEntropyOfTheVocabulary) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const float value : {-1000.0f, 0.0f, 512.0f}) {
    const Device<T> logits(std::vector<float>(32001, value));
    const Device<float> logp(1), lse(1), entropy(1);
    ASSERT_EQ(cudaSuccess,
              LogProb(LogProbArgs<T>{.logits = logits.get(),
                                     .targets = Device<int32_t>(std::vector<int32_t>{77}).get(),
                                     .logp = logp.get(),
                                     .lse = lse.get(),
                                     .entropy = entropy.get(),
                                     .rows = 1,
                                     .vocabulary = 32001},
                      nullptr));
    EXPECT_NEAR(std::log(32001.0), entropy.Floats()[0], 1e-5);
    EXPECT_NEAR(-std::log(32001.0), logp.Floats()[0], 1e-4);  // lse near 1000 has steps of 6e-5
  }
}

}  // namespace
}  // namespace espalier::kernels::cuda
