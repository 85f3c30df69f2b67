// Gradient of causal attention, plain tiles. One kernel twice: blocks that own queries sum dq over
// keys, blocks that own keys sum dk and dv over queries and the query heads of their key head.
// Scores are computed in both, and nothing is added by two blocks.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace espalier::kernels::cuda {
namespace {

// delta[token, head] = dot(dout, out), a warp each.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    DeltaKernel(const T* dout, const T* out, float* delta, int64_t count, int head_dim) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kAttentionThreads / 32) + threadIdx.x / 32;
  if (at >= count) return;
  float sum = 0;
  for (int i = threadIdx.x % 32; i < head_dim; i += 32)
    sum += ToFloat(dout[at * head_dim + i]) * ToFloat(out[at * head_dim + i]);
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) delta[at] = sum;
}

// What a query brings to the gradient of its scores.
struct Query {
  int begin = INT32_MAX;  // first key that it sees; none when there is no such query
  float lse = 0, delta = 0;
};
template <typename T>
__device__ __forceinline__ Query QueryAt(const AttentionBackwardArgs<T>& args, int query, int end,
                                         int head) {
  if (query >= end) return {};
  const int64_t at = static_cast<int64_t>(query) * args.forward.heads + head;
  return {args.forward.first_of[query], args.forward.lse[at], args.delta[at]};
}

template <typename T, typename Tiles, bool kOwnKeys>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    BackwardKernel(AttentionBackwardArgs<T> args, float scale, bool vector) {
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, kTile = 16 * kRows;
  extern __shared__ float4 shared[];
  float* const own1 = reinterpret_cast<float*>(shared);  // queries, or keys
  float* const own2 = own1 + Tiles::kFloats;             // dout, or values
  float* const other1 = own2 + Tiles::kFloats;
  float* const other2 = other1 + Tiles::kFloats;
  float* const scores = other2 + Tiles::kFloats;
  const AttentionArgs<T>& f = args.forward;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int tokens = static_cast<int>(f.tokens), d = f.head_dim, group = f.heads / f.kv_heads;
  const int first = blockIdx.x * kTile, last = min(first + kTile, tokens);
  const int64_t out_stride = static_cast<int64_t>(f.heads) * d;
  const int head0 = kOwnKeys ? blockIdx.y * group : blockIdx.y;
  const int kv_head = kOwnKeys ? blockIdx.y : blockIdx.y / group;
  const int64_t kv_offset = static_cast<int64_t>(kv_head) * d;
  const int other_begin = kOwnKeys ? first : f.first_of[first];
  const int other_end = kOwnKeys ? f.last_of[last - 1] : last;

  float sum1[kRows][kColumns], sum2[kRows][kColumns];  // dq; or dk and dv
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sum1[r][c] = sum2[r][c] = 0;
  }
  if constexpr (kOwnKeys) {
    Tiles::Load(f.k + kv_offset, f.kv_stride, first, last, d, vector, own1);
    Tiles::Load(f.v + kv_offset, f.kv_stride, first, last, d, vector, own2);
  } else {
    Tiles::Load(f.q + static_cast<int64_t>(head0) * d, f.q_stride, first, last, d, vector, own1);
    Tiles::Load(args.dout + static_cast<int64_t>(head0) * d, out_stride, first, last, d, vector,
                own2);
  }

  for (int head = head0; head < head0 + (kOwnKeys ? group : 1); ++head) {
    Query queries[kRows];  // of the rows, or of the columns
    if constexpr (!kOwnKeys) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        queries[r] = QueryAt(args, first + ty * kRows + r, last, head);
    }
    const int64_t q_offset = static_cast<int64_t>(head) * d;
    for (int other0 = other_begin; other0 < other_end; other0 += kTile) {
      __syncthreads();
      if constexpr (kOwnKeys) {
        Tiles::Load(f.q + q_offset, f.q_stride, other0, other_end, d, vector, other1);
        Tiles::Load(args.dout + q_offset, out_stride, other0, other_end, d, vector, other2);
#pragma unroll
        for (int c = 0; c < kRows; ++c)
          queries[c] = QueryAt(args, other0 + tx + 16 * c, other_end, head);
      } else {
        Tiles::Load(f.k + kv_offset, f.kv_stride, other0, other_end, d, vector, other1);
        Tiles::Load(f.v + kv_offset, f.kv_stride, other0, other_end, d, vector, other2);
      }
      __syncthreads();
      float p[kRows][kRows], ds[kRows][kRows];
      Tiles::Dots(own1, other1, tx, ty, p);
      Tiles::Dots(own2, other2, tx, ty, ds);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kRows; ++c) {
          const int row = first + ty * kRows + r, column = other0 + tx + 16 * c;
          const int query = kOwnKeys ? column : row, key = kOwnKeys ? row : column;
          const Query& of = queries[kOwnKeys ? c : r];
          p[r][c] = key >= of.begin && key <= query ? Exp<T>(p[r][c] * scale - of.lse) : 0.0f;
          ds[r][c] = p[r][c] * (ds[r][c] - of.delta);  // times scale, which comes last
        }
      }
      if constexpr (kOwnKeys) {
        Tiles::PutScores(p, tx, ty, scores);
        __syncwarp();
        Tiles::AddProduct(scores, other2, tx, ty, sum2);
        __syncwarp();
      }
      Tiles::PutScores(ds, tx, ty, scores);
      __syncwarp();
      Tiles::AddProduct(scores, other1, tx, ty, sum1);
    }
  }

  float factor[kRows], one[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    factor[r] = scale;
    one[r] = 1.0f;
  }
  if constexpr (kOwnKeys) {
    Tiles::Store(sum1, factor, tx, ty, first, last, d, f.kv_stride, args.dk + kv_offset);
    Tiles::Store(sum2, one, tx, ty, first, last, d, f.kv_stride, args.dv + kv_offset);
  } else {
    Tiles::Store(sum1, factor, tx, ty, first, last, d, f.q_stride,
                 args.dq + static_cast<int64_t>(head0) * d);
  }
}

