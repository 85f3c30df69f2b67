// Rotary embedding: a thread turns one vector of pairs of several heads of a row, so that an angle
// is read once for them.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeadsAtOnce = 4;

// A "vector" of the tiles is (group of kHeadsAtOnce heads, kV pairs).
template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeArgs<T> args, RowTiles tiles) {
  AwaitPrevious();
  const int half = args.head_dim / 2;
  const uint32_t packs = half / kV;
  const float sign = args.backward ? -1.0f : 1.0f;
  for (uint32_t item = threadIdx.x; item < tiles.size(); item += kThreads) {
    const int64_t row = tiles.first_row() + item / tiles.vectors;
    const uint32_t within = item % tiles.vectors;
    const int head0 = static_cast<int>(within / packs) * kHeadsAtOnce;
    const int i = static_cast<int>(within % packs) * kV;
    const int64_t angle = static_cast<int64_t>(args.positions[row]) * half + i;
    T* x = args.x + row * args.row_stride + static_cast<int64_t>(head0) * args.head_dim + i;
    Pack<T, kV> low[kHeadsAtOnce], high[kHeadsAtOnce];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (head0 + h >= args.heads) break;
      low[h] = LoadPack<T, kV>(x + h * args.head_dim);
      high[h] = LoadPack<T, kV>(x + h * args.head_dim + half);
    }
    float cos[kV], sin[kV];
    LoadFloats(args.cos + angle, cos);
    LoadFloats(args.sin + angle, sin);
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      if (head0 + h >= args.heads) break;
      float a[kV], b[kV];
      Unpack(low[h], a);
      Unpack(high[h], b);
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        const float s = sign * sin[j], first = a[j], second = b[j];
        a[j] = first * cos[j] - second * s;
        b[j] = second * cos[j] + first * s;
      }
      StoreFloats(x + h * args.head_dim, a);
      StoreFloats(x + h * args.head_dim + half, b);
    }
  }
}

template <typename T, int kV>
cudaError_t Launch(const RopeArgs<T>& args, cudaStream_t stream) {
  const int groups = (args.heads + kHeadsAtOnce - 1) / kHeadsAtOnce;
  const RowTiles tiles(args.rows, static_cast<int64_t>(groups) * (args.head_dim / 2 / kV));
  Launch(RopeKernel<T, kV>, tiles.blocks(), kThreads, 0, stream, args, tiles);
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kThreads)
    FillKernel(float* cos_table, float* sin_table, int64_t count, int half, double theta) {
  AwaitPrevious();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  const int i = static_cast<int>(at % half);
  const double angle = static_cast<double>(at / half) * pow(theta, -static_cast<double>(i) / half);
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  cos_table[at] = static_cast<float>(cosine);
  sin_table[at] = static_cast<float>(sine);
}

}  // namespace

template <typename T>
cudaError_t Rope(const RopeArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.rows == 0 || args.heads == 0 || args.head_dim < 2) return cudaSuccess;
  if (args.head_dim % 2 != 0) return cudaErrorInvalidValue;
  const bool vector = args.head_dim / 2 % kV == 0 && args.row_stride % kV == 0 &&
                      Aligned16({args.x, args.cos, args.sin});
  return vector ? Launch<T, kV>(args, stream) : Launch<T, 1>(args, stream);
}

cudaError_t FillRopeTable(float* cos, float* sin, int64_t positions, int head_dim, double theta,
                          cudaStream_t stream) {
  const int64_t count = positions * (head_dim / 2);
  if (count == 0) return cudaSuccess;
  Launch(FillKernel, BlocksFor(count, kThreads), kThreads, 0, stream, cos, sin, count, head_dim / 2,
         theta);
  return cudaGetLastError();
}

template cudaError_t Rope<float>(const RopeArgs<float>&, cudaStream_t);
template cudaError_t Rope<__nv_bfloat16>(const RopeArgs<__nv_bfloat16>&, cudaStream_t);

}  // namespace espalier::kernels::cuda
