// Goal: causal attention over ragged sequences in a fused row, its gradient, and decoding from a
// cache are the CPU's, for head sizes with and without vectors, grouped heads, sequences of one
// token and of several tiles.
#include "kernels/cuda/attention.h"

#include "kernels/attention.h"
#include "tests/gpu/kernels/inputs.h"

namespace espalier::kernels::cuda {
namespace {

struct Shape {
  std::vector<int64_t> lengths;
  int heads, kv_heads, head_dim;
};
const std::vector<Shape> kShapes = {{{1}, 1, 1, 1},
                                    {{5, 1, 70}, 2, 1, 16},
                                    {{64, 64}, 4, 4, 32},
                                    {{130, 3, 200}, 6, 2, 64},
                                    {{100, 1, 1, 90}, 8, 2, 128},
                                    {{33, 65}, 2, 1, 80},
                                    {{77, 20}, 3, 3, 20},
                                    {{70, 31}, 2, 1, 256},
                                    {{40, 9}, 4, 1, 7},
                                    {{1, 1, 1, 1}, 2, 2, 64},
                                    {{300}, 1, 1, 128}};

int64_t TokensOf(const Shape& shape) {
  return std::accumulate(shape.lengths.begin(), shape.lengths.end(), int64_t{0});
}

// Fused rows of q, k and v on the device; apart and in double for the twin.
struct Inputs {
  std::vector<float> fused, dout;
  std::vector<double> q, k, v;
  std::vector<int64_t> starts;
  std::vector<int32_t> first_of, last_of;
};
template <typename T>
Inputs Draw(const Shape& shape) {
  const int64_t tokens = TokensOf(shape), d = shape.head_dim, q_width = shape.heads * d,
                kv_width = shape.kv_heads * d;
  const int64_t width = q_width + 2 * kv_width;
  Inputs in{
      RandomValues<T>(tokens * width), RandomValues<T>(tokens * q_width), {}, {}, {}, {0}, {}, {}};
  for (int64_t row = 0; row < tokens; ++row) {
    const auto at = in.fused.begin() + row * width;
    in.q.insert(in.q.end(), at, at + q_width);
    in.k.insert(in.k.end(), at + q_width, at + q_width + kv_width);
    in.v.insert(in.v.end(), at + q_width + kv_width, at + width);
  }
  for (const int64_t length : shape.lengths) {
    in.first_of.insert(in.first_of.end(), length, static_cast<int32_t>(in.starts.back()));
    in.starts.push_back(in.starts.back() + length);
    in.last_of.insert(in.last_of.end(), length, static_cast<int32_t>(in.starts.back()));
  }
  return in;
}

struct Want {
  std::vector<double> out, lse, dfused;
};
Want Twin(const Inputs& in, const Shape& shape) {
  const int64_t tokens = TokensOf(shape), d = shape.head_dim, q_width = shape.heads * d,
                kv_width = shape.kv_heads * d;
  Want want{std::vector<double>(tokens * q_width), std::vector<double>(tokens * shape.heads), {}};
  const kernels::AttentionArgs<double> args{.q = in.q.data(),
                                            .k = in.k.data(),
                                            .v = in.v.data(),
                                            .out = want.out.data(),
                                            .lse = want.lse.data(),
                                            .starts = in.starts,
                                            .heads = shape.heads,
                                            .kv_heads = shape.kv_heads,
                                            .head_dim = d};
  kernels::Buffer<double> scratch;
  kernels::Attention(args, scratch, Pool());
  const auto dout = Doubles(in.dout);
  std::vector<double> dq(in.q.size()), dk(in.k.size()), dv(in.v.size()), delta(want.lse.size());
  kernels::AttentionBackward(kernels::AttentionBackwardArgs<double>{.forward = args,
                                                                    .dout = dout.data(),
                                                                    .dq = dq.data(),
                                                                    .dk = dk.data(),
                                                                    .dv = dv.data(),
                                                                    .delta = delta.data()},
                             scratch, Pool());
  for (int64_t row = 0; row < tokens; ++row) {
    want.dfused.insert(want.dfused.end(), dq.begin() + row * q_width,
                       dq.begin() + (row + 1) * q_width);
    want.dfused.insert(want.dfused.end(), dk.begin() + row * kv_width,
                       dk.begin() + (row + 1) * kv_width);
    want.dfused.insert(want.dfused.end(), dv.begin() + row * kv_width,
                       dv.begin() + (row + 1) * kv_width);
  }
  return want;
}

template <typename T>
class AttentionTest : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionTest, Elements);

TYPED_TEST(AttentionTest, ForwardAndGradientAreTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const Shape& shape : kShapes) {
    const int64_t tokens = TokensOf(shape), d = shape.head_dim, q_width = shape.heads * d,
                  kv_width = shape.kv_heads * d;
    const int64_t width = q_width + 2 * kv_width;
    SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << shape.heads << "/"
                                      << shape.kv_heads << " heads of " << d);
    const Inputs in = Draw<T>(shape);
    const Want want = Twin(in, shape);
    const Device<T> fused(in.fused), out(tokens * q_width), dout(in.dout), dfused(tokens * width),
        again(tokens * width);
    const Device<float> lse(tokens * shape.heads), delta(tokens * shape.heads);
    const Device<int32_t> first_of(in.first_of), last_of(in.last_of);
    const AttentionArgs<T> args{.q = fused.get(),
                                .k = fused.get() + q_width,
                                .v = fused.get() + q_width + kv_width,
                                .q_stride = width,
                                .kv_stride = width,
                                .out = out.get(),
                                .lse = lse.get(),
                                .first_of = first_of.get(),
                                .last_of = last_of.get(),
                                .tokens = tokens,
                                .heads = shape.heads,
                                .kv_heads = shape.kv_heads,
                                .head_dim = shape.head_dim};
    ASSERT_EQ(cudaSuccess, Attention(args, nullptr));
    EXPECT_LT(RelativeError(out.Floats(), want.out), OneRounding<T>());
    // Scores of a few, sums over hundreds of keys: fp32 is off by less than 1e-5 of 1 at a row.
    EXPECT_LT(ErrorOver(lse.Floats(), want.lse, std::sqrt(static_cast<double>(want.lse.size()))),
              1e-5);

