// Goal: AdamW is the CPU's on fp32 masters, the value is the master rounded, `skip` leaves
// everything, and squared norms are the same bits each time. Arrays that begin at odd addresses
// take the scalar kernels.
#include "kernels/cuda/adamw.h"

#include <cstring>

#include "kernels/adamw.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int64_t kSizes[] = {1, 7, 8, 1000, 4099, 100003};

template <typename T>
class AdamWTest : public ::testing::Test {};
TYPED_TEST_SUITE(AdamWTest, Elements);

template <typename T>
std::vector<float> Rounded(std::vector<float> values) {
  if constexpr (!std::is_same_v<T, float>) {
    for (float& value : values) value = __bfloat162float(__float2bfloat16(value));
  }
  return values;
}

std::vector<float> From(const std::vector<float>& values, int64_t begin) {
  return {values.begin() + begin, values.end()};
}

TYPED_TEST(AdamWTest, StepsAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t n : kSizes) {
    for (const int64_t odd : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << n << " elements from " << odd);
      const auto initial = RandomValues<float>(n + odd);
      const Device<float> master(initial), moment1(std::vector<float>(n + odd, 0.0f)),
          moment2(std::vector<float>(n + odd, 0.0f));
      const Device<T> value(n + odd);
      std::vector<double> want = Doubles(From(initial, odd)), want1(n, 0.0), want2(n, 0.0);
      AdamWArgs<T> args{.master = master.get() + odd,
                        .moment1 = moment1.get() + odd,
                        .moment2 = moment2.get() + odd,
                        .value = value.get() + odd,
                        .n = n,
                        .lr = 0.05f,
                        .weight_decay = 0.1f,
                        .grad_scale = 0.7f};
      if constexpr (std::is_same_v<T, float>) args.value = args.master;
      for (int step = 1; step <= 3; ++step) {
        const auto grad = RandomValues<T>(n + odd);
        const auto grad_double = Doubles(From(grad, odd));
        args.correction1 = 1 - std::pow(args.beta1, static_cast<float>(step));
        args.correction2 = 1 - std::pow(args.beta2, static_cast<float>(step));
        kernels::AdamW(kernels::AdamWArgs<double>{.value = want.data(),
                                                  .grad = grad_double.data(),
                                                  .moment1 = want1.data(),
                                                  .moment2 = want2.data(),
                                                  .n = n,
                                                  .lr = args.lr,
                                                  .beta1 = args.beta1,
                                                  .beta2 = args.beta2,
                                                  .eps = args.eps,
                                                  .weight_decay = args.weight_decay,
                                                  .correction1 = args.correction1,
                                                  .correction2 = args.correction2,
                                                  .grad_scale = args.grad_scale},
                       Pool());
        const Device<T> device_grad(grad);
        args.grad = device_grad.get() + odd;
        ASSERT_EQ(cudaSuccess, AdamW(args, nullptr));
        ASSERT_EQ(cudaSuccess, cudaDeviceSynchronize());
      }
      // Each step is a dozen fp32 operations on an element, three steps: a few 1e-7 of the terms,
      // which may cancel where there are few elements.
      const double terms = std::sqrt(static_cast<double>(n));
      EXPECT_LT(ErrorOver(From(master.Floats(), odd), want, std::max(terms, Norm(want))), 2e-6);
      EXPECT_LT(ErrorOver(From(moment1.Floats(), odd), want1, std::max(0.1 * terms, Norm(want1))),
                2e-6);
      EXPECT_LT(RelativeError(From(moment2.Floats(), odd), want2), 2e-6);
      if constexpr (!std::is_same_v<T, float>) {
        EXPECT_EQ(Rounded<T>(From(master.Floats(), odd)), From(value.Floats(), odd));
      }
      if (odd == 1) {
        EXPECT_EQ(initial[0], master.Floats()[0]);
      }
    }
  }
}

TEST(SplitMaster, KeepsEveryBit) {
  SKIP_WITHOUT_GPU();
  std::vector<float> x = RandomValues<float>(100003);
  // Ties, neighbours of ties, zeros of both signs, subnormals, large values.
  for (const uint32_t bits : {0x3f808000u, 0x3f807fffu, 0x3f808001u, 0xbf808000u, 0x00000000u,
                              0x80000000u, 0x00000001u, 0x00008000u, 0x7f000000u, 0x3fffffffu}) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    x.push_back(value);
  }
  const auto n = static_cast<int64_t>(x.size());
  const Device<float> master(x), joined(n);
  const Device<__nv_bfloat16> value(n);
  const Device<int16_t> low(n);
  ASSERT_EQ(cudaSuccess, SplitMaster(master.get(), value.get(), low.get(), n, nullptr));
  ASSERT_EQ(cudaSuccess, JoinMaster(value.get(), low.get(), joined.get(), n, nullptr));
  EXPECT_TRUE(SameBits(x, joined.Raw()));
  // The upper half is the nearest bf16: at most half a unit in its last place away.
  const std::vector<float> rounded = value.Floats();
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_LE(std::abs(rounded[i] - x[i]), std::abs(x[i]) * 0x1p-8 + 1e-38) << x[i];
  }
}

