// Goal: RMSNorm and its gradient are the CPU's, at widths that fit registers, that need the general
// kernel and that no vector divides.
#include "kernels/cuda/norm.h"

#include "kernels/cuda/permute.h"

#include "kernels/norm.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows, width;
};
const Shape kShapes[] = {{1, 1},    {1, 7},      {3, 8},     {5, 33},    {17, 64},
                         {64, 768}, {129, 1000}, {2500, 96}, {37, 2048}, {1100, 2048},
                         {9, 4096}, {5, 4104},   {3, 8200},  {300, 2050}};

template <typename T>
class NormTest : public ::testing::Test {};
TYPED_TEST_SUITE(NormTest, Elements);

struct Inputs {
  std::vector<float> x, weight, dy, residual, dweight;
};
template <typename T>
Inputs Draw(Shape shape) {
  return {RandomValues<T>(shape.rows * shape.width, 2.0), RandomValues<T>(shape.width),
          RandomValues<T>(shape.rows * shape.width), RandomValues<T>(shape.rows * shape.width),
          RandomValues<T>(shape.width)};
}

struct Want {
  std::vector<double> y, rstd, dx, dweight;  // dx without a residual, dweight added to nothing
};
Want Twin(const Inputs& in, Shape shape) {
  const auto x = Doubles(in.x), weight = Doubles(in.weight), dy = Doubles(in.dy);
  Want want{std::vector<double>(x.size()), std::vector<double>(shape.rows),
            std::vector<double>(x.size(), 0.0), std::vector<double>(shape.width, 0.0)};
  kernels::RmsNorm(kernels::RmsNormArgs<double>{.x = x.data(),
                                                .weight = weight.data(),
                                                .y = want.y.data(),
                                                .rstd = want.rstd.data(),
                                                .rows = shape.rows,
                                                .width = shape.width},
                   Pool());
  kernels::Buffer<double> scratch;
  kernels::RmsNormBackward(kernels::RmsNormBackwardArgs<double>{.dy = dy.data(),
                                                                .x = x.data(),
                                                                .weight = weight.data(),
                                                                .rstd = want.rstd.data(),
                                                                .dx = want.dx.data(),
                                                                .dweight = want.dweight.data(),
                                                                .rows = shape.rows,
                                                                .width = shape.width},
                           scratch, Pool());
  return want;
}

TYPED_TEST(NormTest, ForwardIsTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.width);
    const Inputs in = Draw<T>(shape);
    const Want want = Twin(in, shape);
    const Device<T> x(in.x), weight(in.weight), y(shape.rows * shape.width);
    const Device<float> rstd(shape.rows);
    RmsNormArgs<T> args{.x = x.get(),
                        .weight = weight.get(),
                        .y = y.get(),
                        .rstd = rstd.get(),
                        .rows = shape.rows,
                        .width = shape.width};
    ASSERT_EQ(cudaSuccess, RmsNorm(args, nullptr));
    EXPECT_LT(RelativeError(y.Floats(), want.y), OneRounding<T>());
    EXPECT_LT(RelativeError(rstd.Floats(), want.rstd), 1e-6);  // one fp32 sum and a square root

    args.y = x.get();  // in place, and nobody asks for rstd
    args.rstd = nullptr;
    ASSERT_EQ(cudaSuccess, RmsNorm(args, nullptr));
    EXPECT_TRUE(SameBits(y.Raw(), x.Raw()));
  }
}

