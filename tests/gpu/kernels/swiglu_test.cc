// Goal: the gate with the weight of the row and its gradient are the CPU's gate, times the weight.
#include "kernels/cuda/swiglu.h"

#include "kernels/swiglu.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows, inner;
};
const Shape kShapes[] = {{1, 1},     {1, 8},     {3, 5},    {7, 64},   {1025, 1}, {130, 512},
                         {65, 1024}, {33, 1000}, {9, 1030}, {4, 3000}, {2, 9000}};

template <typename T>
class SwigluTest : public ::testing::Test {};
TYPED_TEST_SUITE(SwigluTest, Elements);

struct Case {
  Shape shape;
  std::vector<float> gate_up, weight, dh;
  std::vector<double> h, dgate_up, dweight;
  double dweight_scale =
      0;  // norm of the terms whose sums dweight is: the sums themselves may cancel
};

template <typename T>
Case Draw(Shape shape, bool weighted) {
  Case c{shape, RandomValues<T>(shape.rows * 2 * shape.inner, 3.0), RandomValues<float>(shape.rows),
         RandomValues<T>(shape.rows * shape.inner)};
  if (!weighted) std::fill(c.weight.begin(), c.weight.end(), 1.0f);
  const int64_t inner = shape.inner;
  c.dweight.assign(shape.rows, 0);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const auto begin = c.gate_up.begin() + row * 2 * inner;
    std::vector<double> gate(begin, begin + inner), up(begin + inner, begin + 2 * inner), h(inner),
        dh(inner);
    kernels::Swiglu(gate.data(), up.data(), h.data(), inner, Pool());
    for (int64_t i = 0; i < inner; ++i) {
      const double term = c.dh[row * inner + i] * h[i];
      c.dweight[row] += term;
      c.dweight_scale += term * term;
      c.h.push_back(c.weight[row] * h[i]);
      dh[i] = static_cast<double>(c.weight[row]) * c.dh[row * inner + i];
    }
    kernels::SwigluBackward(gate.data(), up.data(), dh.data(), inner, Pool());
    c.dgate_up.insert(c.dgate_up.end(), gate.begin(), gate.end());
    c.dgate_up.insert(c.dgate_up.end(), up.begin(), up.end());
  }
  c.dweight_scale = std::sqrt(c.dweight_scale);
  return c;
}

TYPED_TEST(SwigluTest, IsTheCpusTimesTheWeightOfTheRow) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    for (const bool weighted : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << shape.rows << " x " << shape.inner << " weighted " << weighted);
      const Case c = Draw<T>(shape, weighted);
      const Device<T> gate_up(c.gate_up), h(shape.rows * shape.inner);
      const Device<float> weight(c.weight);
      ASSERT_EQ(cudaSuccess, Swiglu(gate_up.get(), weighted ? weight.get() : nullptr, h.get(),
                                    shape.rows, shape.inner, nullptr));
      EXPECT_LT(RelativeError(h.Floats(), c.h), OneRounding<T>());
    }
  }
}

TYPED_TEST(SwigluTest, GradientIsTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    for (const bool weighted : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << shape.rows << " x " << shape.inner << " weighted " << weighted);
      const Case c = Draw<T>(shape, weighted);
      const Device<T> gate_up(c.gate_up), dh(c.dh), dgate_up(shape.rows * 2 * shape.inner);
      const Device<float> weight(c.weight), dweight(shape.rows);
      SwigluBackwardArgs<T> args{.gate_up = gate_up.get(),
                                 .row_weight = weighted ? weight.get() : nullptr,
                                 .dh = dh.get(),
                                 .dgate_up = dgate_up.get(),
                                 .drow_weight = dweight.get(),
                                 .rows = shape.rows,
                                 .inner = shape.inner};
      ASSERT_EQ(cudaSuccess, SwigluBackward(args, nullptr));
      EXPECT_LT(RelativeError(dgate_up.Floats(), c.dgate_up), OneRounding<T>());
      // fp32 whatever T is; the fast exponential of bf16 is off by up to 2e-6.
      EXPECT_LT(ErrorOver(dweight.Floats(), c.dweight, c.dweight_scale), 1e-5);
      args.dgate_up = gate_up.get();  // in place, and nobody asks for the weights' gradient
      args.drow_weight = nullptr;
      ASSERT_EQ(cudaSuccess, SwigluBackward(args, nullptr));
      EXPECT_TRUE(SameBits(dgate_up.Raw(), gate_up.Raw()));
    }
  }
}

TYPED_TEST(SwigluTest, FarOutTheGateIsOpenOrShut) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  const std::vector<float> gate_up = {-1000, -100, 100, 1000, 1, 1, 1, 1};
  const Device<T> device(gate_up), h(4);
  ASSERT_EQ(cudaSuccess, Swiglu<T>(device.get(), nullptr, h.get(), 1, 4, nullptr));
  EXPECT_EQ((std::vector<float>{0, 0, 100, 1000}), h.Floats());
}

}  // namespace
}  // namespace espalier::kernels::cuda
