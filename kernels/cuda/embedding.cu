// Token embedding: a gather of rows, and sums over each distinct token's rows.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/permute.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMany = 64;  // a token of so many rows is worth a whole block
constexpr int kRowsAtOnce = 8;

// sum += rows order[begin..end) of dout at `column`, in that order.
template <typename T, int kV>
__device__ __forceinline__ void SumRows(const EmbedBackwardArgs<T>& args, int begin, int end,
                                        int64_t column, float (&sum)[kV]) {
  for (int first = begin; first < end; first += kRowsAtOnce) {
    Pack<T, kV> kept[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      kept[r] = first + r < end
                    ? LoadPack<T, kV>(args.dout + args.order[first + r] * args.width + column)
                    : ZeroPack<T, kV>();
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (first + r >= end) break;
      float values[kV];
      Unpack(kept[r], values);
#pragma unroll
      for (int i = 0; i < kV; ++i) sum[i] += values[i];
    }
  }
}

template <typename T, int kV>
__device__ __forceinline__ void AddToTable(const EmbedBackwardArgs<T>& args, int64_t token,
                                           int64_t column, const float (&sum)[kV]) {
  T* to = args.dtable + args.distinct[token] * args.width + column;
  float values[kV];
  LoadFloats(to, values);
#pragma unroll
  for (int i = 0; i < kV; ++i) values[i] += sum[i];
  StoreFloats(to, values);
}

// A block has kWarps distinct tokens and 32 column vectors. A warp sums the rows of a rare token by
// itself; those of a frequent one are cut among all warps and their sums added in order.
template <typename T, int kV>
__global__ void __launch_bounds__(kWarps * 32) BackwardKernel(EmbedBackwardArgs<T> args) {
  AwaitPrevious();
  __shared__ float shares[kWarps][32][kV + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * kV;
  const bool active = column < args.width;
  const int64_t token0 = static_cast<int64_t>(blockIdx.x) * kWarps;
  if (const int64_t token = token0 + warp; token < args.distinct_count) {
    const int begin = args.starts[token], end = args.starts[token + 1];
    if (active && end - begin < kMany && end > begin) {
      float sum[kV] = {};
      SumRows(args, begin, end, column, sum);
      AddToTable(args, token, column, sum);
    }
  }
  for (int64_t token = token0; token < token0 + kWarps && token < args.distinct_count; ++token) {
    const int begin = args.starts[token], rows = args.starts[token + 1] - begin;
    if (rows < kMany) continue;
    float sum[kV] = {};
    const int first = begin + static_cast<int>(static_cast<int64_t>(rows) * warp / kWarps);
    const int last = begin + static_cast<int>(static_cast<int64_t>(rows) * (warp + 1) / kWarps);
    if (active) SumRows(args, first, last, column, sum);
#pragma unroll
    for (int i = 0; i < kV; ++i) shares[warp][lane][i] = sum[i];
    __syncthreads();
    if (warp == 0 && active) {
      for (int other = 1; other < kWarps; ++other) {
#pragma unroll
        for (int i = 0; i < kV; ++i) sum[i] += shares[other][lane][i];
      }
      AddToTable(args, token, column, sum);
    }
    __syncthreads();
  }
}

template <typename T, int kV>
cudaError_t Launch(const EmbedBackwardArgs<T>& args, cudaStream_t stream) {
  const dim3 grid(BlocksFor(args.distinct_count, kWarps), BlocksFor(args.width, 32 * kV));
  Launch(BackwardKernel<T, kV>, grid, kWarps * 32, 0, stream, args);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t Embed(const T* table, const int32_t* tokens, T* out, int64_t rows, int64_t width,
                  cudaStream_t stream) {
  return GatherRows(table, tokens, out, rows, width, stream);
}

template <typename T>
cudaError_t EmbedBackward(const EmbedBackwardArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.distinct_count == 0 || args.width == 0) return cudaSuccess;
  const bool vector = args.width % kV == 0 && Aligned16({args.dout, args.dtable});
  return vector ? Launch<T, kV>(args, stream) : Launch<T, 1>(args, stream);
}

#define ESPALIER_INSTANTIATE(T)                                                                \
  template cudaError_t Embed<T>(const T*, const int32_t*, T*, int64_t, int64_t, cudaStream_t); \
  template cudaError_t EmbedBackward<T>(const EmbedBackwardArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
