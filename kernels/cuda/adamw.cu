// AdamW and squared norms over flat arrays: bound by memory, so one pass of 16-byte accesses.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/element.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// `write_value`: value is another array than master.
template <typename T, int kV>
__device__ __forceinline__ void Step(const AdamWArgs<T>& args, int64_t at, bool skipped,
                                     bool write_value) {
  float grad[kV], master[kV], moment1[kV], moment2[kV];
  LoadFloats(args.grad + at, grad);
  LoadFloats(args.master + at, master);
  LoadFloats(args.moment1 + at, moment1);
  LoadFloats(args.moment2 + at, moment2);
  if (skipped) return;  // after the loads, so that they do not wait for the flag
  const float inverse1 = 1.0f / args.correction1, inverse2 = 1.0f / args.correction2;
#pragma unroll
  for (int i = 0; i < kV; ++i) {
    const float g = grad[i] * args.grad_scale;
    moment1[i] = args.beta1 * moment1[i] + (1.0f - args.beta1) * g;
    moment2[i] = args.beta2 * moment2[i] + (1.0f - args.beta2) * g * g;
    master[i] -= args.lr * (moment1[i] * inverse1 / (sqrtf(moment2[i] * inverse2) + args.eps) +
                            args.weight_decay * master[i]);
  }
  StoreFloats(args.moment1 + at, moment1);
  StoreFloats(args.moment2 + at, moment2);
  StoreFloats(args.master + at, master);
  if (write_value) StoreFloats(args.value + at, master);
}

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) AdamWKernel(AdamWArgs<T> args, bool write_value) {
  const bool skipped = args.skip != nullptr && *args.skip != 0;
  const int64_t packs = args.n / kV;
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs) Step<T, kV>(args, pack * kV, skipped, write_value);
  const int64_t rest = packs * kV + pack;  // what does not fill a pack
  if (rest < args.n) Step<T, 1>(args, rest, skipped, write_value);
}

constexpr int kNormUnroll = 4;

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) SquaresKernel(const T* x, int64_t n, double* partials) {
  __shared__ double shared[kThreads / 32];
  const int64_t packs = n / kV, step = static_cast<int64_t>(kNormBlocks) * kThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  double sum = 0;
  for (int64_t first = thread; first < packs; first += step * kNormUnroll) {
    Pack<T, kV> kept[kNormUnroll];
#pragma unroll
    for (int u = 0; u < kNormUnroll; ++u) {
      kept[u] = first + u * step < packs ? LoadPack<T, kV>(x + (first + u * step) * kV)
                                         : ZeroPack<T, kV>();
    }
#pragma unroll
    for (int u = 0; u < kNormUnroll; ++u) {
      float values[kV], squares = 0;
      Unpack(kept[u], values);
#pragma unroll
      for (int i = 0; i < kV; ++i) squares += values[i] * values[i];
      sum += squares;
    }
  }
  if (const int64_t rest = packs * kV + thread; rest < n) {
    const float value = ToFloat(x[rest]);
    sum += value * value;
  }
  sum = BlockSum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kNormBlocks) TotalKernel(const double* partials, double* out) {
  __shared__ double shared[kNormBlocks / 32];
  const double sum = BlockSum<kNormBlocks>(partials[threadIdx.x], shared);
  if (threadIdx.x == 0) *out = sum;
}

template <typename From, typename To, int kV>
__global__ void __launch_bounds__(kThreads) ConvertKernel(const From* from, To* to, int64_t n) {
  const int64_t packs = n / kV;
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs) {
    float values[kV];
    LoadFloats(from + pack * kV, values);
    StoreFloats(to + pack * kV, values);
  }
  if (const int64_t rest = packs * kV + pack; rest < n)
    to[rest] = FromFloat<To>(ToFloat(from[rest]));
}

template <typename From, typename To>
cudaError_t Convert(const From* from, To* to, int64_t n, cudaStream_t stream) {
  constexpr int kV = 8;
  if (n == 0) return cudaSuccess;
  if (Aligned16({from, to})) {
    ConvertKernel<From, To, kV><<<BlocksFor(n, kThreads * kV), kThreads, 0, stream>>>(from, to, n);
  } else {
    ConvertKernel<From, To, 1><<<BlocksFor(n, kThreads), kThreads, 0, stream>>>(from, to, n);
  }
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t AdamW(const AdamWArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.n == 0) return cudaSuccess;
  const bool write_value =
      static_cast<const void*>(args.value) != static_cast<const void*>(args.master);
  if (Aligned16({args.master, args.grad, args.moment1, args.moment2, args.value})) {
    AdamWKernel<T, kV>
        <<<BlocksFor(args.n, kThreads * kV), kThreads, 0, stream>>>(args, write_value);
  } else {
    AdamWKernel<T, 1><<<BlocksFor(args.n, kThreads), kThreads, 0, stream>>>(args, write_value);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t SquaredNorm(const T* x, int64_t n, double* partials, double* out, cudaStream_t stream) {
  if (Aligned16({x})) {
    SquaresKernel<T, kVector<T>><<<kNormBlocks, kThreads, 0, stream>>>(x, n, partials);
  } else {
    SquaresKernel<T, 1><<<kNormBlocks, kThreads, 0, stream>>>(x, n, partials);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  TotalKernel<<<1, kNormBlocks, 0, stream>>>(partials, out);
  return cudaGetLastError();
}

template <typename T>
cudaError_t RoundTo(const float* master, T* value, int64_t n, cudaStream_t stream) {
  return Convert(master, value, n, stream);
}

template <typename T>
cudaError_t Widen(const T* value, float* out, int64_t n, cudaStream_t stream) {
  return Convert(value, out, n, stream);
}

#define ESPALIER_INSTANTIATE(T)                                                           \
  template cudaError_t AdamW<T>(const AdamWArgs<T>&, cudaStream_t);                       \
  template cudaError_t SquaredNorm<T>(const T*, int64_t, double*, double*, cudaStream_t); \
  template cudaError_t RoundTo<T>(const float*, T*, int64_t, cudaStream_t);               \
  template cudaError_t Widen<T>(const T*, float*, int64_t, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
