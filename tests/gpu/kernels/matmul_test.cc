// Goal: cuBLASLt's products are the CPU twin's, for every product, type, addend and odd size, tuned or not. Inputs are values
// that T holds exactly; the twin sums them in fp32, so only the order of sums and one rounding differ.
#include "kernels/cuda/matmul.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "libs/base/thread_pool.h"
#include "tests/gpu/kernels/twin.h"

namespace espalier::kernels::cuda {
namespace {

enum class Addend { kNone, kInPlace, kOther };

struct Case {
  Product product;
  int64_t m, n, k;
  Addend addend;
};

std::vector<float> Twin(const Case& c, const std::vector<float>& a, const std::vector<float>& b,
                        const std::vector<float>& addend) {
  std::vector<float> d = addend;
  base::ThreadPool pool(1);
  kernels::MatmulArgs<float> args;
  args.product = c.product;
  args.a = a.data();
  args.b = b.data();
  args.c = d.data();
  args.m = c.m;
  args.n = c.n;
  args.k = c.k;
  args.accumulate = c.addend != Addend::kNone;
  kernels::Matmul(args, pool);
  return d;
}

// Tolerance of a sum of k products in another order (fp32 out) or rounded once (bf16 out).
template <typename T, typename Out>
void Check(Matmul& matmul, cudaStream_t stream, const Case& c, int64_t skew = 0) {
  SCOPED_TRACE(absl::StrCat("product ", static_cast<int>(c.product), " m ", c.m, " n ", c.n, " k ", c.k, " addend ",
                            static_cast<int>(c.addend), " skew ", skew));
  const std::vector<float> a = RandomValues<T>(c.m * c.k + skew), b = RandomValues<T>(c.n * c.k + skew);
  const std::vector<float> addend = RandomValues<Out>(c.m * c.n);
  const Device<T> device_a(a), device_b(b);
  const Device<Out> device_c(addend);
  const Device<Out> device_d(c.m * c.n);
  MatmulArgs<T, Out> args;
  args.product = c.product;
  args.a = device_a.get() + skew;
  args.b = device_b.get() + skew;
  args.c = c.addend == Addend::kNone ? nullptr : device_c.get();
  args.d = c.addend == Addend::kInPlace ? device_c.get() : device_d.get();
  args.m = c.m;
  args.n = c.n;
  args.k = c.k;
  const absl::Status status = matmul.Run(args, stream);
  ASSERT_TRUE(status.ok()) << status;
  const std::vector<float> got = (c.addend == Addend::kInPlace ? device_c : device_d).Floats();
  const std::vector<float> want =
      Twin(c, {a.begin() + skew, a.end()}, {b.begin() + skew, b.end()}, addend);
  EXPECT_LT(RelativeError(got, want), Tolerance<Out>());
  if (c.addend == Addend::kOther) {
    EXPECT_EQ(addend, device_c.Floats());
  }
}

template <typename T, typename Out>
void CheckAll(bool tune) {
  SKIP_WITHOUT_GPU();
  auto matmul = Matmul::Create(tune);
  ASSERT_TRUE(matmul.ok()) << matmul.status();
  auto stream = MakeStream();
  ASSERT_TRUE(stream.ok());
  for (const Product product : {Product::kNN, Product::kNT, Product::kTN}) {
    for (const Addend addend : {Addend::kNone, Addend::kInPlace, Addend::kOther}) {
      Check<T, Out>(**matmul, stream->get(), {product, 128, 256, 64, addend});
      Check<T, Out>(**matmul, stream->get(), {product, 37, 51, 29, addend});
      Check<T, Out>(**matmul, stream->get(), {product, 1, 200, 333, addend});
      Check<T, Out>(**matmul, stream->get(), {product, 40, 8, 4096, addend});
      Check<T, Out>(**matmul, stream->get(), {product, 5, 7, 0, addend});
    }
    // Addresses that only an element's size divides.
    Check<T, Out>(**matmul, stream->get(), {product, 64, 64, 64, Addend::kNone}, /*skew=*/1);
  }
}

TEST(Matmul, AgreesWithTheTwinInBf16) { CheckAll<__nv_bfloat16, __nv_bfloat16>(/*tune=*/false); }
TEST(Matmul, AgreesWithTheTwinInBf16Tuned) { CheckAll<__nv_bfloat16, __nv_bfloat16>(/*tune=*/true); }
TEST(Matmul, AgreesWithTheTwinWithWideOutput) { CheckAll<__nv_bfloat16, float>(/*tune=*/true); }
TEST(Matmul, ComputesFp32InFp32) { CheckAll<float, float>(/*tune=*/true); }

TEST(Matmul, TakesEmptyOutputs) {
  SKIP_WITHOUT_GPU();
  auto matmul = Matmul::Create(true);
  ASSERT_TRUE(matmul.ok()) << matmul.status();
  MatmulArgs<float> args;
  args.m = 0, args.n = 5, args.k = 3;
  EXPECT_TRUE((*matmul)->Run(args, nullptr).ok());
  args.m = 5, args.n = 0;
  EXPECT_TRUE((*matmul)->Run(args, nullptr).ok());
}

TEST(Matmul, GivesTheSameBitsAgain) {
  SKIP_WITHOUT_GPU();
  auto matmul = Matmul::Create(true);
  ASSERT_TRUE(matmul.ok()) << matmul.status();
  // Few rows and columns, much k: where split-k is tempting.
  constexpr int64_t kM = 96, kN = 136, kK = 20000;
  const Device<__nv_bfloat16> a(RandomValues<__nv_bfloat16>(kM * kK)), b(RandomValues<__nv_bfloat16>(kN * kK));
  std::vector<std::vector<float>> runs;
  for (int i = 0; i < 5; ++i) {
    const Device<float> d(kM * kN);
    MatmulArgs<__nv_bfloat16, float> args;
    args.product = Product::kTN;
    args.a = a.get();
    args.b = b.get();
    args.d = d.get();
    args.m = kM, args.n = kN, args.k = kK;
    const absl::Status status = (*matmul)->Run(args, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    runs.push_back(d.Floats());
  }
  for (const auto& run : runs) EXPECT_EQ(runs[0], run);
}

TEST(Matmul, LeavesInputsAloneWhileItTunes) {
  SKIP_WITHOUT_GPU();
  auto matmul = Matmul::Create(true);
  ASSERT_TRUE(matmul.ok()) << matmul.status();
  // In place, a tuning run that wrote to d would add the product several times.
  Check<__nv_bfloat16, float>(**matmul, nullptr, {Product::kTN, 512, 384, 256, Addend::kInPlace});
}

}  // namespace
}  // namespace espalier::kernels::cuda
