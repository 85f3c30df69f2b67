// Goal: the norm inside fused rows and its gradient are RMSNorm of the segments, and nothing beside
// them is touched. Method: the CPU twin on the segments copied out, at heads that fit a warp's
// vectors, at whole widths, and at sizes that no vector divides.
#include "kernels/cuda/qk_norm.h"

#include "kernels/cuda/rope.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows, segments, width, after;  // `after` elements of each row belong to others
};
const Shape kShapes[] = {{1, 1, 6, 2},        {5, 3, 6, 12},        {70, 4, 64, 128},
                         {300, 20, 128, 256}, {9, 2, 256, 8},       {33, 1, 24, 24},
                         {40, 1, 2048, 64},   {700, 1, 1024, 1024}, {1200, 1, 2050, 1},
                         {17, 2, 130, 30}};

template <typename T>
class QkNormTest : public ::testing::Test {};
TYPED_TEST_SUITE(QkNormTest, Elements);

// The first segments * width elements of each row, row after row.
std::vector<float> Inside(const std::vector<float>& rows, const Shape& shape) {
  const int64_t inner = shape.segments * shape.width, stride = inner + shape.after;
  std::vector<float> inside;
  for (int64_t row = 0; row < shape.rows; ++row) {
    inside.insert(inside.end(), rows.begin() + row * stride, rows.begin() + row * stride + inner);
  }
  return inside;
}

std::vector<float> Outside(const std::vector<float>& rows, const Shape& shape) {
  const int64_t inner = shape.segments * shape.width, stride = inner + shape.after;
  std::vector<float> outside;
  for (int64_t row = 0; row < shape.rows; ++row) {
    outside.insert(outside.end(), rows.begin() + row * stride + inner,
                   rows.begin() + (row + 1) * stride);
  }
  return outside;
}

TYPED_TEST(QkNormTest, ForwardAndBackwardAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " rows of " << shape.segments << " x "
                                      << shape.width << " + " << shape.after);
    const int64_t stride = shape.segments * shape.width + shape.after;
    const int64_t count = shape.rows * shape.segments, inner = count * shape.width;
    const std::vector<float> rows = RandomValues<T>(shape.rows * stride, 2.0);
    const std::vector<float> slopes = RandomValues<T>(shape.rows * stride);
    const std::vector<float> weights = RandomValues<T>(shape.width);
    const auto in = Doubles(Inside(rows, shape)), weight = Doubles(weights),
               dy = Doubles(Inside(slopes, shape));
    std::vector<double> y(inner), rstd(count), want_dx(inner, 0.0), want_dweight(shape.width, 0.0);
    kernels::RmsNorm(kernels::RmsNormArgs<double>{.x = in.data(),
                                                  .weight = weight.data(),
                                                  .y = y.data(),
                                                  .rstd = rstd.data(),
                                                  .rows = count,
                                                  .width = shape.width},
                     Pool());
    kernels::Buffer<double> scratch;
    kernels::RmsNormBackward(kernels::RmsNormBackwardArgs<double>{.dy = dy.data(),
                                                                  .x = in.data(),
                                                                  .weight = weight.data(),
                                                                  .rstd = rstd.data(),
                                                                  .dx = want_dx.data(),
                                                                  .dweight = want_dweight.data(),
                                                                  .rows = count,
                                                                  .width = shape.width},
                             scratch, Pool());

    const Device<T> x(rows), w(weights), raw(inner), bare(rows);
    const Device<float> got_rstd(count);
    QkNormArgs<T> args{.x = x.get(),
                       .raw = raw.get(),
                       .rstd = got_rstd.get(),
                       .weight = w.get(),
                       .rows = shape.rows,
                       .row_stride = stride,
                       .segments = shape.segments,
                       .width = shape.width};
    ASSERT_EQ(cudaSuccess, QkNorm(args, nullptr));
    EXPECT_LT(RelativeError(Inside(x.Floats(), shape), y), OneRounding<T>());
    EXPECT_LT(RelativeError(got_rstd.Floats(), rstd), 1e-6);
    EXPECT_EQ(Inside(rows, shape), raw.Floats());
    EXPECT_EQ(Outside(rows, shape), Outside(x.Floats(), shape));
    args.x = bare.get();
    args.raw = nullptr;
    args.rstd = nullptr;
    ASSERT_EQ(cudaSuccess, QkNorm(args, nullptr));
    EXPECT_TRUE(SameBits(bare.Raw(), x.Raw()));

    std::vector<T> first;
    for (int run = 0; run < 2; ++run) {
      const Device<T> dx(slopes), dweight(shape.width);
      const Device<float> partials(kQkNormPartials * shape.width);
      ASSERT_EQ(cudaSuccess, QkNormBackward<T>({.dx = dx.get(),
                                                .raw = raw.get(),
                                                .rstd = got_rstd.get(),
                                                .weight = w.get(),
                                                .dweight = dweight.get(),
                                                .partials = partials.get(),
                                                .rows = shape.rows,
                                                .row_stride = stride,
                                                .segments = shape.segments,
                                                .width = shape.width},
                                               nullptr));
      // Terms of about 1 that may cancel: errors are measured against the terms.
      const double terms = std::sqrt(static_cast<double>(inner));
      EXPECT_LT(ErrorOver(Inside(dx.Floats(), shape), want_dx, std::max(terms, Norm(want_dx))),
                OneRounding<T>());
      EXPECT_LT(ErrorOver(dweight.Floats(), want_dweight, std::max(terms, Norm(want_dweight))),
                OneRounding<T>());
      EXPECT_EQ(Outside(slopes, shape), Outside(dx.Floats(), shape));
      if (run == 0) first = dweight.Raw();
      EXPECT_TRUE(SameBits(first, dweight.Raw()));
    }
  }
}

