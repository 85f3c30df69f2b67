// Goal: the device draws the CPU's token, or at a boundary of two tokens its neighbour: the drawn
// share must lie in the token's stretch of the cumulative distribution, computed in double.
#include "kernels/cuda/sampling.h"

#include "kernels/sampling.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logp;
};
template <typename T>
Drawn OnDevice(const std::vector<float>& logits, const std::vector<double>& uniform,
               int64_t vocabulary, double temperature) {
  const int64_t rows = static_cast<int64_t>(uniform.size());
  const Device<T> device(logits);
  const Device<double> device_uniform(uniform);
  const Device<int32_t> token(rows);
  const Device<float> logp(rows);
  EXPECT_EQ(cudaSuccess, SampleTokens(SampleArgs<T>{.logits = device.get(),
                                                    .uniform = device_uniform.get(),
                                                    .token = token.get(),
                                                    .logp = logp.get(),
                                                    .rows = rows,
                                                    .vocabulary = vocabulary,
                                                    .temperature = temperature},
                                      nullptr));
  return {token.Raw(), logp.Raw()};
}
Drawn OnCpu(const std::vector<float>& logits, const std::vector<double>& uniform,
            int64_t vocabulary, double temperature) {
  const auto wide = Doubles(logits);
  Drawn drawn{std::vector<int32_t>(uniform.size()), std::vector<float>(uniform.size())};
  kernels::Buffer<double> scratch;
  kernels::SampleTokens(kernels::SampleArgs<double>{.logits = wide.data(),
                                                    .uniform = uniform.data(),
                                                    .token = drawn.token.data(),
                                                    .logp = drawn.logp.data(),
                                                    .rows = static_cast<int64_t>(uniform.size()),
                                                    .vocabulary = vocabulary,
                                                    .temperature = temperature},
                        scratch, Pool());
  return drawn;
}

std::vector<double> Uniforms(int64_t rows) {
  std::vector<double> uniform(rows);
  for (double& u : uniform) u = std::uniform_real_distribution<double>(1e-12, 1 - 1e-12)(Random());
  uniform[0] = 1e-300;
  if (rows > 1) uniform[1] = 1 - 1e-16;
  return uniform;
}

template <typename T>
class SamplingTest : public ::testing::Test {};
TYPED_TEST_SUITE(SamplingTest, Elements);

constexpr int64_t kVocabularies[] = {1, 2, 31, 33, 1000, 32000, 50257};

TYPED_TEST(SamplingTest, DrawsFromTheCumulativeDistribution) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  constexpr int64_t kRows = 20;
  for (const int64_t vocabulary : kVocabularies) {
    for (const double temperature : {0.05, 0.7, 1.0, 3.0}) {
      SCOPED_TRACE(::testing::Message() << vocabulary << " at " << temperature);
      auto logits = RandomValues<T>(kRows * vocabulary, 3.0);
      for (size_t i = 5; i < logits.size(); i += 7)
        logits[i] = -std::numeric_limits<float>::infinity();
      const auto uniform = Uniforms(kRows);
      const Drawn got = OnDevice<T>(logits, uniform, vocabulary, temperature);
      for (int64_t row = 0; row < kRows; ++row) {
        const auto begin = logits.begin() + row * vocabulary;
        const double max = *std::max_element(begin, begin + vocabulary);
        if (!std::isfinite(max)) continue;  // a row of one masked token says nothing
        const int32_t token = got.token[row];
        ASSERT_GE(token, 0);
        ASSERT_LT(token, vocabulary);
        double before = 0, total = 0, sum = 0;
        for (int64_t i = 0; i < vocabulary; ++i) {
          const double weight = std::exp((begin[i] - max) / temperature);
          if (i < token) before += weight;
          total += weight;
          sum += std::exp(begin[i] - max);
        }
        const double own = std::exp((begin[token] - max) / temperature);
        EXPECT_GT(own, 0);
        // Weights are fp32 exponentials of up to about 100 / temperature: off by 1e-5 of themselves
        // at most.
        EXPECT_LE(before / total, uniform[row] + 1e-5);
        EXPECT_GE((before + own) / total, uniform[row] - 1e-5);
        EXPECT_NEAR(begin[token] - max - std::log(sum), got.logp[row], 1e-5);
      }
    }
  }
}

TYPED_TEST(SamplingTest, IsTheCpusWhereStretchesAreWide) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  // Eight tokens of equal weight between many of none; shares that fall in the middle of an eighth.
  constexpr int64_t kVocabulary = 1003, kRows = 8;
  std::vector<float> logits(kRows * kVocabulary, -200.0f);
  std::vector<double> uniform;
  for (int64_t row = 0; row < kRows; ++row) {
    const auto order = RandomOrder(kVocabulary);
    for (int i = 0; i < 8; ++i) logits[row * kVocabulary + order[i]] = 4.0f;
    uniform.push_back((row + 0.5) / 8);
  }
  const Drawn got = OnDevice<T>(logits, uniform, kVocabulary, 1.0),
              want = OnCpu(logits, uniform, kVocabulary, 1.0);
  EXPECT_EQ(want.token, got.token);
  EXPECT_LT(RelativeError(got.logp, want.logp), 1e-5);
}

TYPED_TEST(SamplingTest, TakesTheLikeliestAtTemperatureZero) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t vocabulary : kVocabularies) {
    constexpr int64_t kRows = 33;
    auto logits = RandomValues<T>(kRows * vocabulary, 2.0);
    for (float& logit : logits) logit = std::round(logit);  // many equals
    const std::vector<double> uniform(kRows, 0.5);
    const Drawn got = OnDevice<T>(logits, uniform, vocabulary, 0),
                want = OnCpu(logits, uniform, vocabulary, 0);
    EXPECT_EQ(want.token, got.token);
    EXPECT_LT(ErrorOver(got.logp, want.logp, std::sqrt(static_cast<double>(kRows))), 1e-5);
  }
}

}  // namespace
}  // namespace espalier::kernels::cuda
