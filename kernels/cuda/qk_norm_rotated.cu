// A group of lanes a segment. A lane holds kPairs pairs of vectors, each pair the two that turn
// together, all at the same place of their heads: one set of angles serves them. Backward a fixed
// grid whose lanes keep their columns' share of the weight's gradient in registers.
#include <algorithm>
#include <limits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/qk_norm_rotated.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPairsMax = 4;
// One block a multiprocessor where registers allow no more, two where they do.
constexpr int SharesOf(int pairs) { return pairs <= 2 ? 264 : 132; }
static_assert(kQkNormPartials >= 264);

// How the pairs of a segment are cut up: `lanes` (a power of two) times `pairs`.
struct Cut {
  int lanes = 0, pairs = 0;
};

template <typename T>
Cut CutOf(int64_t width, int head_dim) {
  constexpr int kV = kVector<T>;
  if (head_dim <= 0 || head_dim % (2 * kV) != 0 || width % head_dim != 0) return {};
  const int64_t packs = head_dim / 2 / kV, all = width / (2 * kV);
  int lanes = 1;
  while (lanes < 32 && all % (2 * lanes) == 0) lanes *= 2;
  if (lanes % packs != 0 || all / lanes > kPairsMax) return {};
  return {lanes, static_cast<int>(all / lanes)};
}

// Sum over the group's lanes, the same in each.
__device__ __forceinline__ float GroupSum(float value, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Where a lane's vectors stand within a segment: pair j's first is column + j * step, its second
// `half` further.
struct Columns {
  int column, step, half, angle;
};
template <int kV>
__device__ __forceinline__ Columns ColumnsOf(int lane, int lanes, int head_dim) {
  const int half = head_dim / 2, packs = half / kV;
  return {lane / packs * head_dim + lane % packs * kV, lanes / packs * head_dim, half,
          lane % packs * kV};
}

template <typename T, int kPairs>
__global__ void __launch_bounds__(kThreads) ForwardKernel(QkNormArgs<T> args, int lanes) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  const uint32_t segment = blockIdx.x * (kThreads / lanes) + threadIdx.x / lanes;
  const bool there = segment < args.rows * args.segments;
  const Columns at = ColumnsOf<kV>(threadIdx.x % lanes, lanes, args.angles.head_dim);
  const uint32_t segments = static_cast<uint32_t>(args.segments);
  const int64_t row = segment / segments;
  T* x = args.x + row * args.row_stride + segment % segments * args.width + at.column;
  Pack<T, kV> low[kPairs], high[kPairs];
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    low[j] = there ? LoadPack<T, kV>(x + j * at.step) : ZeroPack<T, kV>();
    high[j] = there ? LoadPack<T, kV>(x + j * at.step + at.half) : ZeroPack<T, kV>();
  }
  float cos[kV] = {}, sin[kV] = {};
  if (there) {
    const int64_t angle = static_cast<int64_t>(args.angles.positions[row]) * at.half + at.angle;
    LoadFloats(args.angles.cos + angle, cos);
    LoadFloats(args.angles.sin + angle, sin);
  }
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    float a[kV], b[kV];
    Unpack(low[j], a);
    Unpack(high[j], b);
#pragma unroll
    for (int i = 0; i < kV; ++i) sum += a[i] * a[i] + b[i] * b[i];
  }
  const float rstd = rsqrtf(GroupSum(sum, lanes) / static_cast<float>(args.width) + args.eps);
  if (!there) return;
  if (args.rstd != nullptr && threadIdx.x % lanes == 0) args.rstd[segment] = rstd;
  T* raw = args.raw == nullptr ? nullptr : args.raw + segment * args.width + at.column;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    if (raw != nullptr) {
      StorePack(raw + j * at.step, low[j]);
      StorePack(raw + j * at.step + at.half, high[j]);
    }
    float a[kV], b[kV], weight_low[kV], weight_high[kV];
    Unpack(low[j], a);
    Unpack(high[j], b);
    LoadFloats(args.weight + at.column + j * at.step, weight_low);
    LoadFloats(args.weight + at.column + j * at.step + at.half, weight_high);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float first = a[i] * rstd * weight_low[i], second = b[i] * rstd * weight_high[i];
      a[i] = first * cos[i] - second * sin[i];
      b[i] = second * cos[i] + first * sin[i];
    }
    StoreFloats(x + j * at.step, a);
    StoreFloats(x + j * at.step + at.half, b);
  }
}

