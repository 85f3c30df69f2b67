// Goal: rows of the table are copied, and the gradient is the CPU's for rare and for frequent
// tokens, bit for bit each time.
#include "kernels/cuda/embedding.h"

#include <map>

#include "kernels/embedding.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  int64_t rows, width;
  int32_t vocabulary;
};
// One token has 3000 rows in the last: more than one warp sums.
const Shape kShapes[] = {{1, 1, 1},      {5, 7, 3},     {300, 64, 50}, {100, 768, 1000},
                         {500, 2048, 4}, {77, 2051, 9}, {3000, 40, 1}};

template <typename T>
class EmbeddingTest : public ::testing::Test {};
TYPED_TEST_SUITE(EmbeddingTest, Elements);

TYPED_TEST(EmbeddingTest, CopiesRows) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    const auto table = RandomValues<T>(shape.vocabulary * shape.width);
    const auto tokens = RandomInts(shape.rows, 0, shape.vocabulary);
    std::vector<float> want(shape.rows * shape.width);
    kernels::Embed(table.data(), tokens.data(), want.data(), shape.rows, shape.width, Pool());
    const Device<T> device(table), out(shape.rows * shape.width);
    ASSERT_EQ(cudaSuccess, Embed(device.get(), Device<int32_t>(tokens).get(), out.get(), shape.rows,
                                 shape.width, nullptr));
    EXPECT_EQ(want, out.Floats());
  }
}

TYPED_TEST(EmbeddingTest, GradientIsTheCpusAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message()
                 << shape.rows << " x " << shape.width << " of " << shape.vocabulary);
    const auto dout = RandomValues<T>(shape.rows * shape.width),
               old = RandomValues<T>(shape.vocabulary * shape.width);
    const auto tokens = RandomInts(shape.rows, 0, shape.vocabulary);
    const auto dout_double = Doubles(dout);
    auto want = Doubles(old);
    kernels::EmbedBackward(dout_double.data(), tokens.data(), want.data(), shape.rows, shape.width,
                           Pool());

    std::map<int32_t, std::vector<int32_t>> rows_of;
    for (int64_t row = 0; row < shape.rows; ++row)
      rows_of[tokens[row]].push_back(static_cast<int32_t>(row));
    std::vector<int32_t> distinct, starts, order;
    for (const auto& [token, rows] : rows_of) {
      distinct.push_back(token);
      starts.push_back(static_cast<int32_t>(order.size()));
      order.insert(order.end(), rows.begin(), rows.end());
    }
    starts.push_back(static_cast<int32_t>(order.size()));
    const Device<T> device_dout(dout);
    const Device<int32_t> device_distinct(distinct), device_starts(starts), device_order(order);
    std::vector<T> first;
    for (int run = 0; run < 2; ++run) {
      const Device<T> dtable(old);
      ASSERT_EQ(cudaSuccess,
                EmbedBackward(
                    EmbedBackwardArgs<T>{.dout = device_dout.get(),
                                         .distinct = device_distinct.get(),
                                         .starts = device_starts.get(),
                                         .order = device_order.get(),
                                         .dtable = dtable.get(),
                                         .distinct_count = static_cast<int64_t>(distinct.size()),
                                         .width = shape.width},
                    nullptr));
      if (run == 0) first = dtable.Raw();
      EXPECT_TRUE(SameBits(first, dtable.Raw()));
      // fp32 sums, then one rounding. A single element may cancel: the scale is at least that of
      // the terms.
      const double terms =
          std::sqrt(static_cast<double>((shape.rows + shape.vocabulary) * shape.width));
      EXPECT_LT(ErrorOver(dtable.Floats(), want, std::max(terms, Norm(want))), OneRounding<T>());
    }
  }
}

}  // namespace
}  // namespace espalier::kernels::cuda