TYPED_TEST(NormTest, BackwardIsTheCpusAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << shape.rows << " x " << shape.width << " accumulate " << accumulate);
      const Inputs in = Draw<T>(shape);
      Want want = Twin(in, shape);
      for (size_t i = 0; i < in.residual.size(); ++i) want.dx[i] += in.residual[i];
      if (accumulate) {
        for (int64_t i = 0; i < shape.width; ++i) want.dweight[i] += in.dweight[i];
      }
      const Device<T> x(in.x), weight(in.weight), dy(in.dy), residual(in.residual),
          dx(shape.rows * shape.width);
      const Device<float> rstd(want.rstd), partials(kNormPartials * shape.width);
      std::vector<T> first;
      for (int run = 0; run < 2; ++run) {
        const Device<T> dweight = accumulate ? Device<T>(in.dweight) : Device<T>(shape.width);
        RmsNormBackwardArgs<T> args{.dy = dy.get(),
                                    .x = x.get(),
                                    .weight = weight.get(),
                                    .rstd = rstd.get(),
                                    .residual = residual.get(),
                                    .dx = dx.get(),
                                    .dweight = dweight.get(),
                                    .partials = partials.get(),
                                    .rows = shape.rows,
                                    .width = shape.width,
                                    .accumulate = accumulate};
        if (run == 1) args.dx = residual.get();  // in place
        ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
        if (run == 0) first = dweight.Raw();
        EXPECT_TRUE(SameBits(first, dweight.Raw()));
        // The residual keeps dx from cancelling; dweight is a sum over rows of terms of about 1, so
        // its own norm may be small where there are few: the scale is that of the terms.
        const double terms = std::sqrt(static_cast<double>(shape.rows) * shape.width);
        EXPECT_LT(ErrorOver(dweight.Floats(), want.dweight, std::max(terms, Norm(want.dweight))),
                  OneRounding<T>());
      }
      EXPECT_LT(RelativeError(dx.Floats(), want.dx), OneRounding<T>());
      EXPECT_TRUE(SameBits(dx.Raw(), residual.Raw()));
    }
  }
}

TYPED_TEST(NormTest, AddsTheRowsOfSlotsAsSumSlotsDoes) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    for (const int top_k : {1, 5, 8}) {
      SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.width << " top " << top_k);
      const Inputs in = Draw<T>(shape);
      const Want want = Twin(in, shape);  // for rstd
      const int64_t slots = shape.rows * top_k;
      const Device<T> x(in.x), weight(in.weight), dy(in.dy), summed(shape.rows * shape.width),
          rows(RandomValues<T>(slots * shape.width)), dx(shape.rows * shape.width),
          dx_slots(shape.rows * shape.width), dweight(shape.width), dweight_slots(shape.width);
      const Device<float> rstd(want.rstd), partials(kNormPartials * shape.width);
      const Device<int32_t> slot(RandomOrder(slots));
      ASSERT_EQ(cudaSuccess, SumSlots<T>({.rows = rows.get(),
                                          .slot = slot.get(),
                                          .residual = dy.get(),
                                          .out = summed.get(),
                                          .tokens = shape.rows,
                                          .width = shape.width,
                                          .top_k = top_k},
                                         nullptr));
      RmsNormBackwardArgs<T> args{.dy = summed.get(),
                                  .x = x.get(),
                                  .weight = weight.get(),
                                  .rstd = rstd.get(),
                                  .dx = dx.get(),
                                  .dweight = dweight.get(),
                                  .partials = partials.get(),
                                  .rows = shape.rows,
                                  .width = shape.width};
      ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
      args.dy = dy.get();
      args.slot_rows = rows.get();
      args.slot = slot.get();
      args.top_k = top_k;
      args.dx = dx_slots.get();
      args.dweight = dweight_slots.get();
      ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
      EXPECT_TRUE(SameBits(dx.Raw(), dx_slots.Raw()));
      EXPECT_TRUE(SameBits(dweight.Raw(), dweight_slots.Raw()));
    }
  }
}

