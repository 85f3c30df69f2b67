// Forward a warp a segment. Backward a fixed grid: a warp a segment with its share of the weight's
// gradient in registers where a segment fits into one vector a lane (a head), else a block a
// segment with the share in `partials`; then one pass over the shares.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/qk_norm.h"
#include "kernels/cuda/qk_norm_rotated.h"
#include "kernels/cuda/rope.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) ForwardKernel(QkNormArgs<T> args) {
  AwaitPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t segment = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (segment >= args.rows * args.segments) return;
  const int vectors = static_cast<int>(args.width / kV);
  T* x = args.x + segment / args.segments * args.row_stride + segment % args.segments * args.width;
  float sum = 0;
  for (int at = lane; at < vectors; at += 32) {
    float values[kV];
    const Pack<T, kV> pack = LoadPack<T, kV>(x + at * kV);
    Unpack(pack, values);
#pragma unroll
    for (int i = 0; i < kV; ++i) sum += values[i] * values[i];
    if (args.raw != nullptr) StorePack(args.raw + segment * args.width + at * kV, pack);
  }
  const float rstd = rsqrtf(WarpSum(sum) / static_cast<float>(args.width) + args.eps);
  if (args.rstd != nullptr && lane == 0) args.rstd[segment] = rstd;
  for (int at = lane; at < vectors; at += 32) {
    float values[kV], weight[kV];
    LoadFloats(x + at * kV, values);
    LoadFloats(args.weight + at * kV, weight);
#pragma unroll
    for (int i = 0; i < kV; ++i) values[i] = values[i] * rstd * weight[i];
    StoreFloats(x + at * kV, values);
  }
}

// ---- backward

// width <= 32 * kVector<T>, a whole number of vectors.
template <typename T>
__global__ void __launch_bounds__(kThreads) NarrowBackwardKernel(QkNormBackwardArgs<T> args) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  __shared__ float shares[kWarps][32 * kV];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = lane * kV;
  const bool active = column < args.width;
  float weight[kV] = {}, dweight[kV] = {};
  if (active) LoadFloats(args.weight + column, weight);
  const int64_t count = args.rows * args.segments;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t segment = static_cast<int64_t>(blockIdx.x) * kWarps + warp; segment < count;
       segment += step) {
    T* dx = args.dx + segment / args.segments * args.row_stride +
            segment % args.segments * args.width + column;
    const float rstd = args.rstd[segment];
    float dy[kV] = {}, x[kV] = {}, dot = 0;
    if (active) {
      LoadFloats(dx, dy);
      LoadFloats(args.raw + segment * args.width + column, x);
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) dot += dy[i] * weight[i] * x[i];
    const float mean = WarpSum(dot) * rstd * rstd * rstd / static_cast<float>(args.width);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      dweight[i] += dy[i] * x[i] * rstd;
      dy[i] = dy[i] * weight[i] * rstd - x[i] * mean;
    }
    if (active) StoreFloats(dx, dy);
  }
#pragma unroll
  for (int i = 0; i < kV; ++i) shares[warp][column + i] = dweight[i];
  __syncthreads();
  for (int at = threadIdx.x; at < args.width; at += kThreads) {
    float sum = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += shares[from][at];
    args.partials[blockIdx.x * args.width + at] = sum;
  }
}

// Any width: a block a segment; each column of the block's share belongs to one thread.
template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) WideBackwardKernel(QkNormBackwardArgs<T> args) {
  AwaitPrevious();
  __shared__ float shared[kWarps];
  const int vectors = static_cast<int>(args.width / kV);
  float* share = args.partials + blockIdx.x * args.width;
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
#pragma unroll
    for (int j = 0; j < kV; ++j) share[i * kV + j] = 0;
  }
  const int64_t count = args.rows * args.segments;
  for (int64_t segment = blockIdx.x; segment < count; segment += gridDim.x) {
    T* dx =
        args.dx + segment / args.segments * args.row_stride + segment % args.segments * args.width;
    const T* raw = args.raw + segment * args.width;
    float dot = 0;
    for (int at = threadIdx.x; at < vectors; at += kThreads) {
      float dy[kV], x[kV], weight[kV];
      LoadFloats(dx + at * kV, dy);
      LoadFloats(raw + at * kV, x);
      LoadFloats(args.weight + at * kV, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) dot += dy[i] * weight[i] * x[i];
    }
    dot = BlockSum<kThreads>(dot, shared);
    const float rstd = args.rstd[segment];
    const float mean = dot * rstd * rstd * rstd / static_cast<float>(args.width);
    for (int at = threadIdx.x; at < vectors; at += kThreads) {
      float dy[kV], x[kV], weight[kV];
      LoadFloats(dx + at * kV, dy);
      LoadFloats(raw + at * kV, x);
      LoadFloats(args.weight + at * kV, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        share[at * kV + i] += dy[i] * x[i] * rstd;
        dy[i] = dy[i] * weight[i] * rstd - x[i] * mean;
      }
      StoreFloats(dx + at * kV, dy);
    }
  }
}