template <typename T, int kPairs>
__global__ void __launch_bounds__(kThreads, kPairs <= 2 ? 2 : 1)
    BackwardKernel(QkNormBackwardArgs<T> args, int lanes) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  __shared__ float shared[kThreads * kV];
  const int groups = kThreads / lanes, lane = threadIdx.x % lanes, group = threadIdx.x / lanes;
  const Columns at = ColumnsOf<kV>(lane, lanes, args.angles.head_dim);
  const uint32_t count = static_cast<uint32_t>(args.rows * args.segments);
  const uint32_t segments = static_cast<uint32_t>(args.segments);
  float share[kPairs][2][kV] = {};
  // Groups of one warp take as many turns as each other: they sum together.
  for (uint32_t first = blockIdx.x * groups; first < count; first += gridDim.x * groups) {
    const uint32_t segment = first + group;
    const bool there = segment < count;
    const int64_t row = segment / segments;
    T* dx = args.dx + row * args.row_stride + segment % segments * args.width + at.column;
    const T* raw = args.raw + segment * args.width + at.column;
    Pack<T, kV> dlow[kPairs], dhigh[kPairs], low[kPairs], high[kPairs];
    float cos[kV] = {}, sin[kV] = {}, rstd = 0, dot = 0;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      dlow[j] = there ? LoadPack<T, kV>(dx + j * at.step) : ZeroPack<T, kV>();
      dhigh[j] = there ? LoadPack<T, kV>(dx + j * at.step + at.half) : ZeroPack<T, kV>();
      low[j] = there ? LoadPack<T, kV>(raw + j * at.step) : ZeroPack<T, kV>();
      high[j] = there ? LoadPack<T, kV>(raw + j * at.step + at.half) : ZeroPack<T, kV>();
    }
    if (there) {
      rstd = args.rstd[segment];
      const int64_t angle = static_cast<int64_t>(args.angles.positions[row]) * at.half + at.angle;
      LoadFloats(args.angles.cos + angle, cos);
      LoadFloats(args.angles.sin + angle, sin);
    }
    // Gradient of the normalised values, turned back; computed twice rather than kept.
    const auto turned = [&](int j, float(&a)[kV], float(&b)[kV]) {
      Unpack(dlow[j], a);
      Unpack(dhigh[j], b);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float one = a[i], two = b[i];
        a[i] = one * cos[i] + two * sin[i];
        b[i] = two * cos[i] - one * sin[i];
      }
    };
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float a[kV], b[kV], x[kV], weight[kV];
      turned(j, a, b);
      Unpack(low[j], x);
      LoadFloats(args.weight + at.column + j * at.step, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) dot += a[i] * weight[i] * x[i];
      Unpack(high[j], x);
      LoadFloats(args.weight + at.column + j * at.step + at.half, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) dot += b[i] * weight[i] * x[i];
    }
    const float mean = GroupSum(dot, lanes) * rstd * rstd * rstd / static_cast<float>(args.width);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float a[kV], b[kV], x[kV], weight[kV];
      turned(j, a, b);
      Unpack(low[j], x);
      LoadFloats(args.weight + at.column + j * at.step, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        share[j][0][i] += a[i] * x[i] * rstd;
        a[i] = a[i] * weight[i] * rstd - x[i] * mean;
      }
      Unpack(high[j], x);
      LoadFloats(args.weight + at.column + j * at.step + at.half, weight);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        share[j][1][i] += b[i] * x[i] * rstd;
        b[i] = b[i] * weight[i] * rstd - x[i] * mean;
      }
      if (there) {
        StoreFloats(dx + j * at.step, a);
        StoreFloats(dx + j * at.step + at.half, b);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kV; ++i) shared[threadIdx.x * kV + i] = share[j][side][i];
      __syncthreads();
      if (group != 0) continue;
      float sum[kV] = {};
      for (int from = 0; from < groups; ++from) {
#pragma unroll
        for (int i = 0; i < kV; ++i) sum[i] += shared[(from * lanes + lane) * kV + i];
      }
      StoreFloats(
          args.partials + blockIdx.x * args.width + at.column + j * at.step + side * at.half, sum);
    }
  }
}

template <typename F>
void WithPairs(int pairs, F&& f) {
  switch (pairs) {
    case 1:
      return f(std::integral_constant<int, 1>());
    case 2:
      return f(std::integral_constant<int, 2>());
    case 3:
      return f(std::integral_constant<int, 3>());
    default:
      return f(std::integral_constant<int, kPairsMax>());
  }
}

template <typename T, typename Args>
bool Takes(const Args& args) {
  constexpr int kV = kVector<T>;
  return CutOf<T>(args.width, args.angles.head_dim).lanes > 0 && args.row_stride % kV == 0 &&
         args.rows * args.segments < std::numeric_limits<int32_t>::max() / 2 &&
         Aligned16({args.raw, args.weight, args.angles.cos, args.angles.sin});
}

}  // namespace

template <typename T>
bool TakesRotated(const QkNormArgs<T>& args) {
  return Takes<T>(args) && Aligned16({args.x});
}

template <typename T>
bool TakesRotated(const QkNormBackwardArgs<T>& args) {
  return Takes<T>(args) && Aligned16({args.dx, args.partials});
}

template <typename T>
cudaError_t QkNormRotated(const QkNormArgs<T>& args, cudaStream_t stream) {
  const Cut cut = CutOf<T>(args.width, args.angles.head_dim);
  WithPairs(cut.pairs, [&](auto pairs) {
    Launch(ForwardKernel<T, pairs.value>,
           BlocksFor(args.rows * args.segments, kThreads / cut.lanes), kThreads, 0, stream, args,
           cut.lanes);
  });
  return cudaGetLastError();
}

template <typename T>
cudaError_t QkNormRotatedBackward(const QkNormBackwardArgs<T>& args, cudaStream_t stream) {
  const Cut cut = CutOf<T>(args.width, args.angles.head_dim);
  const unsigned shares = std::min<unsigned>(
      SharesOf(cut.pairs), BlocksFor(args.rows * args.segments, kThreads / cut.lanes));
  WithPairs(cut.pairs, [&](auto pairs) {
    Launch(BackwardKernel<T, pairs.value>, shares, kThreads, 0, stream, args, cut.lanes);
  });
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const NormShares<T> found{args.partials, static_cast<int>(shares), args.width, false,
                            args.dweight};
  if (args.later == nullptr) return AddNormShares<T>({&found, 1}, stream);
  *args.later = found;
  return cudaSuccess;
}

#define ESPALIER_INSTANTIATE(T)                                              \
  template bool TakesRotated<T>(const QkNormArgs<T>&);                       \
  template bool TakesRotated<T>(const QkNormBackwardArgs<T>&);               \
  template cudaError_t QkNormRotated<T>(const QkNormArgs<T>&, cudaStream_t); \
  template cudaError_t QkNormRotatedBackward<T>(const QkNormBackwardArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