TEST(SplitMaster, StepsAreThoseOfAWholeMaster) {
  SKIP_WITHOUT_GPU();
  for (const int64_t n : kSizes) {
    const auto initial = RandomValues<float>(n);
    const Device<float> whole(initial), m1(std::vector<float>(n, 0.0f)),
        m2(std::vector<float>(n, 0.0f)), s1(std::vector<float>(n, 0.0f)),
        s2(std::vector<float>(n, 0.0f)), joined(n);
    const Device<__nv_bfloat16> value(n), upper(n);
    const Device<int16_t> low(n);
    ASSERT_EQ(cudaSuccess, SplitMaster(whole.get(), upper.get(), low.get(), n, nullptr));
    for (int step = 0; step < 3; ++step) {
      const Device<__nv_bfloat16> grad(RandomValues<__nv_bfloat16>(n));
      AdamWArgs<__nv_bfloat16> args{.master = whole.get(),
                                    .grad = grad.get(),
                                    .moment1 = m1.get(),
                                    .moment2 = m2.get(),
                                    .value = value.get(),
                                    .n = n,
                                    .lr = 0.05f,
                                    .weight_decay = 0.1f};
      ASSERT_EQ(cudaSuccess, AdamW(args, nullptr));
      args.master = nullptr;
      args.low = low.get();
      args.value = upper.get();
      args.moment1 = s1.get();
      args.moment2 = s2.get();
      ASSERT_EQ(cudaSuccess, AdamW(args, nullptr));
      ASSERT_EQ(cudaSuccess, cudaDeviceSynchronize());
    }
    ASSERT_EQ(cudaSuccess, JoinMaster(upper.get(), low.get(), joined.get(), n, nullptr));
    EXPECT_TRUE(SameBits(whole.Raw(), joined.Raw()));
    EXPECT_TRUE(SameBits(m1.Raw(), s1.Raw()));
    EXPECT_TRUE(SameBits(m2.Raw(), s2.Raw()));
  }
}

TYPED_TEST(AdamWTest, SkipsWhenToldByTheDevice) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int32_t skip : {0, 1}) {
    const auto initial = RandomValues<float>(1003), grad = RandomValues<T>(1003),
               old = RandomValues<T>(1003);
    const Device<float> master(initial), moment1(initial), moment2(std::vector<float>(1003, 1.0f));
    const Device<T> value(old), device_grad(grad);
    const Device<int32_t> flag(std::vector<int32_t>{skip});
    ASSERT_EQ(cudaSuccess, AdamW(AdamWArgs<T>{.master = master.get(),
                                              .grad = device_grad.get(),
                                              .moment1 = moment1.get(),
                                              .moment2 = moment2.get(),
                                              .value = value.get(),
                                              .n = 1003,
                                              .lr = 0.1f,
                                              .skip = flag.get()},
                                 nullptr));
    EXPECT_EQ(skip == 1, initial == master.Floats());
    EXPECT_EQ(skip == 1, initial == moment1.Floats());
    EXPECT_EQ(skip == 1, std::vector<float>(1003, 1.0f) == moment2.Floats());
    EXPECT_EQ(skip == 1, old == value.Floats());
  }
}

TYPED_TEST(AdamWTest, SquaredNormIsTheCpusAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{100001}, int64_t{5000005}}) {
    for (const int64_t odd : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << n << " elements from " << odd);
      const auto x = RandomValues<T>(n + odd);
      const auto x_double = Doubles(From(x, odd));
      const double want = n == 0 ? 0.0 : kernels::SquaredNorm(x_double.data(), n, Pool());
      const Device<T> device(x);
      const Device<double> partials(kNormBlocks), out(1);
      std::vector<double> first;
      for (int run = 0; run < 2; ++run) {
        ASSERT_EQ(cudaSuccess,
                  SquaredNorm(device.get() + odd, n, partials.get(), out.get(), nullptr));
        if (run == 0) first = out.Raw();
        EXPECT_TRUE(SameBits(first, out.Raw()));
        EXPECT_NEAR(want, out.Raw()[0],
                    1e-6 * want);  // up to 8 squares are summed in fp32, the rest in double
      }
    }
  }
}

TYPED_TEST(AdamWTest, RoundsAndWidensExactly) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t n : kSizes) {
    for (const int64_t odd : {0, 1}) {
      const auto x = RandomValues<float>(n + odd);
      const Device<float> device(x), widened(n + odd);
      const Device<T> rounded(n + odd);
      ASSERT_EQ(cudaSuccess, RoundTo(device.get() + odd, rounded.get() + odd, n, nullptr));
      EXPECT_EQ(Rounded<T>(From(x, odd)), From(rounded.Floats(), odd));
      ASSERT_EQ(cudaSuccess, Widen(rounded.get() + odd, widened.get() + odd, n, nullptr));
      EXPECT_EQ(Rounded<T>(From(x, odd)), From(widened.Floats(), odd));
    }
  }
}

}  // namespace
}  // namespace espalier::kernels::cuda
