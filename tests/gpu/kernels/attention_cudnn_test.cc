// Goal: cuDNN's attention and its gradient are the CPU twin's (fp32 on the same bf16 inputs), for grouped heads, both head sizes
// and lengths that are no multiple of a tile; a shape that cuDNN does not take is refused, not computed wrongly.
#include "kernels/cuda/attention_cudnn.h"

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "libs/base/thread_pool.h"
#include "tests/gpu/kernels/inputs.h"
#include "tests/gpu/kernels/twin.h"

namespace espalier::kernels::cuda {
namespace {

// A few roundings to bf16 lie between (probabilities, their gradients): 1e-2 of the norm, as for other users of bf16 flash
// attention; measured is 2e-3.
constexpr double kTolerance = 1e-2;

struct Twin {
  std::vector<float> out, stats, dqkv;
};

// Cuts packed rows into q, k and v; and back.
struct Parts {
  std::vector<float> q, k, v;
};
Parts Unpack(const std::vector<float>& packed, int64_t rows, int64_t q_width, int64_t kv_width) {
  Parts parts;
  const int64_t width = q_width + 2 * kv_width;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = packed.data() + r * width;
    parts.q.insert(parts.q.end(), row, row + q_width);
    parts.k.insert(parts.k.end(), row + q_width, row + q_width + kv_width);
    parts.v.insert(parts.v.end(), row + q_width + kv_width, row + width);
  }
  return parts;
}
std::vector<float> Pack(const Parts& parts, int64_t rows, int64_t q_width, int64_t kv_width) {
  std::vector<float> packed;
  for (int64_t r = 0; r < rows; ++r) {
    packed.insert(packed.end(), parts.q.begin() + r * q_width, parts.q.begin() + (r + 1) * q_width);
    packed.insert(packed.end(), parts.k.begin() + r * kv_width, parts.k.begin() + (r + 1) * kv_width);
    packed.insert(packed.end(), parts.v.begin() + r * kv_width, parts.v.begin() + (r + 1) * kv_width);
  }
  return packed;
}

Twin ComputeTwin(const AttentionShape& s, const std::vector<float>& qkv, const std::vector<float>& dout) {
  const int64_t rows = s.batch * s.length, q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
  const Parts in = Unpack(qkv, rows, q_width, kv_width);
  std::vector<int64_t> starts;
  for (int64_t b = 0; b <= s.batch; ++b) starts.push_back(b * s.length);
  Twin twin;
  twin.out.resize(rows * q_width);
  std::vector<float> lse(rows * s.heads), delta(rows * s.heads);
  Parts gradient = in;
  base::ThreadPool pool(1);
  kernels::Buffer<float> scratch;
  kernels::AttentionBackwardArgs<float> args;
  args.forward.q = in.q.data(), args.forward.k = in.k.data(), args.forward.v = in.v.data();
  args.forward.out = twin.out.data(), args.forward.lse = lse.data(), args.forward.starts = starts;
  args.forward.heads = s.heads, args.forward.kv_heads = s.kv_heads, args.forward.head_dim = s.head_dim;
  args.dout = dout.data(), args.delta = delta.data();
  args.dq = gradient.q.data(), args.dk = gradient.k.data(), args.dv = gradient.v.data();
  kernels::Attention(args.forward, scratch, pool);
  kernels::AttentionBackward(args, scratch, pool);
  twin.dqkv = Pack(gradient, rows, q_width, kv_width);
  twin.stats.resize(lse.size());  // [B, S, H] there, [B, H, S] here
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t t = 0; t < s.length; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        twin.stats[(b * s.heads + h) * s.length + t] = lse[(b * s.length + t) * s.heads + h];
      }
    }
  }
  return twin;
}

void Check(CudnnAttention& attention, cudaStream_t stream, const AttentionShape& s) {
  SCOPED_TRACE(absl::StrCat("batch ", s.batch, " length ", s.length, " heads ", s.heads, "/", s.kv_heads, " dim ", s.head_dim));
  const int64_t rows = s.batch * s.length, q_width = s.heads * s.head_dim, width = q_width + 2 * s.kv_heads * s.head_dim;
  const std::vector<float> qkv = RandomValues<__nv_bfloat16>(rows * width), dout = RandomValues<__nv_bfloat16>(rows * q_width);
  const Device<__nv_bfloat16> device_qkv(qkv), device_dout(dout), out(rows * q_width), dqkv(rows * width);
  const Device<float> stats(rows * s.heads);
  absl::Status status = attention.Forward(s, device_qkv.get(), out.get(), stats.get(), stream);
  ASSERT_TRUE(status.ok()) << status;
  status = attention.Backward(s, device_qkv.get(), out.get(), stats.get(), device_dout.get(), dqkv.get(), stream);
  ASSERT_TRUE(status.ok()) << status;
  const Twin twin = ComputeTwin(s, qkv, dout);
  EXPECT_LT(RelativeError(out.Floats(), twin.out), kTolerance);
  EXPECT_LT(RelativeError(stats.Floats(), twin.stats), 1e-3);
  const int64_t kv_width = s.kv_heads * s.head_dim;
  const Parts got = Unpack(dqkv.Floats(), rows, q_width, kv_width), want = Unpack(twin.dqkv, rows, q_width, kv_width);
  // A token that sees itself alone has no gradient through its scores: what is left there is the rounding of terms that cancel.
  const double terms = 0.2 * Norm(want.v);
  EXPECT_LT(ErrorOver(got.q, want.q, std::max(Norm(want.q), terms)), kTolerance) << "dq";
  EXPECT_LT(ErrorOver(got.k, want.k, std::max(Norm(want.k), terms)), kTolerance) << "dk";
  EXPECT_LT(RelativeError(got.v, want.v), kTolerance) << "dv";
}

class CudnnAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    auto attention = CudnnAttention::Create();
    ASSERT_TRUE(attention.ok()) << attention.status();
    attention_ = *std::move(attention);
    auto stream = MakeStream();
    ASSERT_TRUE(stream.ok());
    stream_ = *std::move(stream);
  }
  Stream stream_;
  std::unique_ptr<CudnnAttention> attention_;
};

TEST_F(CudnnAttentionTest, AgreesWithTheTwin) {
  for (const AttentionShape& shape : {AttentionShape{2, 256, 4, 4, 128}, AttentionShape{2, 256, 4, 4, 64},
                                      AttentionShape{2, 256, 8, 2, 128}, AttentionShape{2, 128, 8, 2, 64},
                                      AttentionShape{1, 1024, 2, 2, 128}}) {
    ASSERT_TRUE(attention_->Supports(shape)) << shape.length;
    Check(*attention_, stream_.get(), shape);
  }
}

TEST_F(CudnnAttentionTest, AgreesWithTheTwinAtOtherLengthsOrRefuses) {
  int taken = 0;
  for (const int64_t length : {int64_t{200}, int64_t{65}, int64_t{1}, int64_t{100}}) {
    const AttentionShape shape = {2, length, 4, 2, 128};
    if (!attention_->Supports(shape)) {
      std::printf("cuDNN does not take length %lld\n", static_cast<long long>(length));
      continue;
    }
    ++taken;
    Check(*attention_, stream_.get(), shape);
  }
  EXPECT_GT(taken, 0);  // 200 at least
}

// Plans are kept by shape and the addresses come with the call.
TEST_F(CudnnAttentionTest, TakesOtherAddressesForAKnownShape) {
  const AttentionShape shape = {1, 128, 2, 2, 64};
  Check(*attention_, stream_.get(), shape);
  Check(*attention_, stream_.get(), shape);
}

// The forward pass has one order of sums. The gradient's dq is summed over blocks of keys: whether in one order is cuDNN's
// affair, so the last bits are reported, and only their size is tested.
TEST_F(CudnnAttentionTest, GivesTheSameBitsAgain) {
  const AttentionShape s = {2, 1024, 4, 2, 128};
  const int64_t rows = s.batch * s.length, q_width = s.heads * s.head_dim, width = q_width + 2 * s.kv_heads * s.head_dim;
  const Device<__nv_bfloat16> qkv(RandomValues<__nv_bfloat16>(rows * width)), dout(RandomValues<__nv_bfloat16>(rows * q_width));
  std::vector<std::vector<float>> outs, gradients;
  for (int i = 0; i < 3; ++i) {
    const Device<__nv_bfloat16> out(rows * q_width), dqkv(rows * width);
    const Device<float> stats(rows * s.heads);
    absl::Status status = attention_->Forward(s, qkv.get(), out.get(), stats.get(), stream_.get());
    ASSERT_TRUE(status.ok()) << status;
    status = attention_->Backward(s, qkv.get(), out.get(), stats.get(), dout.get(), dqkv.get(), stream_.get());
    ASSERT_TRUE(status.ok()) << status;
    outs.push_back(out.Floats());
    gradients.push_back(dqkv.Floats());
  }
  for (int i = 1; i < 3; ++i) {
    EXPECT_EQ(outs[0], outs[i]);
    EXPECT_LT(RelativeError(gradients[i], gradients[0]), 1e-3);
    std::printf("gradient of run %d: %s\n", i, gradients[i] == gradients[0] ? "same bits" : "other bits");
  }
}

TEST_F(CudnnAttentionTest, TakesNoTokens) {
  EXPECT_TRUE(attention_->Forward({0, 128, 2, 2, 64}, nullptr, nullptr, nullptr, stream_.get()).ok());
  EXPECT_TRUE(attention_->Backward({2, 0, 2, 2, 64}, nullptr, nullptr, nullptr, nullptr, nullptr, stream_.get()).ok());
}

TEST_F(CudnnAttentionTest, RefusesWhatItDoesNotTake) {
  EXPECT_FALSE(attention_->Supports({2, 128, 4, 4, 60}));
  EXPECT_FALSE(attention_->Supports({2, 128, 4, 3, 64}));
  const absl::Status status = attention_->Forward({2, 128, 4, 3, 64}, nullptr, nullptr, nullptr, stream_.get());
  EXPECT_EQ(absl::StatusCode::kUnimplemented, status.code()) << status;
}

}  // namespace
}  // namespace espalier::kernels::cuda
