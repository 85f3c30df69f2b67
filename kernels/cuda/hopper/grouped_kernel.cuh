// The grouped product's kernel on Hopper: a persistent grid of clusters of two CTAs, one CTA a multiprocessor. Warpgroup 0
// loads, warpgroups 1 and 2 compute; full[s] and empty[s] pass the stages back and forth.
#pragma once

#include "kernels/cuda/hopper/grouped_load.cuh"
#include "kernels/cuda/hopper/grouped_schedule.cuh"
#include "kernels/cuda/hopper/grouped_store.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"
#include "kernels/cuda/launch.cuh"

namespace espalier::kernels::cuda::hopper {

// The stage in hand and its phase, advanced alike by every role.
struct StageCursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <class Config>
__device__ __forceinline__ int StepsOf(const Tile& tile, const GroupedParams& params) {
  return ((Config::kGradient ? tile.rows : params.k) + kTileK - 1) / kTileK;
}

// One thread of the loading warpgroup.
template <class Config>
__device__ __forceinline__ void LoadTiles(Schedule<Config>& schedule, const GroupedParams& params, uint32_t base,
                                          const CUtensorMap* map_a, const CUtensorMap* map_b, uint32_t rank) {
  const uint32_t full = base + kBarriersOffset, empty = full + kStages * 8;
  StageCursor cursor;
  Tile tile;
  while (schedule.Next(tile)) {
    const int steps = StepsOf<Config>(tile, params);
    for (int step = 0; step < steps; ++step) {
      BarrierWait(empty + cursor.stage * 8, cursor.phase ^ 1);
      LoadStep<Config>(base + cursor.stage * kStageBytes, full + cursor.stage * 8, map_a, map_b, tile,
                       step * kTileK, rank);
      cursor.Advance();
    }
  }
}

// One computing warpgroup: 64 rows of each tile.
template <class Config>
class Computer {
 public:
  __device__ __forceinline__ Computer(const GroupedParams& params, uint32_t base, const CUtensorMap* map_out,
                                      int group, int thread)
      : params_(params), base_(base), map_out_(map_out), group_(group), thread_(thread),
        descriptor_a_(OperandDescriptor<Config::kMnMajorA>(base + group * 8192)),  // 64 rows are 8 KB in both layouts
        descriptor_b_(OperandDescriptor<Config::kMnMajorB>(base + kBytesA)),
        ring_{base + kBoxesOffset + (group * 4 + thread / 32) * 2 * kBoxBytes} {}