// The rotation by itself, of the segments that `args` (forward or backward) describe.
template <typename T, typename Args>
cudaError_t Turn(T* x, const Args& args, bool backward, cudaStream_t stream) {
  return Rope<T>({.x = x,
                  .rows = args.rows,
                  .row_stride = args.row_stride,
                  .heads = static_cast<int>(args.segments * args.width / args.angles.head_dim),
                  .head_dim = args.angles.head_dim,
                  .positions = args.angles.positions,
                  .cos = args.angles.cos,
                  .sin = args.angles.sin,
                  .backward = backward},
                 stream);
}

}  // namespace

template <typename T>
cudaError_t QkNorm(const QkNormArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  const int64_t count = args.rows * args.segments;
  if (count == 0 || args.width == 0) return cudaSuccess;
  if (args.angles.positions != nullptr) {
    if (TakesRotated(args)) return QkNormRotated(args, stream);
    QkNormArgs<T> norm = args;
    norm.angles = {};
    if (const cudaError_t error = QkNorm(norm, stream); error != cudaSuccess) return error;
    return Turn(args.x, args, /*backward=*/false, stream);
  }
  const bool vector = args.width % kV == 0 && args.row_stride % kV == 0 &&
                      Aligned16({args.x, args.raw, args.weight});
  const unsigned blocks = BlocksFor(count, kWarps);
  if (vector) {
    Launch(ForwardKernel<T, kV>, blocks, kThreads, 0, stream, args);
  } else {
    Launch(ForwardKernel<T, 1>, blocks, kThreads, 0, stream, args);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t QkNormBackward(const QkNormBackwardArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  const int64_t count = args.rows * args.segments;
  if (args.width == 0) return cudaSuccess;
  if (args.later != nullptr) *args.later = {};
  if (count == 0) return cudaMemsetAsync(args.dweight, 0, args.width * sizeof(T), stream);
  static_assert(kQkNormPartials >= kNormPartials);
  if (args.angles.positions != nullptr) {
    if (TakesRotated(args)) return QkNormRotatedBackward(args, stream);
    QkNormBackwardArgs<T> norm = args;
    norm.angles = {};
    if (const cudaError_t error = Turn(args.dx, args, /*backward=*/true, stream);
        error != cudaSuccess) {
      return error;
    }
    return QkNormBackward(norm, stream);
  }
  if (args.segments == 1) {
    // A row of the norm of norm.h, but for the way from row to row.
    return RmsNormBackward<T>({.dy = args.dx,
                               .x = args.raw,
                               .weight = args.weight,
                               .rstd = args.rstd,
                               .dx = args.dx,
                               .dweight = args.dweight,
                               .partials = args.partials,
                               .rows = args.rows,
                               .width = args.width,
                               .later = args.later,
                               .dy_stride = args.row_stride,
                               .dx_stride = args.row_stride},
                              stream);
  }
  const bool vector = args.width % kV == 0 && args.row_stride % kV == 0 &&
                      Aligned16({args.dx, args.raw, args.weight});
  const bool narrow = vector && args.width <= 32 * kV;
  const auto shares = static_cast<unsigned>(
      std::min<int64_t>(kQkNormPartials, narrow ? (count + kWarps - 1) / kWarps : count));
  if (narrow) {
    Launch(NarrowBackwardKernel<T>, shares, kThreads, 0, stream, args);
  } else if (vector) {
    Launch(WideBackwardKernel<T, kV>, shares, kThreads, 0, stream, args);
  } else {
    Launch(WideBackwardKernel<T, 1>, shares, kThreads, 0, stream, args);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const NormShares<T> found{args.partials, static_cast<int>(shares), args.width, false,
                            args.dweight};
  if (args.later == nullptr) return AddNormShares<T>({&found, 1}, stream);
  *args.later = found;
  return cudaSuccess;
}

#define ESPALIER_INSTANTIATE(T)                                       \
  template cudaError_t QkNorm<T>(const QkNormArgs<T>&, cudaStream_t); \
  template cudaError_t QkNormBackward<T>(const QkNormBackwardArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
