// Drawing a token a row by inverting the cumulative distribution: warps sum stretches of the
// vocabulary, and the one whose stretch holds the drawn share looks for the token.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/softmax.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kNone = 0x7fffffff;
constexpr int kMine = 8;  // neighbouring tokens of a lane in the search
static_assert(kWarps == 32);

struct Best {
  float value = -INFINITY;
  int index = kNone;
  __device__ void Merge(float other_value, int other_index) {
    if (other_value > value || (other_value == value && other_index < index)) {
      value = other_value;
      index = other_index;
    }
  }
  __device__ void MergeLanes() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other_value = __shfl_xor_sync(kAllLanes, value, step);
      const int other_index = __shfl_xor_sync(kAllLanes, index, step);
      Merge(other_value, other_index);
    }
  }
};

// The largest and its lowest index, the same in each thread. Without any number above -infinity the
// index is 0.
__device__ Best BlockBest(Best mine, float* values, int* indices) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  mine.MergeLanes();
  if (lane == 0) {
    values[warp] = mine.value;
    indices[warp] = mine.index;
  }
  __syncthreads();
  Best all;
  all.value = values[lane];
  all.index = indices[lane];
  all.MergeLanes();
  if (all.index == kNone) all.index = 0;
  return all;
}

// By one warp: the first token of [begin, end) at which the weights, added to `before`, exceed
// `target`; when rounding leaves none, the last with any weight; `otherwise` when none has.
template <typename T, typename Weight>
__device__ int Search(const T* logits, int begin, int end, double before, double target,
                      int otherwise, Weight weight) {
  const int lane = threadIdx.x % 32;
  int last = -1;  // with any weight, so far
  for (int first = begin; first < end; first += 32 * kMine) {
    const int mine = first + lane * kMine;
    float weights[kMine];
    double sum = 0;
    int last_mine = -1;
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      weights[j] = mine + j < end ? weight(ToFloat(logits[mine + j])) : 0.0f;
      sum += weights[j];
      if (weights[j] > 0) last_mine = mine + j;
    }
    double through = sum;  // inclusive over the lanes
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(kAllLanes, through, step);
      if (lane >= step) through += other;
    }
    const unsigned hits = __ballot_sync(kAllLanes, sum > 0 && before + through > target);
    if (hits != 0) {
      int token = last_mine;
      double at = before + (through - sum);
      bool found = false;
#pragma unroll
      for (int j = 0; j < kMine; ++j) {
        at += weights[j];
        if (found || weights[j] <= 0 || at <= target) continue;
        token = mine + j;
        found = true;
      }
      return __shfl_sync(kAllLanes, token, __ffs(hits) - 1);
    }
    last = max(last, __reduce_max_sync(kAllLanes, last_mine));
    before += __shfl_sync(kAllLanes, through, 31);
  }
  return last >= 0 ? last : otherwise;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    SampleKernel(SampleArgs<T> args, float inverse_temperature) {
  __shared__ SoftmaxSums merged[kWarps];
  __shared__ float best_values[kWarps];
  __shared__ int best_indices[kWarps];
  __shared__ double warp_sums[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t row = blockIdx.x;
  const int vocabulary = static_cast<int>(args.vocabulary);
  const T* logits = args.logits + row * vocabulary;

  SoftmaxSums mine;
  Best best;
  VisitRow<2>(logits, 0, vocabulary, threadIdx.x, kThreads,
              [&]<int kN>(int first, const float(&values)[kN]) {
                mine.Add<float, false>(values);
#pragma unroll
                for (int i = 0; i < kN; ++i) best.Merge(values[i], first + i);
              });
  const float lse = BlockMerge<kThreads>(mine, merged).LogSumExp();
  best = BlockBest(best, best_values, best_indices);
  const auto write = [&](int token) {
    if (lane != 0) return;
    args.token[row] = token;
    args.logp[row] = ToFloat(logits[token]) - lse;
  };
  if (args.temperature == 0) {
    if (warp == 0) write(best.index);
    return;
  }

  const float max = best.value;
  const auto weight = [&](float logit) { return expf((logit - max) * inverse_temperature); };
  const int stretch = (vocabulary + kWarps - 1) / kWarps;
  const int begin = min(warp * stretch, vocabulary), end = min(begin + stretch, vocabulary);
  double sum = 0;
  VisitRow<2>(logits, begin, end, lane, 32, [&]<int kN>(int, const float(&values)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) sum += weight(values[i]);
  });
  sum = WarpSum(sum);
  if (lane == 0) warp_sums[warp] = sum;
  __syncthreads();

  double total = 0;
#pragma unroll 4
  for (int other = 0; other < kWarps; ++other) total += warp_sums[other];
  const double target = args.uniform[row] * total;
  int chosen = -1, last = 0;  // last: with any weight
  double before = 0, chosen_before = 0, last_before = 0;
#pragma unroll 2
  for (int other = 0; other < kWarps; ++other) {
    const double through = before + warp_sums[other];
    if (chosen < 0 && through > target) {
      chosen = other;
      chosen_before = before;
    }
    if (warp_sums[other] > 0) {
      last = other;
      last_before = before;
    }
    before = through;
  }
  if (chosen < 0) {
    chosen = last;
    chosen_before = last_before;
  }
  if (warp == chosen) write(Search(logits, begin, end, chosen_before, target, best.index, weight));
}

}  // namespace

template <typename T>
cudaError_t SampleTokens(const SampleArgs<T>& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.vocabulary < 1 || args.vocabulary > INT32_MAX / 2 || !(args.temperature >= 0))
    return cudaErrorInvalidValue;
  const float inverse = args.temperature == 0 ? 0.0f : static_cast<float>(1.0 / args.temperature);
  SampleKernel<T><<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args, inverse);
  return cudaGetLastError();
}

template cudaError_t SampleTokens<float>(const SampleArgs<float>&, cudaStream_t);
template cudaError_t SampleTokens<__nv_bfloat16>(const SampleArgs<__nv_bfloat16>&, cudaStream_t);

}  // namespace espalier::kernels::cuda
