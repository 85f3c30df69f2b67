// Goal: scores, choices, weights, gradients and the auxiliary loss are the CPU's. Choices are
// exact: given the device's own scores they must be the k best of score + bias, whose sum is one
// fp32 addition on either side.
#include "kernels/cuda/router.h"

#include "kernels/router.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t tokens;
  int experts, top_k;
};
const Shape kShapes[] = {{1, 1, 1},    {1, 8, 2},      {5, 33, 4},   {1000, 64, 8},
                         {257, 32, 4}, {100, 96, 6},   {64, 160, 6}, {70, 300, 10},
                         {33, 512, 8}, {20, 1000, 32}, {9, 1024, 1}, {3000, 16, 16}};

struct Inputs {
  Shape shape;
  RouterScore score;
  bool normalize;
  float scaling;
  std::vector<float> logits, bias;
  std::vector<uint8_t> masked;
  std::vector<int32_t> choice;  // when given
};

Inputs Draw(Shape shape, RouterScore score, bool normalize) {
  Inputs in{shape,
            score,
            normalize,
            2.5f,
            RandomValues<float>(shape.tokens * shape.experts, 2.0),
            RandomValues<float>(shape.experts, 0.1),
            std::vector<uint8_t>(shape.experts, 0),
            {}};
  const auto order = RandomOrder(shape.experts);
  for (int i = 0; i < (shape.experts - shape.top_k) / 3; ++i) in.masked[order[i]] = 1;
  return in;
}

struct Routed {
  std::vector<float> scores, weight;
  std::vector<int32_t> choice;
};
struct OnDevice {
  explicit OnDevice(const Inputs& in)
      : scores(in.logits),
        bias(in.bias),
        weight(in.shape.tokens * in.shape.top_k),
        masked(in.masked),
        choice(in.choice.empty() ? Device<int32_t>(in.shape.tokens * in.shape.top_k)
                                 : Device<int32_t>(in.choice)) {
    args = {.score = in.score,
            .normalize = in.normalize,
            .scaling = in.scaling,
            .scores = scores.get(),
            .bias = bias.get(),
            .masked = masked.get(),
            .choice = choice.get(),
            .weight = weight.get(),
            .tokens = in.shape.tokens,
            .experts = in.shape.experts,
            .top_k = in.shape.top_k,
            .choice_given = !in.choice.empty()};
  }
  Routed Fetch() const { return {scores.Floats(), weight.Floats(), choice.Raw()}; }
  Device<float> scores, bias, weight;
  Device<uint8_t> masked;
  Device<int32_t> choice;
  RouterArgs args;
};

// The twin with the device's choice, so that near ties do not matter.
struct TwinRouted {
  std::vector<double> scores, bias, weight;
  std::vector<int32_t> choice;
  kernels::RouterArgs<double> args;
};
TwinRouted Twin(const Inputs& in, const std::vector<int32_t>& choice) {
  TwinRouted twin{
      Doubles(in.logits), Doubles(in.bias), std::vector<double>(choice.size()), choice, {}};
  twin.args = {.score = in.score,
               .normalize = in.normalize,
               .scaling = in.scaling,
               .scores = twin.scores.data(),
               .bias = twin.bias.data(),
               .masked = in.masked.data(),
               .choice = twin.choice.data(),
               .weight = twin.weight.data(),
               .tokens = in.shape.tokens,
               .experts = in.shape.experts,
               .top_k = in.shape.top_k,
               .choice_given = true};
  kernels::Router(twin.args, Pool());
  return twin;
}

std::vector<int32_t> BestOf(const Inputs& in, const std::vector<float>& scores) {
  std::vector<int32_t> choice;
  for (int64_t token = 0; token < in.shape.tokens; ++token) {
    std::vector<int32_t> order;
    for (int e = 0; e < in.shape.experts; ++e) {
      if (!in.masked[e]) order.push_back(e);
    }
    const auto value = [&](int32_t e) { return scores[token * in.shape.experts + e] + in.bias[e]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return value(a) > value(b); });
    choice.insert(choice.end(), order.begin(), order.begin() + in.shape.top_k);
  }
  return choice;
}

std::vector<int32_t> CountsOf(const std::vector<int32_t>& choice, int experts) {
  std::vector<int32_t> counts(experts, 0);
  for (const int32_t expert : choice) ++counts[expert];
  return counts;
}

template <typename F>
void ForAllCases(F f) {
  for (const Shape& shape : kShapes) {
    for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
      for (const bool normalize : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << shape.tokens << " tokens, " << shape.top_k << " of " << shape.experts
                     << ", softmax " << (score == RouterScore::kSoftmax) << ", normalize "
                     << normalize);
        f(Draw(shape, score, normalize));
      }
    }
  }
}

TEST(Router, ScoresChoicesAndWeightsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  ForAllCases([](const Inputs& in) {
    const OnDevice device(in);
    ASSERT_EQ(cudaSuccess, Router(device.args, nullptr));
    const Routed got = device.Fetch();
    EXPECT_EQ(BestOf(in, got.scores), got.choice);
    const TwinRouted want = Twin(in, got.choice);
    EXPECT_LT(RelativeError(got.scores, want.scores),
              2e-6);  // an exponential and a division in fp32
    EXPECT_LT(RelativeError(got.weight, want.weight), 2e-6);
  });
}