template <typename T, typename Tiles, bool kOwnKeys>
cudaError_t Launch(const AttentionBackwardArgs<T>& args, float scale, bool vector,
                   cudaStream_t stream) {
  constexpr int kBytes =
      static_cast<int>(sizeof(float)) * (4 * Tiles::kFloats + Tiles::kScoreFloats);
  static_assert(kBytes <= 163 * 1024,
                "more shared memory than the smallest of our devices gives a block");
  const auto kernel = BackwardKernel<T, Tiles, kOwnKeys>;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      error != cudaSuccess) {
    return error;
  }
  const dim3 grid(BlocksFor(args.forward.tokens, 16 * Tiles::kRows),
                  kOwnKeys ? args.forward.kv_heads : args.forward.heads);
  kernel<<<grid, kAttentionThreads, kBytes, stream>>>(args, scale, vector);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t AttentionBackward(const AttentionBackwardArgs<T>& args, cudaStream_t stream) {
  const AttentionArgs<T>& f = args.forward;
  if (f.head_dim < 1 || f.head_dim > kHeadDimMax || f.kv_heads < 1 || f.heads < 1 ||
      f.heads % f.kv_heads != 0 || f.tokens > INT32_MAX / 2) {
    return cudaErrorInvalidValue;
  }
  if (f.tokens == 0) return cudaSuccess;
  const int64_t count = f.tokens * f.heads;
  DeltaKernel<T><<<BlocksFor(count, kAttentionThreads / 32), kAttentionThreads, 0, stream>>>(
      args.dout, f.out, args.delta, count, f.head_dim);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  constexpr int kV = kVector<T>;
  const bool vector = f.head_dim % kV == 0 && f.q_stride % kV == 0 && f.kv_stride % kV == 0 &&
                      Aligned16({f.q, f.k, f.v, args.dout});
  const float scale = 1.0f / sqrtf(static_cast<float>(f.head_dim));
  return WithTile(f.head_dim, [&](auto tiles) {
    using Tiles = decltype(tiles);
    if (const cudaError_t error = Launch<T, Tiles, false>(args, scale, vector, stream);
        error != cudaSuccess)
      return error;
    return Launch<T, Tiles, true>(args, scale, vector, stream);
  });
}

template cudaError_t AttentionBackward<float>(const AttentionBackwardArgs<float>&, cudaStream_t);
template cudaError_t AttentionBackward<__nv_bfloat16>(const AttentionBackwardArgs<__nv_bfloat16>&,
                                                      cudaStream_t);

}  // namespace espalier::kernels::cuda
