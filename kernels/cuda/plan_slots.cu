// Slots grouped by expert: a stable counting sort in two kernels. Each block counts the groups of
// its stretch of slots; then each block adds up what stands before it and places its stretch, warp
// by warp, 32 slots at a time.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/permute.h"
#include "kernels/cuda/router.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocksMax = 128;
constexpr int kStretchMin = 1024;  // fewer slots are not worth another block
constexpr int kGroupsPerThread = kRouterExperts / kThreads;
static_assert(kRouterExperts % kThreads == 0);

struct Cut {
  int64_t stretch;  // slots of a block: every warp has the same whole number of 32
  unsigned blocks;  // at least one, so that empty inputs write their zeros
};
Cut CutOf(int64_t slots) {
  const int64_t least = std::max<int64_t>(kStretchMin, (slots + kBlocksMax - 1) / kBlocksMax);
  const int64_t stretch = (least + kThreads - 1) / kThreads * kThreads;
  return {stretch, std::max(1u, BlocksFor(slots, stretch))};
}

// counts [blocks, groups]
__global__ void __launch_bounds__(kThreads)
    CountKernel(PlanSlotsArgs args, int64_t slots, int64_t stretch, int32_t* counts) {
  AwaitPrevious();
  __shared__ int32_t count[kRouterExperts];
  for (int group = threadIdx.x; group < args.experts; group += kThreads) count[group] = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * stretch;
  const int64_t end = begin + stretch < slots ? begin + stretch : slots;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    atomicAdd(&count[args.group_of[args.choice[i]]], 1);
  __syncthreads();
  for (int group = threadIdx.x; group < args.experts; group += kThreads) {
    counts[static_cast<int64_t>(blockIdx.x) * args.experts + group] = count[group];
  }
}

// before[g] = slots of g in earlier blocks, total[g] = in all. Both are zero on entry.
__device__ void AddUpBlocks(const int32_t* counts, int groups, int32_t* before, int32_t* total) {
  const int blocks = gridDim.x;
  const int parts = max(1, kThreads / groups);
  for (int item = threadIdx.x; item < groups * parts; item += kThreads) {
    const int group = item % groups, part = item / groups;
    int32_t mine = 0, all = 0;
#pragma unroll 16
    for (int block = part; block < blocks; block += parts) {
      const int32_t count = counts[static_cast<int64_t>(block) * groups + group];
      all += count;
      if (block < static_cast<int>(blockIdx.x)) mine += count;
    }
    atomicAdd(&before[group], mine);
    atomicAdd(&total[group], all);
  }
}

// base[g] = sum of total[0..g): each thread takes kGroupsPerThread neighbours.
__device__ void ScanGroups(const int32_t* total, int groups, int32_t* base, int32_t* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t mine[kGroupsPerThread], sum = 0;
#pragma unroll
  for (int i = 0; i < kGroupsPerThread; ++i) {
    const int group = threadIdx.x * kGroupsPerThread + i;
    mine[i] = group < groups ? total[group] : 0;
    sum += mine[i];
  }
  int32_t through = sum;  // inclusive over the warp
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, through, step);
    if (lane >= step) through += other;
  }
  if (lane == 31) warp_sums[warp] = through;
  __syncthreads();
  int32_t at = through - sum;
  for (int other = 0; other < warp; ++other) at += warp_sums[other];
#pragma unroll
  for (int i = 0; i < kGroupsPerThread; ++i) {
    const int group = threadIdx.x * kGroupsPerThread + i;
    if (group < groups) base[group] = at;
    at += mine[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    PlaceKernel(PlanSlotsArgs args, int64_t slots, int64_t stretch, const int32_t* counts) {
  AwaitPrevious();
  // next[w][g]: at first the slots of g in warp w's part, then where warp w puts its next one.
  __shared__ int32_t next[kWarps][kRouterExperts];
  __shared__ int32_t before[kRouterExperts], total[kRouterExperts], base[kRouterExperts];
  __shared__ int32_t warp_sums[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, groups = args.experts;
  for (int group = threadIdx.x; group < groups; group += kThreads) {
    before[group] = total[group] = 0;
    for (int other = 0; other < kWarps; ++other) next[other][group] = 0;
  }
  __syncthreads();
  AddUpBlocks(counts, groups, before, total);
  const int64_t part = stretch / kWarps;
  const int64_t begin = blockIdx.x * stretch + warp * part;
  const int64_t end = begin + part < slots ? begin + part : slots;
  for (int64_t i = begin + lane; i < end; i += 32)
    atomicAdd(&next[warp][args.group_of[args.choice[i]]], 1);
  __syncthreads();
  ScanGroups(total, groups, base, warp_sums);
  __syncthreads();
  for (int group = threadIdx.x; group < groups; group += kThreads) {
    int32_t at = base[group] + before[group];
    for (int other = 0; other < kWarps; ++other) {
      const int32_t count = next[other][group];
      next[other][group] = at;
      at += count;
    }
  }
  if (blockIdx.x == 0) {
    for (int group = threadIdx.x; group < groups; group += kThreads) {
      args.offsets[group] = base[group];
      args.counts[group] = total[args.group_of[group]];  // here the index is an expert
    }
    if (threadIdx.x == 0) args.offsets[groups] = static_cast<int32_t>(slots);
  }
  __syncthreads();
  const uint32_t top_k = args.top_k;
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t i = first + lane;
    const bool there = i < end;
    const int group = there ? args.group_of[args.choice[i]] : -1;
    const unsigned peers = __match_any_sync(kAllLanes, group);
    const int rank = __popc(peers & ((1u << lane) - 1));
    int32_t row = 0;
    if (there) row = next[warp][group] + rank;
    __syncwarp();
    if (there && rank == 0) next[warp][group] += __popc(peers);
    __syncwarp();
    if (there) {
      args.slot[i] = row;
      args.token_of[row] = static_cast<int32_t>(static_cast<uint32_t>(i) / top_k);
      if (args.row_weight != nullptr) args.row_weight[row] = args.weight[i];
    }
  }
}

}  // namespace

int64_t PlanSlotsScratch(int64_t, int experts) {
  return static_cast<int64_t>(kBlocksMax) * experts;
}

cudaError_t PlanSlots(const PlanSlotsArgs& args, cudaStream_t stream) {
  const int64_t slots = args.tokens * args.top_k;
  if (args.experts < 1 || args.experts > kRouterExperts || args.top_k < 1 || slots > INT32_MAX)
    return cudaErrorInvalidValue;
  const Cut cut = CutOf(slots);
  Launch(CountKernel, cut.blocks, kThreads, 0, stream, args, slots, cut.stretch, args.scratch);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  Launch(PlaceKernel, cut.blocks, kThreads, 0, stream, args, slots, cut.stretch, args.scratch);
  return cudaGetLastError();
}

}  // namespace espalier::kernels::cuda