TYPED_TEST(NormTest, NormalisesTheSumOverSlots) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape shape : kShapes) {
    for (const int top_k : {1, 5, 8}) {
      for (const bool residual : {true, false}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.width << " top " << top_k
                                          << " residual " << residual);
        const Inputs in = Draw<T>(shape);
        const int64_t slots = shape.rows * top_k, size = shape.rows * shape.width;
        const Device<T> x(in.x), weight(in.weight), rows(RandomValues<T>(slots * shape.width)),
            sum(size), y(size), sum_alone(size), y_alone(size);
        const Device<float> rstd(shape.rows), rstd_alone(shape.rows);
        const Device<int32_t> slot(RandomOrder(slots));
        const T* base = residual ? x.get() : nullptr;
        ASSERT_EQ(cudaSuccess, SumSlots<T>({.rows = rows.get(),
                                            .slot = slot.get(),
                                            .residual = base,
                                            .out = sum_alone.get(),
                                            .tokens = shape.rows,
                                            .width = shape.width,
                                            .top_k = top_k},
                                           nullptr));
        ASSERT_EQ(cudaSuccess, RmsNorm<T>({.x = sum_alone.get(),
                                           .weight = weight.get(),
                                           .y = y_alone.get(),
                                           .rstd = rstd_alone.get(),
                                           .rows = shape.rows,
                                           .width = shape.width},
                                          nullptr));
        ASSERT_EQ(cudaSuccess, RmsNorm<T>({.x = base,
                                           .weight = weight.get(),
                                           .y = y.get(),
                                           .rstd = rstd.get(),
                                           .rows = shape.rows,
                                           .width = shape.width,
                                           .slot_rows = rows.get(),
                                           .slot = slot.get(),
                                           .top_k = top_k,
                                           .sum = sum.get()},
                                          nullptr));
        EXPECT_TRUE(SameBits(sum_alone.Raw(), sum.Raw()));
        EXPECT_TRUE(SameBits(y_alone.Raw(), y.Raw()));
        EXPECT_TRUE(SameBits(rstd_alone.Raw(), rstd.Raw()));
      }
    }
  }
}

TYPED_TEST(NormTest, SharesOfSeveralWeightsAddUpTogetherAsAlone) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  const Shape shapes[] = {{300, 768}, {5, 33}, {1100, 2048}};
  NormShares<T> later[kNormSharesMax];  // the last one stays empty
  std::vector<Device<T>> together, alone;
  std::vector<Device<float>> kept;
  for (size_t i = 0; i < std::size(shapes); ++i) {
    const Shape shape = shapes[i];
    const Inputs in = Draw<T>(shape);
    const Device<T> x(in.x), weight(in.weight), dy(in.dy), dx(shape.rows * shape.width);
    const Device<float> rstd(std::vector<float>(shape.rows, 0.5f));
    together.emplace_back(shape.width);
    alone.emplace_back(shape.width);
    kept.emplace_back(kNormPartials * shape.width);
    RmsNormBackwardArgs<T> args{.dy = dy.get(),
                                .x = x.get(),
                                .weight = weight.get(),
                                .rstd = rstd.get(),
                                .dx = dx.get(),
                                .dweight = alone[i].get(),
                                .partials = kept[i].get(),
                                .rows = shape.rows,
                                .width = shape.width};
    ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
    args.dweight = together[i].get();
    args.later = &later[i];
    ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
    ASSERT_EQ(cudaSuccess, cudaDeviceSynchronize());  // inputs end here
  }
  ASSERT_EQ(cudaSuccess, AddNormShares<T>(later, nullptr));
  for (size_t i = 0; i < std::size(shapes); ++i) {
    EXPECT_TRUE(SameBits(alone[i].Raw(), together[i].Raw())) << i;
  }
}

TYPED_TEST(NormTest, BackwardWithoutResidualOrRows) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  const Shape shape{70, 768};
  const Inputs in = Draw<T>(shape);
  const Want want = Twin(in, shape);
  const Device<T> x(in.x), weight(in.weight), dy(in.dy), dx(shape.rows * shape.width),
      dweight(shape.width);
  const Device<float> rstd(want.rstd), partials(kNormPartials * shape.width);
  RmsNormBackwardArgs<T> args{.dy = dy.get(),
                              .x = x.get(),
                              .weight = weight.get(),
                              .rstd = rstd.get(),
                              .dx = dx.get(),
                              .dweight = dweight.get(),
                              .partials = partials.get(),
                              .rows = shape.rows,
                              .width = shape.width};
  ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
  EXPECT_LT(RelativeError(dx.Floats(), want.dx), OneRounding<T>());
  args.rows = 0;
  ASSERT_EQ(cudaSuccess, RmsNormBackward(args, nullptr));
  EXPECT_EQ(std::vector<float>(shape.width, 0.0f),
            dweight.Floats());  // written, with the sum of nothing
}

}  // namespace
}  // namespace espalier::kernels::cuda