TEST(Router, EqualScoresGoToTheLowerIndex) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : kShapes) {
    Inputs in = Draw(shape, RouterScore::kSigmoid, true);
    for (float& logit : in.logits) logit = std::round(logit);
    std::fill(in.bias.begin(), in.bias.end(), 0.0f);
    for (size_t e = 0; e < in.bias.size(); e += 2) in.bias[e] = -0.0f;
    std::vector<float> scores = in.logits, weight(shape.tokens * shape.top_k);
    std::vector<int32_t> want(shape.tokens * shape.top_k);
    kernels::Router(kernels::RouterArgs<float>{.scores = scores.data(),
                                               .bias = in.bias.data(),
                                               .masked = in.masked.data(),
                                               .choice = want.data(),
                                               .weight = weight.data(),
                                               .tokens = shape.tokens,
                                               .experts = shape.experts,
                                               .top_k = shape.top_k},
                    Pool());
    const OnDevice device(in);
    ASSERT_EQ(cudaSuccess, Router(device.args, nullptr));
    EXPECT_EQ(want, device.choice.Raw());  // scores differ by much or not at all
  }
}

TEST(Router, WeighsAChoiceThatIsGiven) {
  SKIP_WITHOUT_GPU();
  ForAllCases([](Inputs in) {
    for (int64_t token = 0; token < in.shape.tokens; ++token) {
      const auto order = RandomOrder(in.shape.experts);  // masked experts too
      in.choice.insert(in.choice.end(), order.begin(), order.begin() + in.shape.top_k);
    }
    if (in.normalize && in.score == RouterScore::kSoftmax) {
      std::fill(in.masked.begin(), in.masked.end(),
                0);  // a token with masked experts alone has no weights to normalize
    }
    const OnDevice device(in);
    ASSERT_EQ(cudaSuccess, Router(device.args, nullptr));
    const Routed got = device.Fetch();
    EXPECT_EQ(in.choice, got.choice);
    EXPECT_LT(RelativeError(got.weight, Twin(in, in.choice).weight), 2e-6);
  });
}

TEST(Router, RefusesWhatItCannotHold) {
  SKIP_WITHOUT_GPU();
  EXPECT_EQ(cudaErrorInvalidValue,
            Router({.tokens = 1, .experts = kRouterExperts + 1, .top_k = 1}, nullptr));
  EXPECT_EQ(cudaErrorInvalidValue,
            Router({.tokens = 1, .experts = 64, .top_k = kRouterTopK + 1}, nullptr));
  EXPECT_EQ(cudaErrorInvalidValue, Router({.tokens = 1, .experts = 4, .top_k = 5}, nullptr));
  EXPECT_EQ(cudaSuccess, Router({.tokens = 0, .experts = 4, .top_k = 2}, nullptr));
}

template <typename T>
class RouterGradientTest : public ::testing::Test {};
TYPED_TEST_SUITE(RouterGradientTest, Elements);

TYPED_TEST(RouterGradientTest, IsTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  ForAllCases([](const Inputs& in) {
    const OnDevice device(in);
    ASSERT_EQ(cudaSuccess, Router(device.args, nullptr));
    const Routed routed = device.Fetch();
    const auto counts = CountsOf(routed.choice, in.shape.experts);
    const auto dweight = RandomValues<float>(in.shape.tokens * in.shape.top_k);
    for (const float aux_scale : {0.0f, 3.0f}) {
      SCOPED_TRACE(aux_scale);
      TwinRouted twin = Twin(in, routed.choice);
      const auto dweight_double = Doubles(dweight);
      const std::vector<int64_t> wide_counts(counts.begin(), counts.end());
      std::vector<double> want(in.logits.size());
      kernels::RouterBackward(
          kernels::RouterBackwardArgs<double>{.forward = twin.args,
                                              .dweight = dweight_double.data(),
                                              .dlogits = want.data(),
                                              .aux_scale = aux_scale,
                                              .route_counts = wide_counts.data()},
          Pool());
      const Device<T> dlogits(in.logits.size());
      const Device<float> device_dweight(dweight);
      ASSERT_EQ(cudaSuccess,
                RouterBackward(RouterBackwardArgs<T>{.forward = device.args,
                                                     .dweight = device_dweight.get(),
                                                     .dlogits = dlogits.get(),
                                                     .aux_scale = aux_scale,
                                                     .route_counts = Device<int32_t>(counts).get()},
                               nullptr));
      // fp32 and one rounding. A single normalized choice has gradient zero: what remains is fp32
      // noise of its terms, scaling * dweight.
      EXPECT_LT(ErrorOver(dlogits.Floats(), want, 1.0),
                OneRounding<T>() * Norm(want) + 2e-6 * in.scaling * Norm(dweight));
    }
  });
}

TEST(Router, AuxiliaryLossIsTheCpusAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  ForAllCases([](const Inputs& in) {
    const OnDevice device(in);
    ASSERT_EQ(cudaSuccess, Router(device.args, nullptr));
    const auto choice = device.choice.Raw();
    const auto counts = CountsOf(choice, in.shape.experts);
    const TwinRouted twin = Twin(in, choice);
    const std::vector<int64_t> wide_counts(counts.begin(), counts.end());
    const double want = 0.25 + kernels::AuxiliaryLoss(twin.args, wide_counts.data());
    std::vector<float> first;
    for (int run = 0; run < 2; ++run) {
      const Device<float> loss(std::vector<float>{0.25f}),
          partials(static_cast<int64_t>(kAuxPartials) * in.shape.experts);
      ASSERT_EQ(cudaSuccess, AddAuxiliaryLoss(device.args, Device<int32_t>(counts).get(),
                                              partials.get(), loss.get(), nullptr));
      if (run == 0) first = loss.Raw();
      EXPECT_TRUE(SameBits(first, loss.Raw()));
      EXPECT_NEAR(want, loss.Floats()[0], 2e-6 * want);  // fp32 means over tokens
    }
  });
}

}  // namespace
}  // namespace espalier::kernels::cuda
