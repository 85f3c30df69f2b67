// RMSNorm: forward a warp a row with the row in registers; backward a fixed grid whose blocks keep
// their share of the weight's gradient in registers, then one pass over the shares.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/permute.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// One vector of a row with those of its slots' rows added, rounded as SumSlots rounds it. Half of
// the slots are in flight at a time.
template <typename T, int kV>
__device__ __forceinline__ Pack<T, kV> AddSlots(const T* slot_rows, const int32_t* slot, int top_k,
                                                int64_t width, int column,
                                                const Pack<T, kV>& base) {
  constexpr int kAtOnce = 4;
  float sum[kV];
  Unpack(base, sum);
  for (int first = 0; first < top_k; first += kAtOnce) {
    Pack<T, kV> kept[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k >= top_k) break;
      kept[k] = LoadPack<T, kV>(slot_rows + slot[first + k] * width + column);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k >= top_k) break;
      float values[kV];
      Unpack(kept[k], values);
#pragma unroll
      for (int i = 0; i < kV; ++i) sum[i] += values[i];
    }
  }
  return MakePack<T, kV>(sum);
}

// kKept vectors a lane stay in registers between the two passes; 0: the row is read twice. kSlots:
// with kKept only.
template <typename T, int kV, int kKept, bool kSlots>
__global__ void __launch_bounds__(kThreads) ForwardKernel(RmsNormArgs<T> args) {
  AwaitPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= args.rows) return;
  const int vectors = static_cast<int>(args.width / kV);
  const T* x = args.x + row * args.width;
  T* y = args.y + row * args.width;
  Pack<T, kV> kept[kKept > 0 ? kKept : 1];
  float sum = 0;
  const auto add = [&](const Pack<T, kV>& pack) {
    float values[kV];
    Unpack(pack, values);
#pragma unroll
    for (int i = 0; i < kV; ++i) sum += values[i] * values[i];
  };
  if constexpr (kKept > 0) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const bool there = lane + 32 * j < vectors && (!kSlots || args.x != nullptr);
      kept[j] = there ? LoadPack<T, kV>(x + (lane + 32 * j) * kV) : ZeroPack<T, kV>();
    }
    if constexpr (kSlots) {
      const int32_t* slot = args.slot + row * args.top_k;
#pragma unroll
      for (int j = 0; j < kKept; ++j) {
        const int column = (lane + 32 * j) * kV;
        if (lane + 32 * j < vectors)
          kept[j] = AddSlots<T, kV>(args.slot_rows, slot, args.top_k, args.width, column, kept[j]);
      }
      // After all loads, so that none waits for a store that it might alias.
#pragma unroll
      for (int j = 0; j < kKept; ++j) {
        if (lane + 32 * j < vectors)
          StorePack(args.sum + row * args.width + (lane + 32 * j) * kV, kept[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < kKept; ++j) add(kept[j]);
  } else {
    for (int at = lane; at < vectors; at += 32) add(LoadPack<T, kV>(x + at * kV));
  }
  const float rstd = rsqrtf(WarpSum(sum) / static_cast<float>(args.width) + args.eps);
  if (args.rstd != nullptr && lane == 0) args.rstd[row] = rstd;
  const auto write = [&](int at, const Pack<T, kV>& pack) {
    float values[kV], weight[kV];
    Unpack(pack, values);
    LoadFloats(args.weight + at * kV, weight);
#pragma unroll
    for (int i = 0; i < kV; ++i) values[i] = values[i] * rstd * weight[i];
    StoreFloats(y + at * kV, values);
  };
  if constexpr (kKept > 0) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (lane + 32 * j < vectors) write(lane + 32 * j, kept[j]);
    }
  } else {
    for (int at = lane; at < vectors; at += 32) write(at, LoadPack<T, kV>(x + at * kV));
  }
}

template <typename T, int kV, int kKept, bool kSlots = false>
cudaError_t LaunchForward(const RmsNormArgs<T>& args, cudaStream_t stream) {
  Launch(ForwardKernel<T, kV, kKept, kSlots>, BlocksFor(args.rows, kWarps), kThreads, 0, stream,
         args);
  return cudaGetLastError();
}

// ---- backward

constexpr int kRowsAtOnce = 4;         // rows that a thread has in flight
constexpr int kBackwardThreads = 512;  // at most, in a block
constexpr int kWideThreads = 256;      // what a block of several row groups aims at

