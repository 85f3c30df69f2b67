// Routing, a warp a token: lane l has the experts l, l + 32, ... in registers.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/router.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kWeightEpsilon = 1e-20f;
constexpr int kNone = 0x7fffffff;

// Whole numbers above 0 in the order of the floats; -0 equals 0 and NaN is the least.
__device__ __forceinline__ uint32_t OrderOf(float value) {
  if (isnan(value)) return 1;
  const uint32_t bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// A lane's experts of one token. kMine of them; those past the last expert count as masked.
template <int kMine>
struct Experts {
  float score[kMine];
  bool masked[kMine];

  __device__ void Load(const RouterArgs& args, int64_t token, int lane) {
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      const int expert = lane + 32 * j;
      const bool there = expert < args.experts;
      score[j] = there ? args.scores[token * args.experts + expert] : 0.0f;
      masked[j] = !there || args.masked[expert] != 0;
    }
  }
};

template <int kMine>
__device__ void ScoreRow(const RouterArgs& args, int64_t token, int lane, Experts<kMine>& mine) {
  mine.Load(args, token, lane);
  if (args.score == RouterScore::kSigmoid) {
#pragma unroll
    for (int j = 0; j < kMine; ++j) mine.score[j] = Sigmoid<float>(mine.score[j]);
  } else {
    float max = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < kMine; ++j) max = fmaxf(max, mine.masked[j] ? -INFINITY : mine.score[j]);
    max = WarpMax(max);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      mine.score[j] = mine.masked[j] ? 0.0f : expf(mine.score[j] - max);
      sum += mine.score[j];
    }
    const float inverse = 1.0f / WarpSum(sum);
#pragma unroll
    for (int j = 0; j < kMine; ++j) mine.score[j] *= inverse;
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    if (lane + 32 * j < args.experts)
      args.scores[token * args.experts + lane + 32 * j] = mine.score[j];
  }
}

// Lane k returns with the expert chosen k-th and its score. A chosen or masked expert has order 0.
template <int kMine>
__device__ void ChooseTop(const RouterArgs& args, int lane, const Experts<kMine>& mine, int* choice,
                          float* score) {
  uint32_t order[kMine];
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    order[j] = mine.masked[j] ? 0 : OrderOf(mine.score[j] + args.bias[lane + 32 * j]);
  }
  for (int k = 0; k < args.top_k; ++k) {
    uint32_t best = 0;
    int best_expert = kNone;
    float best_score = 0;
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (order[j] > best) {
        best = order[j];
        best_expert = lane + 32 * j;
        best_score = mine.score[j];
      }
    }
    const uint32_t top = __reduce_max_sync(kAllLanes, best);
    const int expert = __reduce_min_sync(kAllLanes, best == top ? best_expert : kNone);
    const float chosen_score = __shfl_sync(kAllLanes, best_score, expert % 32);
    if (lane == k) {
      *choice = expert;
      *score = chosen_score;
    }
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (lane + 32 * j == expert) order[j] = 0;
    }
  }
}

template <int kMine>
__global__ void __launch_bounds__(kThreads) RouterKernel(RouterArgs args) {
  AwaitPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= args.tokens) return;
  Experts<kMine> mine;
  ScoreRow(args, token, lane, mine);
  int choice = 0;
  float score = 0;
  if (args.choice_given) {
    __syncwarp();  // the scores that other lanes wrote
    if (lane < args.top_k) {
      choice = args.choice[token * args.top_k + lane];
      score = args.scores[token * args.experts + choice];
    }
  } else {
    ChooseTop(args, lane, mine, &choice, &score);
    if (lane < args.top_k) args.choice[token * args.top_k + lane] = choice;
  }
  float factor = args.scaling;
  if (args.normalize) factor /= WarpSum(lane < args.top_k ? score : 0.0f) + kWeightEpsilon;
  if (lane < args.top_k) args.weight[token * args.top_k + lane] = score * factor;
}

