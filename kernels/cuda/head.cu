// Log-probabilities in one pass over the logits (a block a row, sums relative to a running
// maximum), and their gradient in place. Rows need not begin at 16 bytes: odd vocabularies run at
// full speed too.
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/head.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/softmax.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 4;  // 16-byte packs that a thread has in flight

template <typename T, bool kEntropy>
__global__ void __launch_bounds__(kThreads) LogProbKernel(LogProbArgs<T> args) {
  AwaitPrevious();
  __shared__ SoftmaxSums shared[kThreads / 32];
  const int64_t row = blockIdx.x;
  const T* logits = args.logits + row * args.vocabulary;
  SoftmaxSums mine;
  VisitRow<kUnroll>(logits, 0, static_cast<int>(args.vocabulary), threadIdx.x, kThreads,
                    [&](int, const auto& values) { mine.Add<T, kEntropy>(values); });
  const SoftmaxSums all = BlockMerge<kThreads>(mine, shared);
  if (threadIdx.x != 0) return;
  const int32_t target = args.targets[row];
  const float lse = all.LogSumExp();
  args.lse[row] = lse;
  args.logp[row] = target < 0 ? 0.0f : ToFloat(logits[target]) - lse;
  if constexpr (kEntropy) args.entropy[row] = all.Entropy();
}

// A row of logits becomes its gradient; `threads` threads share it.
template <typename T>
__device__ __forceinline__ void WriteGradient(T* logits, int32_t target, float lse, float dlogp,
                                              int64_t vocabulary, int threads) {
  VisitRow<kUnroll>(logits, 0, static_cast<int>(vocabulary), threadIdx.x, threads,
                    [&]<int kN>(int first, float(&values)[kN]) {
#pragma unroll
                      for (int i = 0; i < kN; ++i) {
                        const float probability = target < 0 ? 0.0f : Exp<T>(values[i] - lse);
                        values[i] = dlogp * ((first + i == target ? 1.0f : 0.0f) - probability);
                      }
                      StoreFloats(logits + first, values);
                    });
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GradientKernel(T* all_logits, const int32_t* targets, const float* lses, const float* dlogps,
                   int64_t vocabulary) {
  AwaitPrevious();
  const int64_t row = blockIdx.x;
  const int32_t target = targets[row];
  WriteGradient(all_logits + row * vocabulary, target, lses[row], target < 0 ? 0.0f : dlogps[row],
                vocabulary, kThreads);
}

// The row stays in shared memory between the two looks at it. `packs` 16-byte packs a row; its
// address is a multiple of 16 bytes.
template <typename T, int kBlock>
__global__ void __launch_bounds__(kBlock)
    FusedKernel(T* all_logits, const int32_t* targets, const float* dlogps, float* logps,
                int packs) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  extern __shared__ uint4 row_packs[];
  __shared__ SoftmaxSums shared[kBlock / 32];
  T* logits = all_logits + static_cast<int64_t>(blockIdx.x) * packs * kV;
  T* row = reinterpret_cast<T*>(row_packs);
  SoftmaxSums mine;
  for (int first = threadIdx.x; first < packs; first += kBlock * kUnroll) {
    Pack<T, kV> kept[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * kBlock < packs) kept[u] = LoadPack<T, kV>(logits + (first + u * kBlock) * kV);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * kBlock >= packs) break;
      StorePack(row + (first + u * kBlock) * kV, kept[u]);
      float values[kV];
      Unpack(kept[u], values);
      mine.Add<T, false>(values);
    }
  }
  const float lse = BlockMerge<kBlock>(mine, shared).LogSumExp();
  const int32_t target = targets[blockIdx.x];
  if (threadIdx.x == 0) logps[blockIdx.x] = target < 0 ? 0.0f : ToFloat(row[target]) - lse;
  const float dlogp = target < 0 ? 0.0f : dlogps[blockIdx.x];
  for (int pack = threadIdx.x; pack < packs; pack += kBlock) {  // each thread reads what it wrote
    float values[kV];
    LoadFloats(row + pack * kV, values);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float probability = target < 0 ? 0.0f : Exp<T>(values[i] - lse);
      values[i] = dlogp * ((pack * kV + i == target ? 1.0f : 0.0f) - probability);
    }
    StoreFloats(logits + pack * kV, values);
  }
}