// Block (x, y): x is a column vector, y one of the groups that take kRowsAtOnce rows at a time.
template <typename T, bool kSlots>
__global__ void __launch_bounds__(kBackwardThreads) BackwardKernel(RmsNormBackwardArgs<T> args) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  __shared__ float warp_dots[2][kBackwardThreads / 32][kRowsAtOnce];
  __shared__ float shares[kBackwardThreads * kV];
  const int64_t width = args.width;
  const int column = threadIdx.x * kV;
  const bool active = column < width;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int warps_x = blockDim.x / 32;
  float weight[kV] = {}, dweight[kV] = {};
  if (active) LoadFloats(args.weight + column, weight);

  int phase = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y * kRowsAtOnce;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y * kRowsAtOnce;
       first < args.rows; first += step) {
    const int64_t row0 = first + threadIdx.y * kRowsAtOnce;
    Pack<T, kV> dy[kRowsAtOnce], x[kRowsAtOnce], residual[kRowsAtOnce];
    float rstd[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const bool there = active && row0 + r < args.rows;
      const int64_t at = (row0 + r) * width + column;
      dy[r] = there ? LoadPack<T, kV>(args.dy + (row0 + r) * args.dy_stride + column)
                    : ZeroPack<T, kV>();
      x[r] = there ? LoadPack<T, kV>(args.x + at) : ZeroPack<T, kV>();
      residual[r] = there && args.residual != nullptr ? LoadPack<T, kV>(args.residual + at)
                                                      : ZeroPack<T, kV>();
      rstd[r] = there ? args.rstd[row0 + r] : 0.0f;
    }
    if constexpr (kSlots) {
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (active && row0 + r < args.rows) {
          dy[r] = AddSlots<T, kV>(args.slot_rows, args.slot + (row0 + r) * args.top_k, args.top_k,
                                  width, column, dy[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      float a[kV], b[kV], dot = 0;
      Unpack(dy[r], a);
      Unpack(x[r], b);
#pragma unroll
      for (int i = 0; i < kV; ++i) dot += a[i] * weight[i] * b[i];
      dot = WarpSum(dot);
      if (thread % 32 == 0) warp_dots[phase][thread / 32][r] = dot;
    }
    __syncthreads();  // two phases: the next round may write while this one is read
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      float dot = 0;
      for (int warp = 0; warp < warps_x; ++warp)
        dot += warp_dots[phase][threadIdx.y * warps_x + warp][r];
      const float mean = dot * rstd[r] * rstd[r] * rstd[r] / static_cast<float>(width);
      float a[kV], b[kV], out[kV];
      Unpack(dy[r], a);
      Unpack(x[r], b);
      Unpack(residual[r], out);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        dweight[i] += a[i] * b[i] * rstd[r];
        out[i] += a[i] * weight[i] * rstd[r] - b[i] * mean;
      }
      if (active && row0 + r < args.rows) {
        StoreFloats(args.dx + (row0 + r) * args.dx_stride + column, out);
      }
    }
    phase ^= 1;
  }

#pragma unroll
  for (int i = 0; i < kV; ++i) shares[thread * kV + i] = dweight[i];
  __syncthreads();
  if (threadIdx.y != 0 || !active) return;
  for (int group = 1; group < static_cast<int>(blockDim.y); ++group) {
#pragma unroll
    for (int i = 0; i < kV; ++i) dweight[i] += shares[(group * blockDim.x + threadIdx.x) * kV + i];
  }
  StoreFloats(args.partials + blockIdx.x * width + column, dweight);
}

// Any width: a block a row, read twice; the block's share lies in `partials`, each column with one
// thread.
template <typename T>
__global__ void __launch_bounds__(kThreads) BackwardAnyKernel(RmsNormBackwardArgs<T> args) {
  AwaitPrevious();
  __shared__ float shared[kWarps];
  const int64_t width = args.width;
  float* share = args.partials + blockIdx.x * width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) share[i] = 0;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    const T* x = args.x + row * width;
    const auto dy = [&](int64_t i) {
      float sum = ToFloat(args.dy[row * args.dy_stride + i]);
      if (args.slot == nullptr) return sum;
      for (int k = 0; k < args.top_k; ++k) {
        sum += ToFloat(args.slot_rows[args.slot[row * args.top_k + k] * width + i]);
      }
      return ToFloat(FromFloat<T>(sum));
    };
    float dot = 0;
    for (int64_t i = threadIdx.x; i < width; i += kThreads)
      dot += dy(i) * ToFloat(args.weight[i]) * ToFloat(x[i]);
    dot = BlockSum<kThreads>(dot, shared);
    const float rstd = args.rstd[row];
    const float mean = dot * rstd * rstd * rstd / static_cast<float>(width);
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const float a = dy(i), b = ToFloat(x[i]);
      const float residual =
          args.residual != nullptr ? ToFloat(args.residual[row * width + i]) : 0.0f;
      share[i] += a * b * rstd;
      args.dx[row * args.dx_stride + i] =
          FromFloat<T>(residual + (a * ToFloat(args.weight[i]) * rstd - b * mean));
    }
  }
}

constexpr int kFinishColumns = 32, kFinishGroups = 8;

template <typename T>
struct AllShares {
  NormShares<T> of[kNormSharesMax];
};

// Block (x, y): a stretch of columns of y's weight.
template <typename T>
__global__ void __launch_bounds__(kFinishColumns* kFinishGroups) FinishKernel(AllShares<T> all) {
  AwaitPrevious();
  __shared__ float sums[kFinishGroups][kFinishColumns];
  const NormShares<T>& mine = all.of[blockIdx.y];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kFinishColumns + threadIdx.x;
  if (static_cast<int64_t>(blockIdx.x) * kFinishColumns >= mine.width) return;
  float sum = 0;
  if (column < mine.width) {
#pragma unroll 4
    for (int share = threadIdx.y; share < mine.shares; share += kFinishGroups)
      sum += mine.partials[share * mine.width + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= mine.width) return;
  for (int group = 1; group < kFinishGroups; ++group) sum += sums[group][threadIdx.x];
  mine.dweight[column] = FromFloat<T>(mine.accumulate ? ToFloat(mine.dweight[column]) + sum : sum);
}

}  // namespace

