// Goal: the norm inside fused rows and its gradient are RMSNorm of the segments, and nothing beside
// them is touched. Method: the CPU twin on the segments copied out, at heads that fit a warp's
// vectors, at whole widths, and at sizes that no vector divides.
#include "kernels/cuda/qk_norm.h"

#include "kernels/norm.h"
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