  __device__ __forceinline__ void Run(Schedule<Config>& schedule) {
    Tile tile;
    while (schedule.Next(tile)) {
      const int steps = StepsOf<Config>(tile, params_);
      if (!Config::kGradient && tile.rows <= tile.m0 + group_ * 64) {
        PassOver(steps);  // the ragged end of a group
        continue;
      }
      float sums[128];
      if (Config::kGradient && steps == 0) {
#pragma unroll
        for (float& sum : sums) sum = 0.0f;  // a group without rows
      } else {
        Multiply(sums, tile, steps);
      }
      if (Config::kGradient && params_.squares != nullptr) AddSquares(sums);
      StoreTile<Config>(sums, tile, tile.m0 + group_ * 64 + thread_ / 32 * 16, ring_, params_, map_out_, thread_ % 32);
    }
    if (Config::kGradient && params_.squares != nullptr) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) squares_ += __shfl_xor_sync(~0u, squares_, step);
      if (thread_ % 32 == 0) params_.squares[blockIdx.x * 8 + group_ * 4 + thread_ / 32] = squares_;
    }
    if (thread_ % 32 == 0) CopyOutWait<0>();
  }

 private:
  // Which tiles a CTA computes, and in which order, follows from the offsets: so do the bits of the sum. What lies outside
  // the matrix is zero.
  __device__ __forceinline__ void AddSquares(const float (&sums)[128]) {
    float tile = 0.0f;
#pragma unroll
    for (const float sum : sums) tile += sum * sum;
    squares_ += tile;
  }

  __device__ __forceinline__ uint32_t full(int stage) const { return base_ + kBarriersOffset + stage * 8; }
  __device__ __forceinline__ uint32_t empty(int stage) const { return full(kStages + stage); }

  // Tells the loaders that fill this stage, in both CTAs, that this warpgroup is done with it.
  __device__ __forceinline__ void Release(int stage) {
    if (thread_ < kClusterSize) BarrierArriveAt(empty(stage), thread_);
  }

  // Nothing to compute, but the pipeline counts on every warpgroup.
  __device__ __forceinline__ void PassOver(int steps) {
    for (int step = 0; step < steps; ++step) {
      BarrierWait(full(cursor_.stage), cursor_.phase);
      // No wgmma keeps the four warps together here: without this barrier warp 0 could release stages while a warp that is
      // still storing has not seen them full; two phases later that warp's parity test is wrong and it hangs.
      NamedSync(1 + group_, 128);
      Release(cursor_.stage);
      cursor_.Advance();
    }
  }

  // Waits for the stage; of its 64 k `left` belong to the group.
  __device__ __forceinline__ void WaitFull(int left) {
    BarrierWait(full(cursor_.stage), cursor_.phase);
    if (Config::kGradient && left < kTileK) {
      const uint32_t a = base_ + cursor_.stage * kStageBytes;
      ZeroTail(a + group_ * 8192, 1, left, thread_);             // our rows of a
      ZeroTail(a + kBytesA, kTileN / 64, left, thread_);         // all of b: both warpgroups write the same zeros
      AsyncProxyFence();
      NamedSync(1 + group_, 128);
    }
  }

  __device__ __forceinline__ void Start(float (&sums)[128], bool first) {
    const uint32_t offset = cursor_.stage * (kStageBytes >> 4);
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < kTileK / 16; ++i) {
      Wgmma256<Config::kMnMajorA, Config::kMnMajorB>(
          sums, descriptor_a_ + offset + i * kDescriptorStep<Config::kMnMajorA>,
          descriptor_b_ + offset + i * kDescriptorStep<Config::kMnMajorB>, i != 0 || !first);
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void Multiply(float (&sums)[128], const Tile& tile, int steps) {
    const int length = Config::kGradient ? tile.rows : params_.k;
    WaitFull(length);
    Start(sums, true);
    int previous = cursor_.stage;  // what the products in flight read
    cursor_.Advance();
    for (int step = 1; step < steps; ++step) {
      WaitFull(length - step * kTileK);
      Start(sums, false);
      WgmmaWait<1>();  // the previous step has been read: its stage goes back
      Release(previous);
      previous = cursor_.stage;
      cursor_.Advance();
    }
    WgmmaWait<0>();
    Release(previous);
  }

  const GroupedParams& params_;
  const uint32_t base_;
  const CUtensorMap* map_out_;
  const int group_, thread_;  // which of the two warpgroups; thread within it
  const uint64_t descriptor_a_, descriptor_b_;
  BoxRing ring_;
  StageCursor cursor_;
  double squares_ = 0.0;
};

template <class Config>
__global__ void __cluster_dims__(kClusterSize, 1, 1) __launch_bounds__(kThreads, 1)
    GroupedKernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                  const __grid_constant__ CUtensorMap map_out, const __grid_constant__ GroupedParams params) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = SharedAddress(shared);
  int* offsets = reinterpret_cast<int*>(shared + kScheduleOffset);
  int* units = offsets + kGroupsMax + 1;
  const int thread = threadIdx.x, warpgroup = thread / 128;
  const uint32_t rank = ClusterRank();
  if (thread == 0) {
    if (base & 1023) __trap();  // the swizzle counts on it
    for (int stage = 0; stage < kStages; ++stage) {
      const uint32_t full = base + kBarriersOffset + stage * 8;
      BarrierInit(full, 1);
      BarrierInit(full + kStages * 8, 2 * kClusterSize);  // both computing warpgroups of every CTA that a load writes to
    }
    BarrierInitFence();
    PrefetchMap(&map_a);
    PrefetchMap(&map_b);
    PrefetchMap(&map_out);
  }
  AwaitPrevious();  // what stands above reads nothing of the device's memory
  ScheduleSetup<Config>(offsets, units, params);  // its __syncthreads() publishes the barriers
  ClusterSync();

  Schedule<Config> schedule(offsets, units, params);
  if (warpgroup == 0) {
    GiveRegistersDownTo<kLoaderRegisters>();
    if (thread == 0) LoadTiles<Config>(schedule, params, base, &map_a, &map_b, rank);
    __syncwarp();
  } else {
    TakeRegistersUpTo<kComputeRegisters>();
    Computer<Config>(params, base, &map_out, warpgroup - 1, thread - warpgroup * 128).Run(schedule);
  }
  // No CTA may leave while its peer can still write to it or signal it.
  __syncwarp();
  ClusterSync();
}

}  // namespace espalier::kernels::cuda::hopper
