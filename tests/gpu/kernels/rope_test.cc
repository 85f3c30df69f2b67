// Goal: heads turn as on the CPU, those past `heads` stay, and turning back gives the input.
#include "kernels/cuda/rope.h"

#include "kernels/rope.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows;
  int heads, idle, head_dim;  // idle: heads of the row that are not turned
};
const Shape kShapes[] = {{1, 1, 0, 2},    {3, 5, 1, 6},  {70, 3, 3, 16}, {129, 18, 2, 64},
                         {33, 7, 0, 128}, {9, 2, 1, 20}, {5, 1, 2, 256}};
constexpr int kPositions = 3000;
constexpr double kTheta = 10000.0;

template <typename T>
class RopeTest : public ::testing::Test {};
TYPED_TEST_SUITE(RopeTest, Elements);

TYPED_TEST(RopeTest, TurnsAsTheCpuAndBack) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message()
                 << shape.rows << " rows of " << shape.heads << " x " << shape.head_dim);
    const int64_t stride = static_cast<int64_t>(shape.heads + shape.idle) * shape.head_dim;
    const int64_t turned = static_cast<int64_t>(shape.heads) * shape.head_dim;
    const auto x = RandomValues<T>(shape.rows * stride);
    const auto positions = RandomInts(shape.rows, 0, kPositions);
    RopeTable<double> table(shape.head_dim, kTheta);
    table.Reserve(kPositions);
    std::vector<double> want;
    for (int64_t row = 0; row < shape.rows; ++row) {
      want.insert(want.end(), x.begin() + row * stride, x.begin() + row * stride + turned);
    }
    kernels::Rope(want.data(), shape.rows, shape.heads, positions.data(), table,
                  RopeDirection::kForward, Pool());

    const Device<float> cos(kPositions * (shape.head_dim / 2)),
        sin(kPositions * (shape.head_dim / 2));
    ASSERT_EQ(cudaSuccess,
              FillRopeTable(cos.get(), sin.get(), kPositions, shape.head_dim, kTheta, nullptr));
    // The angles are computed in double on both sides; what differs is the rounding to fp32.
    EXPECT_LT(RelativeError(cos.Floats(),
                            std::vector<double>(table.cos(),
                                                table.cos() + kPositions * (shape.head_dim / 2))),
              1e-7);
    EXPECT_LT(RelativeError(sin.Floats(),
                            std::vector<double>(table.sin(),
                                                table.sin() + kPositions * (shape.head_dim / 2))),
              1e-7);

    const Device<T> device(x);
    const Device<int32_t> device_positions(positions);
    RopeArgs<T> args{.x = device.get(),
                     .rows = shape.rows,
                     .row_stride = stride,
                     .heads = shape.heads,
                     .head_dim = shape.head_dim,
                     .positions = device_positions.get(),
                     .cos = cos.get(),
                     .sin = sin.get()};
    ASSERT_EQ(cudaSuccess, Rope(args, nullptr));
    const auto all = device.Floats();
    std::vector<float> got;
    for (int64_t row = 0; row < shape.rows; ++row) {
      got.insert(got.end(), all.begin() + row * stride, all.begin() + row * stride + turned);
      for (int64_t i = turned; i < stride; ++i)
        ASSERT_EQ(x[row * stride + i], all[row * stride + i]);
    }
    EXPECT_LT(RelativeError(got, want), OneRounding<T>());
    args.backward = true;
    ASSERT_EQ(cudaSuccess, Rope(args, nullptr));
    EXPECT_LT(RelativeError(device.Floats(), x), 2 * OneRounding<T>());  // two roundings
  }
}

}  // namespace
}  // namespace espalier::kernels::cuda