// Experts that may be chosen, and share[e] = scale * alive * route_counts[e] of the auxiliary loss.
template <int kMine>
__device__ void Shares(const Experts<kMine>& mine, const int32_t* route_counts, float scale,
                       int lane, float (&share)[kMine]) {
  int alive = 0;
#pragma unroll
  for (int j = 0; j < kMine; ++j) alive += mine.masked[j] ? 0 : 1;
  alive = WarpSum(alive);
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    share[j] = mine.masked[j] ? 0.0f
                              : scale * static_cast<float>(alive) *
                                    static_cast<float>(route_counts[lane + 32 * j]);
  }
}

// scale: aux_scale / (tokens * top_k * tokens), or 0.
template <typename T, int kMine>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(RouterBackwardArgs<T> args, float scale) {
  AwaitPrevious();
  const RouterArgs& forward = args.forward;
  const int lane = threadIdx.x % 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= forward.tokens) return;
  Experts<kMine> mine;
  mine.Load(forward, token, lane);
  float gradient[kMine] = {};

  // Through the weights: lane k has the k-th choice.
  int choice = -1;
  float score = 0, dweight = 0;
  if (lane < forward.top_k) {
    choice = forward.choice[token * forward.top_k + lane];
    score = forward.scores[token * forward.experts + choice];
    const int64_t place = token * forward.top_k + lane;
    dweight = args.dweight[args.slot == nullptr ? place : args.slot[place]];
  }
  float dscore = forward.scaling * dweight;
  if (forward.normalize) {
    const float sum = WarpSum(score) + kWeightEpsilon;
    dscore = forward.scaling * (dweight - WarpSum(dweight * score) / sum) / sum;
  }
  for (int k = 0; k < forward.top_k; ++k) {
    const int expert = __shfl_sync(kAllLanes, choice, k);
    const float value = __shfl_sync(kAllLanes, dscore, k);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (lane + 32 * j == expert) gradient[j] += value;
    }
  }

  if (scale != 0) {
    float share[kMine], sum = 0, dot = 0;
    Shares(mine, args.route_counts, scale, lane, share);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (mine.masked[j]) continue;
      sum += mine.score[j];
      dot += share[j] * mine.score[j];
    }
    sum = WarpSum(sum);
    const float mean = WarpSum(dot) / sum;
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      if (!mine.masked[j]) gradient[j] += (share[j] - mean) / sum;
    }
  }

  float dot = 0;
  if (forward.score == RouterScore::kSoftmax) {
#pragma unroll
    for (int j = 0; j < kMine; ++j) dot += gradient[j] * mine.score[j];
    dot = WarpSum(dot);
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    const int expert = lane + 32 * j;
    if (expert >= forward.experts) continue;
    const float s = mine.score[j];
    const float value = forward.score == RouterScore::kSigmoid ? gradient[j] * s * (1.0f - s)
                                                               : s * (gradient[j] - dot);
    args.dlogits[token * forward.experts + expert] = FromFloat<T>(value);
  }
}

// partials[block][e] = sum over the block's tokens of score_e / sum of scores, for experts that are
// not masked.
template <int kMine>
__global__ void __launch_bounds__(kThreads) ShareKernel(RouterArgs args, float* partials) {
  AwaitPrevious();
  __shared__ float sums[kWarps][32 * kMine];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float total[kMine] = {};
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < args.tokens;
       token += static_cast<int64_t>(gridDim.x) * kWarps) {
    Experts<kMine> mine;
    mine.Load(args, token, lane);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kMine; ++j) sum += mine.masked[j] ? 0.0f : mine.score[j];
    sum = WarpSum(sum);
#pragma unroll
    for (int j = 0; j < kMine; ++j) total[j] += mine.masked[j] ? 0.0f : mine.score[j] / sum;
  }
#pragma unroll
  for (int j = 0; j < kMine; ++j) sums[warp][lane + 32 * j] = total[j];
  __syncthreads();
  for (int expert = threadIdx.x; expert < args.experts; expert += kThreads) {
    float sum = 0;
    for (int other = 0; other < kWarps; ++other) sum += sums[other][expert];
    partials[static_cast<int64_t>(blockIdx.x) * args.experts + expert] = sum;
  }
}

