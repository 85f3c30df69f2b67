// AdamW and squared norms over flat arrays: bound by memory, so one pass of 16-byte accesses.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float Join(__nv_bfloat16 value, int16_t low) {
  const uint32_t upper = static_cast<uint32_t>(__bfloat16_as_ushort(value)) << 16;
  return __uint_as_float(upper + static_cast<uint32_t>(static_cast<int32_t>(low)));
}

__device__ __forceinline__ void Split(float master, __nv_bfloat16& value, int16_t& low) {
  const uint32_t bits = __float_as_uint(master), upper = (bits + 0x8000u) >> 16;
  value = __ushort_as_bfloat16(static_cast<unsigned short>(upper));
  low = static_cast<int16_t>(bits - (upper << 16));
}

// kN neighbouring elements in one access.
template <typename U, int kN>
struct alignas(sizeof(U) * kN) Together {
  U at[kN];
};

template <int kN>
__device__ __forceinline__ void LoadMaster(const __nv_bfloat16* value, const int16_t* low,
                                           float (&master)[kN]) {
  const auto values = *reinterpret_cast<const Together<__nv_bfloat16, kN>*>(value);
  const auto lows = *reinterpret_cast<const Together<int16_t, kN>*>(low);
#pragma unroll
  for (int i = 0; i < kN; ++i) master[i] = Join(values.at[i], lows.at[i]);
}

template <int kN>
__device__ __forceinline__ void StoreMaster(const float (&master)[kN], __nv_bfloat16* value,
                                            int16_t* low) {
  Together<__nv_bfloat16, kN> values;
  Together<int16_t, kN> lows;
#pragma unroll
  for (int i = 0; i < kN; ++i) Split(master[i], values.at[i], lows.at[i]);
  *reinterpret_cast<Together<__nv_bfloat16, kN>*>(value) = values;
  *reinterpret_cast<Together<int16_t, kN>*>(low) = lows;
}

// Where the master is and what is written beside it.
enum class Master { kAlone, kWithValue, kSplit };

template <typename T, int kV, Master kMaster>
__device__ __forceinline__ void Step(const AdamWArgs<T>& args, int64_t at, bool skipped) {
  float grad[kV], master[kV], moment1[kV], moment2[kV];
  LoadFloats(args.grad + at, grad);
  if constexpr (kMaster == Master::kSplit) {
    LoadMaster(args.value + at, args.low + at, master);
  } else {
    LoadFloats(args.master + at, master);
  }
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
  if constexpr (kMaster == Master::kSplit) {
    StoreMaster(master, args.value + at, args.low + at);
  } else {
    StoreFloats(args.master + at, master);
    if constexpr (kMaster == Master::kWithValue) StoreFloats(args.value + at, master);
  }
}

template <typename T, int kV, Master kMaster>
__global__ void __launch_bounds__(kThreads) AdamWKernel(AdamWArgs<T> args) {
  AwaitPrevious();
  const bool skipped = args.skip != nullptr && *args.skip != 0;
  const int64_t packs = args.n / kV;
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs) Step<T, kV, kMaster>(args, pack * kV, skipped);
  const int64_t rest = packs * kV + pack;  // what does not fill a pack
  if (rest < args.n) Step<T, 1, kMaster>(args, rest, skipped);
}

template <typename T, Master kMaster>
cudaError_t LaunchAdamW(const AdamWArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (Aligned16({args.master, args.grad, args.moment1, args.moment2, args.value, args.low})) {
    Launch(AdamWKernel<T, kV, kMaster>, BlocksFor(args.n, kThreads * kV), kThreads, 0, stream,
           args);
  } else {
    Launch(AdamWKernel<T, 1, kMaster>, BlocksFor(args.n, kThreads), kThreads, 0, stream, args);
  }
  return cudaGetLastError();
}

// One thread an element: these run when parameters come or go, not in a step.
__global__ void __launch_bounds__(kThreads)
    SplitKernel(const float* master, __nv_bfloat16* value, int16_t* low, int64_t n) {
  AwaitPrevious();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) Split(master[i], value[i], low[i]);
}

__global__ void __launch_bounds__(kThreads)
    JoinKernel(const __nv_bfloat16* value, const int16_t* low, float* master, int64_t n) {
  AwaitPrevious();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) master[i] = Join(value[i], low[i]);
}

__global__ void __launch_bounds__(kNormBlocks) SumKernel(const double* x, int64_t n, double* out) {
  AwaitPrevious();
  __shared__ double shared[kNormBlocks / 32];
  double mine = 0;
  for (int64_t i = threadIdx.x; i < n; i += kNormBlocks) mine += x[i];
  const double sum = BlockSum<kNormBlocks>(mine, shared);
  if (threadIdx.x == 0) *out = sum;
}

constexpr int kNormUnroll = 4;

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) SquaresKernel(const T* x, int64_t n, double* partials) {
  AwaitPrevious();
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
  AwaitPrevious();
  __shared__ double shared[kNormBlocks / 32];
  const double sum = BlockSum<kNormBlocks>(partials[threadIdx.x], shared);
  if (threadIdx.x == 0) *out = sum;
}

template <typename From, typename To, int kV>
__global__ void __launch_bounds__(kThreads) ConvertKernel(const From* from, To* to, int64_t n) {
  AwaitPrevious();
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
    Launch(ConvertKernel<From, To, kV>, BlocksFor(n, kThreads * kV), kThreads, 0, stream, from, to,
           n);
  } else {
    Launch(ConvertKernel<From, To, 1>, BlocksFor(n, kThreads), kThreads, 0, stream, from, to, n);
  }
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t AdamW(const AdamWArgs<T>& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  if constexpr (!std::is_same_v<T, float>) {
    if (args.low != nullptr) return LaunchAdamW<T, Master::kSplit>(args, stream);
  }
  const bool alone = static_cast<const void*>(args.value) == static_cast<const void*>(args.master);
  return alone ? LaunchAdamW<T, Master::kAlone>(args, stream)
               : LaunchAdamW<T, Master::kWithValue>(args, stream);
}

cudaError_t SplitMaster(const float* master, __nv_bfloat16* value, int16_t* low, int64_t n,
                        cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  Launch(SplitKernel, BlocksFor(n, kThreads), kThreads, 0, stream, master, value, low, n);
  return cudaGetLastError();
}

cudaError_t JoinMaster(const __nv_bfloat16* value, const int16_t* low, float* master, int64_t n,
                       cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  Launch(JoinKernel, BlocksFor(n, kThreads), kThreads, 0, stream, value, low, master, n);
  return cudaGetLastError();
}

cudaError_t Sum(const double* x, int64_t n, double* out, cudaStream_t stream) {
  Launch(SumKernel, 1, kNormBlocks, 0, stream, x, n, out);
  return cudaGetLastError();
}

template <typename T>
cudaError_t SquaredNorm(const T* x, int64_t n, double* partials, double* out, cudaStream_t stream) {
  if (Aligned16({x})) {
    Launch(SquaresKernel<T, kVector<T>>, kNormBlocks, kThreads, 0, stream, x, n, partials);
  } else {
    Launch(SquaresKernel<T, 1>, kNormBlocks, kThreads, 0, stream, x, n, partials);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  Launch(TotalKernel, 1, kNormBlocks, 0, stream, partials, out);
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