template <typename T>
cudaError_t RmsNorm(const RmsNormArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.rows == 0 || args.width == 0) return cudaSuccess;
  const int64_t per_lane = (args.width / kV + 31) / 32;
  const bool vector =
      args.width % kV == 0 && Aligned16({args.x, args.y, args.weight, args.slot_rows, args.sum});
  if (args.slot != nullptr) {
    if (vector && per_lane <= 1) return LaunchForward<T, kV, 1, true>(args, stream);
    if (vector && per_lane <= 3) return LaunchForward<T, kV, 3, true>(args, stream);
    if (vector && per_lane <= 8) return LaunchForward<T, kV, 8, true>(args, stream);
    if (const cudaError_t error = SumSlots<T>({.rows = args.slot_rows,
                                               .slot = args.slot,
                                               .residual = args.x,
                                               .out = args.sum,
                                               .tokens = args.rows,
                                               .width = args.width,
                                               .top_k = args.top_k},
                                              stream);
        error != cudaSuccess) {
      return error;
    }
    RmsNormArgs<T> summed = args;
    summed.x = args.sum;
    summed.slot = nullptr;
    return RmsNorm(summed, stream);
  }
  if (!vector) return LaunchForward<T, 1, 0>(args, stream);
  if (per_lane <= 1) return LaunchForward<T, kV, 1>(args, stream);
  if (per_lane <= 3) return LaunchForward<T, kV, 3>(args, stream);
  if (per_lane <= 8) return LaunchForward<T, kV, 8>(args, stream);
  if (per_lane <= 16) return LaunchForward<T, kV, 16>(args, stream);
  return LaunchForward<T, kV, 0>(args, stream);
}

template <typename T>
cudaError_t AddNormShares(std::span<const NormShares<T>> all, cudaStream_t stream) {
  if (all.size() > kNormSharesMax) return cudaErrorInvalidValue;
  AllShares<T> shares;
  int64_t width = 0;
  std::copy(all.begin(), all.end(), shares.of);
  for (const NormShares<T>& one : all) width = std::max(width, one.width);
  if (width == 0) return cudaSuccess;
  Launch(FinishKernel<T>, dim3(BlocksFor(width, kFinishColumns), static_cast<unsigned>(all.size())),
         dim3(kFinishColumns, kFinishGroups), 0, stream, shares);
  return cudaGetLastError();
}

template <typename T>
cudaError_t RmsNormBackward(const RmsNormBackwardArgs<T>& given, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  RmsNormBackwardArgs<T> args = given;
  if (args.dy_stride == 0) args.dy_stride = args.width;
  if (args.dx_stride == 0) args.dx_stride = args.width;
  if (args.width == 0) return cudaSuccess;
  if (args.later != nullptr) *args.later = {};
  if (args.rows == 0) {
    return args.accumulate ? cudaSuccess
                           : cudaMemsetAsync(args.dweight, 0, args.width * sizeof(T), stream);
  }
  const int64_t vectors = args.width / kV;
  const bool fast = args.width % kV == 0 && args.dy_stride % kV == 0 && args.dx_stride % kV == 0 &&
                    vectors <= kBackwardThreads &&
                    Aligned16({args.dy, args.x, args.weight, args.residual, args.dx, args.partials,
                               args.slot_rows});
  unsigned shares;
  if (fast) {
    const unsigned columns = static_cast<unsigned>((vectors + 31) / 32 * 32);
    const unsigned groups = std::max(1u, kWideThreads / columns);
    shares = std::min<unsigned>(kNormPartials, BlocksFor(args.rows, groups * kRowsAtOnce));
    if (args.slot == nullptr) {
      Launch(BackwardKernel<T, false>, shares, dim3(columns, groups), 0, stream, args);
    } else {
      Launch(BackwardKernel<T, true>, shares, dim3(columns, groups), 0, stream, args);
    }
  } else {
    shares = static_cast<unsigned>(std::min<int64_t>(kNormPartials, args.rows));
    Launch(BackwardAnyKernel<T>, shares, kThreads, 0, stream, args);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const NormShares<T> found{args.partials, static_cast<int>(shares), args.width, args.accumulate,
                            args.dweight};
  if (args.later == nullptr) return AddNormShares<T>({&found, 1}, stream);
  *args.later = found;
  return cudaSuccess;
}

#define ESPALIER_INSTANTIATE(T)                                                        \
  template cudaError_t RmsNorm<T>(const RmsNormArgs<T>&, cudaStream_t);                \
  template cudaError_t AddNormShares<T>(std::span<const NormShares<T>>, cudaStream_t); \
  template cudaError_t RmsNormBackward<T>(const RmsNormBackwardArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