// *loss += scale * alive * sum over e of route_counts[e] * sum of partials[.][e], in one block.
__global__ void __launch_bounds__(kThreads)
    LossKernel(RouterArgs args, const int32_t* route_counts, const float* partials, int shares,
               double scale, float* loss) {
  AwaitPrevious();
  __shared__ double shared[kWarps];
  double sum = 0, alive = 0;
  for (int expert = threadIdx.x; expert < args.experts; expert += kThreads) {
    if (args.masked[expert] != 0) continue;
    double of_expert = 0;
#pragma unroll 32
    for (int share = 0; share < shares; ++share)
      of_expert += partials[static_cast<int64_t>(share) * args.experts + expert];
    sum += of_expert * route_counts[expert];
    alive += 1;
  }
  sum = BlockSum<kThreads>(sum, shared);
  alive = BlockSum<kThreads>(alive, shared);
  if (threadIdx.x == 0) *loss += static_cast<float>(scale * alive * sum);
}

bool Valid(const RouterArgs& args) {
  return args.experts >= 1 && args.experts <= kRouterExperts && args.top_k >= 1 &&
         args.top_k <= kRouterTopK && args.top_k <= args.experts;
}

// Calls f with the experts that a lane has, as a compile-time constant.
template <typename F>
void WithExpertsOfALane(int experts, F f) {
  if (experts <= 32) return f(std::integral_constant<int, 1>());
  if (experts <= 64) return f(std::integral_constant<int, 2>());
  if (experts <= 128) return f(std::integral_constant<int, 4>());
  if (experts <= 256) return f(std::integral_constant<int, 8>());
  if (experts <= 512) return f(std::integral_constant<int, 16>());
  return f(std::integral_constant<int, 32>());
}

double PerCount(const RouterArgs& args) {
  return 1.0 / (static_cast<double>(args.tokens) * args.top_k * static_cast<double>(args.tokens));
}

}  // namespace

cudaError_t Router(const RouterArgs& args, cudaStream_t stream) {
  if (!Valid(args)) return cudaErrorInvalidValue;
  if (args.tokens == 0) return cudaSuccess;
  WithExpertsOfALane(args.experts, [&](auto mine) {
    Launch(RouterKernel<mine.value>, BlocksFor(args.tokens, kWarps), kThreads, 0, stream, args);
  });
  return cudaGetLastError();
}

template <typename T>
cudaError_t RouterBackward(const RouterBackwardArgs<T>& args, cudaStream_t stream) {
  if (!Valid(args.forward)) return cudaErrorInvalidValue;
  if (args.forward.tokens == 0) return cudaSuccess;
  const float scale = static_cast<float>(args.aux_scale * PerCount(args.forward));
  WithExpertsOfALane(args.forward.experts, [&](auto mine) {
    Launch(BackwardKernel<T, mine.value>, BlocksFor(args.forward.tokens, kWarps), kThreads, 0,
           stream, args, scale);
  });
  return cudaGetLastError();
}

cudaError_t AddAuxiliaryLoss(const RouterArgs& args, const int32_t* route_counts, float* partials,
                             float* loss, cudaStream_t stream) {
  if (!Valid(args)) return cudaErrorInvalidValue;
  if (args.tokens == 0) return cudaSuccess;
  const unsigned shares = std::min<unsigned>(kAuxPartials, BlocksFor(args.tokens, kWarps));
  WithExpertsOfALane(args.experts, [&](auto mine) {
    Launch(ShareKernel<mine.value>, shares, kThreads, 0, stream, args, partials);
  });
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  Launch(LossKernel, 1, kThreads, 0, stream, args, route_counts, partials, static_cast<int>(shares),
         PerCount(args), loss);
  return cudaGetLastError();
}

template cudaError_t RouterBackward<float>(const RouterBackwardArgs<float>&, cudaStream_t);
template cudaError_t RouterBackward<__nv_bfloat16>(const RouterBackwardArgs<__nv_bfloat16>&,
                                                   cudaStream_t);

}  // namespace espalier::kernels::cuda