    AttentionBackwardArgs<T> backward{.forward = args,
                                      .dout = dout.get(),
                                      .dq = dfused.get(),
                                      .dk = dfused.get() + q_width,
                                      .dv = dfused.get() + q_width + kv_width,
                                      .delta = delta.get()};
    ASSERT_EQ(cudaSuccess, AttentionBackward(backward, nullptr));
    // delta comes from the rounded output, so its error (2^-8 of it) adds to the last rounding's.
    EXPECT_LT(RelativeError(dfused.Floats(), want.dfused), Tolerance<T>());
    backward.dq = again.get();
    backward.dk = again.get() + q_width;
    backward.dv = again.get() + q_width + kv_width;
    ASSERT_EQ(cudaSuccess, AttentionBackward(backward, nullptr));
    EXPECT_TRUE(SameBits(dfused.Raw(), again.Raw()));
  }
}

TYPED_TEST(AttentionTest, DecodingFromTheCacheIsTheCpus) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  constexpr int64_t kSequences = 5, kCapacity = 150;
  for (const Shape& shape : kShapes) {
    const int64_t d = shape.head_dim, q_width = shape.heads * d, kv_width = shape.kv_heads * d,
                  width = q_width + 2 * kv_width;
    SCOPED_TRACE(::testing::Message() << shape.heads << "/" << shape.kv_heads << " heads of " << d);
    const std::vector<int32_t> lengths = {1, 150, 37}, sequences = {4, 0, 2};
    const int64_t rows = static_cast<int64_t>(lengths.size());
    // The cached tokens of all three sequences as rows in a random order, as a batch of prompts may
    // bring them.
    std::vector<int32_t> row_sequence, row_position;
    for (int64_t i = 0; i < rows; ++i) {
      for (int32_t position = 0; position < lengths[i]; ++position) {
        row_sequence.push_back(sequences[i]);
        row_position.push_back(position);
      }
    }
    const auto order = RandomOrder(row_sequence.size());
    std::vector<int32_t> shuffled_sequence, shuffled_position;
    for (const int32_t at : order) {
      shuffled_sequence.push_back(row_sequence[at]);
      shuffled_position.push_back(row_position[at]);
    }
    const int64_t cached = static_cast<int64_t>(order.size());
    const auto fused = RandomValues<T>(cached * width), query = RandomValues<T>(rows * width);

    std::vector<double> keys(kSequences * kv_width * kCapacity), values(keys.size()), q,
        want(rows * q_width);
    const kernels::KvCache<double> twin{.keys = keys.data(),
                                        .values = values.data(),
                                        .capacity = kCapacity,
                                        .kv_heads = shape.kv_heads,
                                        .head_dim = d};
    for (int64_t row = 0; row < cached; ++row) {
      const auto at = fused.begin() + row * width + q_width;
      const std::vector<double> k(at, at + kv_width), v(at + kv_width, at + 2 * kv_width);
      kernels::AppendToCache(twin, shuffled_sequence[row], shuffled_position[row], k.data(),
                             v.data(), 1);
    }
    for (int64_t row = 0; row < rows; ++row)
      q.insert(q.end(), query.begin() + row * width, query.begin() + row * width + q_width);
    kernels::Buffer<double> scratch;
    kernels::AttentionDecode(twin, q.data(), sequences, lengths, shape.heads, want.data(), scratch,
                             Pool());

    const Device<T> device_keys(kSequences * kCapacity * kv_width),
        device_values(kSequences * kCapacity * kv_width);
    const Device<T> device_fused(fused), device_query(query), out(rows * q_width);
    const KvCache<T> cache{.keys = device_keys.get(),
                           .values = device_values.get(),
                           .capacity = kCapacity,
                           .kv_heads = shape.kv_heads,
                           .head_dim = shape.head_dim};
    ASSERT_EQ(cudaSuccess,
              AppendToCache(cache, Device<int32_t>(shuffled_sequence).get(),
                            Device<int32_t>(shuffled_position).get(), device_fused.get() + q_width,
                            device_fused.get() + q_width + kv_width, width, cached, nullptr));
    // What no token was appended to stays NaN, so a read past a length shows.
    ASSERT_EQ(
        cudaSuccess,
        AttentionDecode(cache, device_query.get(), width, Device<int32_t>(sequences).get(),
                        Device<int32_t>(lengths).get(), rows, shape.heads, out.get(), nullptr));
    EXPECT_LT(RelativeError(out.Floats(), want), OneRounding<T>());
  }
}

TYPED_TEST(AttentionTest, RefusesHeadsThatDoNotFit) {
  SKIP_WITHOUT_GPU();
  using T = TypeParam;
  AttentionArgs<T> args{.tokens = 1, .heads = 3, .kv_heads = 2, .head_dim = 64};
  EXPECT_EQ(cudaErrorInvalidValue, Attention(args, nullptr));
  args.kv_heads = 3;
  args.head_dim = kHeadDimMax + 1;
  EXPECT_EQ(cudaErrorInvalidValue, Attention(args, nullptr));
  EXPECT_EQ(cudaErrorInvalidValue,
            AttentionBackward(AttentionBackwardArgs<T>{.forward = args}, nullptr));
}

}  // namespace
}  // namespace espalier::kernels::cuda
