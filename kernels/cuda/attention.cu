// Causal attention, plain tiles: a block has kTile queries of a head and goes over their keys with
// a running maximum, so that scores never leave the chip.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace espalier::kernels::cuda {
namespace {

template <typename T, typename Tiles>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    ForwardKernel(AttentionArgs<T> args, float scale, bool vector) {
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, kTile = 16 * kRows;
  extern __shared__ float4 shared[];
  float* const q = reinterpret_cast<float*>(shared);
  float* const kv = q + Tiles::kFloats;  // keys, then values
  float* const scores = kv + Tiles::kFloats;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int tokens = static_cast<int>(args.tokens), d = args.head_dim;
  const int first = blockIdx.x * kTile, last = min(first + kTile, tokens);
  const int head = blockIdx.y, kv_head = head / (args.heads / args.kv_heads);
  const T* const keys = args.k + static_cast<int64_t>(kv_head) * d;
  const T* const values = args.v + static_cast<int64_t>(kv_head) * d;

  Tiles::Load(args.q + static_cast<int64_t>(head) * d, args.q_stride, first, last, d, vector, q);
  int begin[kRows];  // first key that the query sees
  float max[kRows], sum[kRows], out[kRows][kColumns];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int query = first + ty * kRows + r;
    begin[r] = query < last ? args.first_of[query] : INT32_MAX;
    max[r] = -INFINITY;
    sum[r] = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) out[r][c] = 0;
  }

  for (int key0 = args.first_of[first]; key0 < last; key0 += kTile) {
    __syncthreads();
    Tiles::Load(keys, args.kv_stride, key0, last, d, vector, kv);
    __syncthreads();
    float s[kRows][kRows];
    Tiles::Dots(q, kv, tx, ty, s);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int query = first + ty * kRows + r;
      float largest = -INFINITY;
#pragma unroll
      for (int c = 0; c < kRows; ++c) {
        const int key = key0 + tx + 16 * c;
        s[r][c] = key >= begin[r] && key <= query ? s[r][c] * scale : -INFINITY;
        largest = fmaxf(largest, s[r][c]);
      }
      largest = fmaxf(max[r], RowMax(largest));
      const float base =
          largest == -INFINITY ? 0.0f : largest;  // nothing seen yet: every exponential is 0
      const float factor = Exp<T>(max[r] - base);
      float added = 0;
#pragma unroll
      for (int c = 0; c < kRows; ++c) {
        s[r][c] = Exp<T>(s[r][c] - base);
        added += s[r][c];
      }
      max[r] = largest;
      sum[r] = sum[r] * factor + RowSum(added);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[r][c] *= factor;
    }
    Tiles::PutScores(s, tx, ty, scores);
    __syncthreads();
    Tiles::Load(values, args.kv_stride, key0, last, d, vector, kv);
    __syncthreads();
    Tiles::AddProduct(scores, kv, tx, ty, out);
  }

  float factor[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int query = first + ty * kRows + r;
    factor[r] = 1.0f / sum[r];
    if (tx == 0 && query < last)
      args.lse[static_cast<int64_t>(query) * args.heads + head] = max[r] + logf(sum[r]);
  }
  const int64_t stride = static_cast<int64_t>(args.heads) * d;
  Tiles::Store(out, factor, tx, ty, first, last, d, stride,
               args.out + static_cast<int64_t>(head) * d);
}

}  // namespace

template <typename T>
cudaError_t Attention(const AttentionArgs<T>& args, cudaStream_t stream) {
  if (args.head_dim < 1 || args.head_dim > kHeadDimMax || args.kv_heads < 1 || args.heads < 1 ||
      args.heads % args.kv_heads != 0 || args.tokens > INT32_MAX / 2) {
    return cudaErrorInvalidValue;
  }
  if (args.tokens == 0) return cudaSuccess;
  constexpr int kV = kVector<T>;
  const bool vector = args.head_dim % kV == 0 && args.q_stride % kV == 0 &&
                      args.kv_stride % kV == 0 && Aligned16({args.q, args.k, args.v});
  const float scale = 1.0f / sqrtf(static_cast<float>(args.head_dim));
  return WithTile(args.head_dim, [&](auto tiles) {
    using Tiles = decltype(tiles);
    constexpr int kBytes =
        static_cast<int>(sizeof(float)) * (2 * Tiles::kFloats + Tiles::kScoreFloats);
    const auto kernel = ForwardKernel<T, Tiles>;
    if (const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
        error != cudaSuccess) {
      return error;
    }
    const dim3 grid(BlocksFor(args.tokens, 16 * Tiles::kRows), args.heads);
    kernel<<<grid, kAttentionThreads, kBytes, stream>>>(args, scale, vector);
    return cudaGetLastError();
  });
}

template cudaError_t Attention<float>(const AttentionArgs<float>&, cudaStream_t);
template cudaError_t Attention<__nv_bfloat16>(const AttentionArgs<__nv_bfloat16>&, cudaStream_t);

}  // namespace espalier::kernels::cuda