// Rows that do not fit, or do not begin at 16 bytes: the second look finds the row in the cache.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    FusedKernelOfAnyRow(T* all_logits, const int32_t* targets, const float* dlogps, float* logps,
                        int64_t vocabulary) {
  AwaitPrevious();
  __shared__ SoftmaxSums shared[kThreads / 32];
  const int64_t row = blockIdx.x;
  T* logits = all_logits + row * vocabulary;
  SoftmaxSums mine;
  VisitRow<kUnroll>(logits, 0, static_cast<int>(vocabulary), threadIdx.x, kThreads,
                    [&](int, const auto& values) { mine.Add<T, false>(values); });
  const float lse = BlockMerge<kThreads>(mine, shared).LogSumExp();
  const int32_t target = targets[row];
  if (threadIdx.x == 0) logps[row] = target < 0 ? 0.0f : ToFloat(logits[target]) - lse;
  __syncthreads();  // the target's logit is read before it is overwritten
  WriteGradient(logits, target, lse, target < 0 ? 0.0f : dlogps[row], vocabulary, kThreads);
}

// Rows of up to this many bytes go through shared memory: two blocks then fit a multiprocessor of
// Hopper, one of Ampere.
constexpr int64_t kRowBytesMax = 112 * 1024;
constexpr int64_t kSmallRowBytes = 72 * 1024;

template <typename T, int kBlock>
cudaError_t LaunchFused(T* logits, const int32_t* targets, const float* dlogp, float* logp,
                        int64_t rows, int64_t row_bytes, cudaStream_t stream) {
  static OncePerDevice raised;
  if (const cudaError_t error = raised.Do([] {
        return cudaFuncSetAttribute(FusedKernel<T, kBlock>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, kRowBytesMax);
      });
      error != cudaSuccess) {
    return error;
  }
  Launch(FusedKernel<T, kBlock>, static_cast<unsigned>(rows), kBlock, row_bytes, stream, logits,
         targets, dlogp, logp, static_cast<int>(row_bytes / 16));
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t LogProb(const LogProbArgs<T>& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.vocabulary < 1 || args.vocabulary > INT32_MAX / 2) return cudaErrorInvalidValue;
  const unsigned blocks = static_cast<unsigned>(args.rows);
  if (args.entropy != nullptr) {
    Launch(LogProbKernel<T, true>, blocks, kThreads, 0, stream, args);
  } else {
    Launch(LogProbKernel<T, false>, blocks, kThreads, 0, stream, args);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t LogitsGradient(T* logits, const int32_t* targets, const float* lse, const float* dlogp,
                           int64_t rows, int64_t vocabulary, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (vocabulary < 1 || vocabulary > INT32_MAX / 2) return cudaErrorInvalidValue;
  Launch(GradientKernel<T>, static_cast<unsigned>(rows), kThreads, 0, stream, logits, targets, lse,
         dlogp, vocabulary);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LogProbAndGradient(T* logits, const int32_t* targets, const float* dlogp, float* logp,
                               int64_t rows, int64_t vocabulary, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (vocabulary < 1 || vocabulary > INT32_MAX / 2) return cudaErrorInvalidValue;
  const int64_t row_bytes = vocabulary * static_cast<int64_t>(sizeof(T));
  if (row_bytes % 16 == 0 && row_bytes <= kRowBytesMax && Aligned16({logits})) {
    return row_bytes <= kSmallRowBytes
               ? LaunchFused<T, 512>(logits, targets, dlogp, logp, rows, row_bytes, stream)
               : LaunchFused<T, 1024>(logits, targets, dlogp, logp, rows, row_bytes, stream);
  }
  Launch(FusedKernelOfAnyRow<T>, static_cast<unsigned>(rows), kThreads, 0, stream, logits, targets,
         dlogp, logp, vocabulary);
  return cudaGetLastError();
}

#define ESPALIER_INSTANTIATE(T)                                                                   \
  template cudaError_t LogProb<T>(const LogProbArgs<T>&, cudaStream_t);                           \
  template cudaError_t LogitsGradient<T>(T*, const int32_t*, const float*, const float*, int64_t, \
                                         int64_t, cudaStream_t);                                  \
  template cudaError_t LogProbAndGradient<T>(T*, const int32_t*, const float*, float*, int64_t,   \
                                             int64_t, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
