// Goal: grouped products are the CPU twin's for any cut into groups, on Hopper's kernel and on the plain one, and rows that
// belong to no group stay as they are.
// Method: the output is poisoned with NaN and inputs past the last group are NaN, so what is written too much, too little or
// read from a neighbour shows.
#include "kernels/cuda/grouped.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/thread_pool.h"
#include "tests/gpu/kernels/twin.h"

namespace espalier::kernels::cuda {
namespace {

using Sizes = std::vector<int32_t>;

std::vector<int32_t> OffsetsOf(const Sizes& sizes) {
  std::vector<int32_t> offsets(sizes.size() + 1, 0);
  std::partial_sum(sizes.begin(), sizes.end(), offsets.begin() + 1);
  return offsets;
}
std::vector<int64_t> Wide(const std::vector<int32_t>& offsets) { return {offsets.begin(), offsets.end()}; }

template <typename T>
std::vector<float> Padded(std::vector<float> values, int64_t extra) {
  values.resize(values.size() + extra, std::numeric_limits<float>::quiet_NaN());
  return values;
}

enum class Way { kChosen, kPlain };

constexpr int64_t kSpareRows = 9;  // rows of a and c that belong to no group

template <typename T>
void CheckMatmul(Way way, Product product, const Sizes& sizes, int64_t n, int64_t k) {
  SCOPED_TRACE(absl::StrCat("product ", static_cast<int>(product), " n ", n, " k ", k, " rows ", absl::StrJoin(sizes, ",")));
  const std::vector<int32_t> offsets = OffsetsOf(sizes);
  const int64_t rows = offsets.back(), groups = sizes.size();
  const std::vector<float> a = RandomValues<T>(rows * k), b = RandomValues<T>(groups * n * k);
  std::vector<float> want(rows * n);
  {
    base::ThreadPool pool(1);
    std::vector<const float*> matrices;
    for (int64_t g = 0; g < groups; ++g) matrices.push_back(b.data() + g * n * k);
    const std::vector<int64_t> wide = Wide(offsets);
    kernels::GroupedMatmulArgs<float> args;
    args.product = product, args.offsets = wide, args.a = a.data(), args.b = matrices, args.c = want.data();
    args.n = n, args.k = k;
    kernels::GroupedMatmul(args, pool);
  }
  const Device<int32_t> device_offsets(offsets);
  const Device<T> device_a(Padded<T>(a, kSpareRows * k)), device_b(b), c((rows + kSpareRows) * n);
  GroupedMatmulArgs<T> args;
  args.product = product, args.offsets = device_offsets.get(), args.groups = static_cast<int>(groups);
  args.rows_max = rows + kSpareRows, args.a = device_a.get(), args.b = device_b.get(), args.c = c.get();
  args.n = n, args.k = k;
  ASSERT_EQ(cudaSuccess, way == Way::kChosen ? GroupedMatmul(args, nullptr) : GroupedMatmulPlain(args, nullptr));
  std::vector<float> got = c.Floats();
  for (int64_t i = rows * n; i < (rows + kSpareRows) * n; ++i) {
    ASSERT_TRUE(std::isnan(got[i])) << "row " << i / n << " past the groups was written";
  }
  got.resize(rows * n);
  EXPECT_LT(RelativeError(got, want), Tolerance<T>());
}

template <typename T>
void CheckGradient(Way way, const Sizes& sizes, int64_t m, int64_t n) {
  SCOPED_TRACE(absl::StrCat("gradient m ", m, " n ", n, " rows ", absl::StrJoin(sizes, ",")));
  const std::vector<int32_t> offsets = OffsetsOf(sizes);
  const int64_t rows = offsets.back(), groups = sizes.size();
  const std::vector<float> a = RandomValues<T>(rows * m), b = RandomValues<T>(rows * n);
  std::vector<float> want(groups * m * n, 0.0f);
  {
    base::ThreadPool pool(1);
    std::vector<float*> matrices;
    for (int64_t g = 0; g < groups; ++g) matrices.push_back(want.data() + g * m * n);
    const std::vector<int64_t> wide = Wide(offsets);
    kernels::GroupedGradientArgs<float> args;
    args.offsets = wide, args.a = a.data(), args.b = b.data(), args.c = matrices, args.m = m, args.n = n;
    kernels::GroupedGradient(args, pool);
  }
  const Device<int32_t> device_offsets(offsets);
  const Device<T> device_a(Padded<T>(a, kSpareRows * m)), device_b(Padded<T>(b, kSpareRows * n)), c(groups * m * n);
  GroupedGradientArgs<T> args;
  args.offsets = device_offsets.get(), args.groups = static_cast<int>(groups), args.rows_max = rows + kSpareRows;
  args.a = device_a.get(), args.b = device_b.get(), args.c = c.get(), args.m = m, args.n = n;
  const Device<double> squares(std::vector<double>(kGradientSquares, 0.0));
  args.squares = squares.get();
  ASSERT_EQ(cudaSuccess, way == Way::kChosen ? GroupedGradient(args, nullptr) : GroupedGradientPlain(args, nullptr));
  EXPECT_LT(RelativeError(c.Floats(), want), Tolerance<T>());
  if (way != Way::kChosen) return;
  double norm = 0, sum = 0;
  for (const float value : want) norm += double{value} * value;
  for (const double part : squares.Raw()) sum += part;
  // Taken before the matrices are rounded, or after: bf16's rounding averages out over many elements.
  EXPECT_NEAR(sum, norm, 2 * Tolerance<T>() * norm + 1e-12);
}

// Ragged, with empty groups at both ends and in the middle, a single group, everything in one of several, many small ones, no
// row at all, and random cuts.
std::vector<Sizes> Cuts() {
  std::vector<Sizes> cuts = {
      {64, 128, 256},  {0, 1, 127, 129, 0, 300, 0}, {77}, {0, 0, 513, 0}, {1, 1, 1, 1, 1, 1, 1, 1},
      {0, 0, 0},       {255, 257, 16, 17, 15},      Sizes(40, 3)};
  for (int i = 0; i < 3; ++i) {
    Sizes sizes(1 + Random()() % 20);
    for (int32_t& size : sizes) size = Random()() % 3 == 0 ? 0 : static_cast<int32_t>(Random()() % 400);
    cuts.push_back(sizes);
  }
  return cuts;
}

template <typename T>
void CheckAll(Way way, std::vector<std::pair<int64_t, int64_t>> shapes) {
  SKIP_WITHOUT_GPU();
  for (const Sizes& sizes : Cuts()) {
    for (const auto& [x, y] : shapes) {
      CheckMatmul<T>(way, Product::kNT, sizes, x, y);
      CheckMatmul<T>(way, Product::kNN, sizes, x, y);
      CheckGradient<T>(way, sizes, x, y);
    }
  }
}

// Multiples of 8, of which some are no multiples of a tile.
TEST(Grouped, AgreesWithTheTwinWhereHopperMay) {
  CheckAll<__nv_bfloat16>(Way::kChosen, {{256, 64}, {264, 136}, {8, 8}, {520, 200}, {128, 384}});
}
TEST(Grouped, AgreesWithTheTwinAtOddSizes) {
  CheckAll<__nv_bfloat16>(Way::kChosen, {{33, 65}, {7, 3}, {1, 1}, {100, 50}});
}
TEST(Grouped, PlainAgreesWithTheTwinInBf16) {
  CheckAll<__nv_bfloat16>(Way::kPlain, {{64, 32}, {264, 136}, {33, 65}, {8, 8}, {1, 31}});
}
TEST(Grouped, AgreesWithTheTwinInFp32) {
  CheckAll<float>(Way::kChosen, {{64, 32}, {68, 36}, {33, 65}, {1, 1}, {130, 7}});
}

TEST(Grouped, TakesNoRowsAndNoDepth) {
  SKIP_WITHOUT_GPU();
  const Device<int32_t> offsets(std::vector<int32_t>{0, 0, 0});
  const Device<__nv_bfloat16> c(2 * 16 * 8);
  GroupedGradientArgs<__nv_bfloat16> gradient;
  gradient.offsets = offsets.get(), gradient.groups = 2, gradient.rows_max = 0, gradient.c = c.get();
  gradient.m = 16, gradient.n = 8;
  ASSERT_EQ(cudaSuccess, GroupedGradient(gradient, nullptr));
  EXPECT_EQ(std::vector<float>(2 * 16 * 8, 0.0f), c.Floats());
  CheckMatmul<__nv_bfloat16>(Way::kChosen, Product::kNT, {3, 5}, 8, 0);
  GroupedMatmulArgs<__nv_bfloat16> none;
  none.offsets = offsets.get(), none.groups = 2, none.n = 8, none.k = 8;
  EXPECT_EQ(cudaSuccess, GroupedMatmul(none, nullptr));
  none.product = Product::kTN;
  EXPECT_EQ(cudaErrorInvalidValue, GroupedMatmul(none, nullptr));
}

// More groups than Hopper's kernel has room for, and unaligned matrices: the plain way takes them.
TEST(Grouped, TakesManyGroups) {
  SKIP_WITHOUT_GPU();
  Sizes sizes(300);
  for (int32_t& size : sizes) size = static_cast<int32_t>(Random()() % 9);
  CheckMatmul<__nv_bfloat16>(Way::kChosen, Product::kNT, sizes, 64, 64);
  CheckGradient<__nv_bfloat16>(Way::kChosen, sizes, 64, 64);
  Sizes most(256);
  for (int32_t& size : most) size = static_cast<int32_t>(Random()() % 40);
  CheckMatmul<__nv_bfloat16>(Way::kChosen, Product::kNN, most, 72, 64);
  CheckGradient<__nv_bfloat16>(Way::kChosen, most, 72, 64);
}

// Enough tiles for several waves of the persistent grid; run twice: same bits, and the same as the plain way up to rounding.
TEST(Grouped, GivesTheSameBitsAgainAndThePlainWaysValues) {
  SKIP_WITHOUT_GPU();
  const Sizes sizes = {3000, 0, 1, 4097, 700, 64, 2500, 129};
  const std::vector<int32_t> offsets = OffsetsOf(sizes);
  const int64_t rows = offsets.back(), n = 1024, k = 512, groups = sizes.size();
  const Device<int32_t> device_offsets(offsets);
  const Device<__nv_bfloat16> a(RandomValues<__nv_bfloat16>(rows * k)), b(RandomValues<__nv_bfloat16>(groups * n * k));
  const Device<__nv_bfloat16> first(rows * n), second(rows * n), plain(rows * n);
  GroupedMatmulArgs<__nv_bfloat16> args;
  args.offsets = device_offsets.get(), args.groups = static_cast<int>(groups), args.rows_max = rows;
  args.a = a.get(), args.b = b.get(), args.n = n, args.k = k;
  for (const Product product : {Product::kNT, Product::kNN}) {
    args.product = product;
    args.c = first.get();
    ASSERT_EQ(cudaSuccess, GroupedMatmul(args, nullptr));
    args.c = second.get();
    ASSERT_EQ(cudaSuccess, GroupedMatmul(args, nullptr));
    args.c = plain.get();
    ASSERT_EQ(cudaSuccess, GroupedMatmulPlain(args, nullptr));
    EXPECT_EQ(first.Floats(), second.Floats());
    EXPECT_LT(RelativeError(first.Floats(), plain.Floats()), Tolerance<__nv_bfloat16>());
  }
  const Device<__nv_bfloat16> gradient(groups * n * k), again(groups * n * k), plain_gradient(groups * n * k);
  GroupedGradientArgs<__nv_bfloat16> back;
  back.offsets = device_offsets.get(), back.groups = static_cast<int>(groups), back.rows_max = rows;
  back.a = first.get(), back.b = a.get(), back.m = n, back.n = k;
  back.c = gradient.get();
  ASSERT_EQ(cudaSuccess, GroupedGradient(back, nullptr));
  back.c = again.get();
  ASSERT_EQ(cudaSuccess, GroupedGradient(back, nullptr));
  back.c = plain_gradient.get();
  ASSERT_EQ(cudaSuccess, GroupedGradientPlain(back, nullptr));
  EXPECT_EQ(gradient.Floats(), again.Floats());
  EXPECT_LT(RelativeError(gradient.Floats(), plain_gradient.Floats()), Tolerance<__nv_bfloat16>());
}

}  // namespace
}  // namespace espalier::kernels::cuda