// heads x head_dim a row, normalised by head or over the whole row; `after` elements belong to others.
struct Turned {
  int64_t rows;
  int heads, head_dim;
  bool by_head;
  int64_t after;
};
const Turned kTurned[] = {{1, 1, 16, true, 0},        {300, 12, 64, false, 768},
                          {1500, 12, 64, true, 768},  {700, 16, 128, false, 2048},
                          {333, 16, 128, true, 8},    {50, 2, 128, true, 256},
                          {70, 4, 64, false, 8},      {41, 3, 6, false, 2},  // no vector divides these
                          {41, 3, 6, true, 3},        {60, 24, 128, false, 0},
                          {19, 1, 32, false, 32},     {90, 5, 64, false, 64}};

TYPED_TEST(QkNormTest, NormAndRotationTogetherAreTheCpusOneAfterTheOther) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  constexpr int kPositions = 2000;
  for (const Turned& shape : kTurned) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " rows of " << shape.heads << " x "
                                      << shape.head_dim << " by head " << shape.by_head);
    const int64_t inner = int64_t{shape.heads} * shape.head_dim, stride = inner + shape.after;
    const int64_t segments = shape.by_head ? shape.heads : 1, width = inner / segments;
    const int64_t count = shape.rows * segments, size = shape.rows * inner;
    const Shape cut{shape.rows, segments, width, shape.after};
    const auto rows = RandomValues<T>(shape.rows * stride, 2.0),
               slopes = RandomValues<T>(shape.rows * stride), weights = RandomValues<T>(width);
    const auto positions = RandomInts(shape.rows, 0, kPositions);
    const auto in = Doubles(Inside(rows, cut)), weight = Doubles(weights);
    std::vector<double> want(size), rstd(count), dy = Doubles(Inside(slopes, cut)),
        want_dx(size, 0.0), want_dweight(width, 0.0);
    RopeTable<double> table(shape.head_dim, 10000.0);
    table.Reserve(kPositions);
    kernels::RmsNorm(kernels::RmsNormArgs<double>{.x = in.data(),
                                                  .weight = weight.data(),
                                                  .y = want.data(),
                                                  .rstd = rstd.data(),
                                                  .rows = count,
                                                  .width = width},
                     Pool());
    kernels::Rope(want.data(), shape.rows, shape.heads, positions.data(), table,
                  RopeDirection::kForward, Pool());
    kernels::Rope(dy.data(), shape.rows, shape.heads, positions.data(), table,
                  RopeDirection::kBackward, Pool());
    kernels::Buffer<double> scratch;
    kernels::RmsNormBackward(kernels::RmsNormBackwardArgs<double>{.dy = dy.data(),
                                                                  .x = in.data(),
                                                                  .weight = weight.data(),
                                                                  .rstd = rstd.data(),
                                                                  .dx = want_dx.data(),
                                                                  .dweight = want_dweight.data(),
                                                                  .rows = count,
                                                                  .width = width},
                             scratch, Pool());

    const Device<float> cos(kPositions * (shape.head_dim / 2)),
        sin(kPositions * (shape.head_dim / 2)), got_rstd(count);
    ASSERT_EQ(cudaSuccess,
              FillRopeTable(cos.get(), sin.get(), kPositions, shape.head_dim, 10000.0, nullptr));
    const Device<int32_t> at(positions);
    const RopeAngles angles{at.get(), cos.get(), sin.get(), shape.head_dim};
    const Device<T> x(rows), bare(rows), w(weights), raw(size);
    QkNormArgs<T> args{.x = x.get(),
                       .raw = raw.get(),
                       .rstd = got_rstd.get(),
                       .weight = w.get(),
                       .rows = shape.rows,
                       .row_stride = stride,
                       .segments = segments,
                       .width = width,
                       .angles = angles};
    ASSERT_EQ(cudaSuccess, QkNorm(args, nullptr));
    // Two roundings where norm and rotation are passes of their own.
    EXPECT_LT(RelativeError(Inside(x.Floats(), cut), want), 2 * OneRounding<T>());
    EXPECT_LT(RelativeError(got_rstd.Floats(), rstd), 1e-6);
    EXPECT_EQ(Inside(rows, cut), raw.Floats());
    EXPECT_EQ(Outside(rows, cut), Outside(x.Floats(), cut));
    args.x = bare.get();
    args.raw = nullptr;
    args.rstd = nullptr;
    ASSERT_EQ(cudaSuccess, QkNorm(args, nullptr));
    EXPECT_TRUE(SameBits(bare.Raw(), x.Raw()));

    std::vector<T> first;
    for (int run = 0; run < 2; ++run) {
      const Device<T> dx(slopes), dweight(width);
      const Device<float> partials(kQkNormPartials * width);
      NormShares<T> later[1];
      QkNormBackwardArgs<T> backward{.dx = dx.get(),
                                     .raw = raw.get(),
                                     .rstd = got_rstd.get(),
                                     .weight = w.get(),
                                     .dweight = dweight.get(),
                                     .partials = partials.get(),
                                     .rows = shape.rows,
                                     .row_stride = stride,
                                     .segments = segments,
                                     .width = width,
                                     .angles = angles,
                                     .later = run == 0 ? nullptr : later};
      ASSERT_EQ(cudaSuccess, QkNormBackward(backward, nullptr));
      if (run == 1) {
        ASSERT_EQ(cudaSuccess, AddNormShares<T>(later, nullptr));
      }
      const double terms = std::sqrt(static_cast<double>(size));
      EXPECT_LT(ErrorOver(Inside(dx.Floats(), cut), want_dx, std::max(terms, Norm(want_dx))),
                2 * OneRounding<T>());
      EXPECT_LT(ErrorOver(dweight.Floats(), want_dweight, std::max(terms, Norm(want_dweight))),
                2 * OneRounding<T>());
      EXPECT_EQ(Outside(slopes, cut), Outside(dx.Floats(), cut));
      if (run == 0) first = dweight.Raw();
      EXPECT_TRUE(SameBits(first, dweight.Raw()));
    }
  }
}

TYPED_TEST(QkNormTest, WithoutRowsTheWeightHasNoGradient) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  const Device<T> dweight(std::vector<float>(64, 3.0f));
  ASSERT_EQ(cudaSuccess,
            QkNormBackward<T>(
                {.dweight = dweight.get(), .row_stride = 64, .segments = 1, .width = 64}, nullptr));
  EXPECT_EQ(std::vector<float>(64, 0.0f), dweight.Floats());
}

}  // namespace
}  // namespace espalier::kernels::cuda
