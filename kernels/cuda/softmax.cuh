// Sums of exponentials in one pass: kept relative to the largest value so far, merged across
// threads.
#pragma once

#include "kernels/cuda/element.cuh"

namespace espalier::kernels::cuda {

struct SoftmaxSums {
  float max = -1e30f;  // finite, so that nothing below is infinity times zero
  float sum = 0;       // of e^(x - max)
  float weighted = 0;  // of e^(x - max) * (x - max)

  // The same sums relative to a larger maximum.
  template <typename T>
  __device__ __forceinline__ void Raise(float larger) {
    const float step = max - larger, factor = Exp<T>(step);
    weighted = (weighted + sum * step) * factor;
    sum *= factor;
    max = larger;
  }

  template <typename T, bool kWeighted, int kN>
  __device__ __forceinline__ void Add(const float (&values)[kN]) {
    float larger = values[0];
#pragma unroll
    for (int i = 1; i < kN; ++i) larger = fmaxf(larger, values[i]);
    if (larger > max) Raise<T>(larger);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float e = Exp<T>(values[i] - max);
      sum += e;
      if constexpr (kWeighted) weighted += e * (values[i] - max);
    }
  }

  __device__ __forceinline__ void Merge(SoftmaxSums other) {
    const float larger = fmaxf(max, other.max);
    Raise<float>(larger);
    other.Raise<float>(larger);
    sum += other.sum;
    weighted += other.weighted;
  }

  __device__ float LogSumExp() const { return max + logf(sum); }
  __device__ float Entropy() const { return logf(sum) - weighted / sum; }
};

// Over groups of kLanes neighbouring lanes, the same in each.
template <int kLanes>
__device__ __forceinline__ SoftmaxSums LanesMerge(SoftmaxSums mine) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    SoftmaxSums other;
    other.max = __shfl_xor_sync(kAllLanes, mine.max, step);
    other.sum = __shfl_xor_sync(kAllLanes, mine.sum, step);
    other.weighted = __shfl_xor_sync(kAllLanes, mine.weighted, step);
    mine.Merge(other);
  }
  return mine;
}

// Of all threads of a one-dimensional block, the same in each; `shared` has room for one a warp and
// is used once.
template <int kThreads>
__device__ __forceinline__ SoftmaxSums BlockMerge(SoftmaxSums mine, SoftmaxSums* shared) {
  constexpr int kWarps = kThreads / 32;
  mine = LanesMerge<32>(mine);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x < 32) {
    mine = LanesMerge<kWarps>(shared[threadIdx.x % kWarps]);
    __syncwarp();
    if (threadIdx.x == 0) shared[0] = mine;
  }
  __syncthreads();
  return shared[0];
}

}  // namespace espalier::kernels::cuda
