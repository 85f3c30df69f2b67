// Which tile comes next. Every role walks the same sequence by itself, so nobody has to tell anybody. A unit is the work of one
// cluster: two neighbouring tiles of one group's output.
#pragma once

#include "kernels/cuda/hopper/grouped_config.cuh"

namespace espalier::kernels::cuda::hopper {

struct Tile {
  int group;
  int m0, n0;   // first output row within the group (within its matrix for the gradient), first output column
  int row0;     // offsets[group]
  int rows;     // of the group
  bool beside;  // the cluster's tiles stand side by side along n (share a), not stacked along m (share b)
};

// Pairs of m-tiles, and the odd last m-tile in pairs along n.
__device__ __forceinline__ int UnitsOf(int m_tiles, int n_tiles) {
  return (m_tiles >> 1) * n_tiles + (m_tiles & 1) * ((n_tiles + 1) >> 1);
}

template <class Config>
class Schedule {
 public:
  // offsets and units: shared memory filled by ScheduleSetup.
  __device__ __forceinline__ Schedule(const int* offsets, const int* units, const GroupedParams& params)
      : offsets_(offsets), units_(units), params_(params) {}

  __device__ __forceinline__ bool Next(Tile& tile) {
    const int clusters = gridDim.x / kClusterSize, cluster = blockIdx.x / kClusterSize;
    const int rank = blockIdx.x % kClusterSize;  // the CTAs of a cluster are consecutive blocks
    const int n_tiles = (params_.n + kTileN - 1) / kTileN;
    int unit, m_tiles;
    if constexpr (Config::kGradient) {
      // A unit costs its group's rows: they are handed out in decreasing order, and backwards in every other wave.
      unit = wave_ * clusters + ((wave_ & 1) ? clusters - 1 - cluster : cluster);
      m_tiles = (params_.m + kTileM - 1) / kTileM;
      const int each = UnitsOf(m_tiles, n_tiles);
      ++wave_;
      if (unit >= each * params_.groups) return false;  // only in the last wave, or past it
      const int place = unit / each;
      unit -= place * each;
      group_ = units_[place];
    } else {
      unit = wave_ * clusters + cluster;
      ++wave_;
      if (unit >= units_[params_.groups]) return false;
      while (unit >= units_[group_ + 1]) ++group_;
      unit -= units_[group_];
      m_tiles = (offsets_[group_ + 1] - offsets_[group_] + kTileM - 1) / kTileM;
    }
    Place(unit, m_tiles, n_tiles, rank, tile);
    return true;
  }

 private:
  static constexpr int kStrip = 8;  // pairs of m-tiles walked together, m fastest, so that b stays in L2

  __device__ __forceinline__ void Place(int unit, int m_tiles, int n_tiles, int rank, Tile& tile) {
    const int pairs = m_tiles / 2;
    int m, n;
    tile.beside = unit >= pairs * n_tiles;
    if (tile.beside) {
      n = (unit - pairs * n_tiles) * 2 + rank;  // may lie past n: computes on zero fill, stores nothing
      m = m_tiles - 1;
    } else {
      const int strip = unit / (kStrip * n_tiles), first = strip * kStrip;
      const int here = min(kStrip, pairs - first);
      unit -= strip * kStrip * n_tiles;
      n = unit / here;
      m = (first + unit - n * here) * 2 + rank;
    }
    tile.group = group_;
    tile.m0 = m * kTileM;
    tile.n0 = n * kTileN;
    tile.row0 = offsets_[group_];
    tile.rows = offsets_[group_ + 1] - tile.row0;
  }

  const int* offsets_;
  const int* units_;  // units of the groups before, or (gradient) the groups by decreasing rows
  const GroupedParams& params_;
  int wave_ = 0, group_ = 0;
};

// Fills offsets and units in shared memory. All threads call it; ends with __syncthreads().
template <class Config>
__device__ __forceinline__ void ScheduleSetup(int* offsets, int* units, const GroupedParams& params) {
  const int thread = threadIdx.x, groups = params.groups;
  for (int i = thread; i <= groups; i += kThreads) offsets[i] = params.offsets[i];
  __syncthreads();
  if constexpr (Config::kGradient) {
    for (int i = thread; i < groups; i += kThreads) {
      const int rows = offsets[i + 1] - offsets[i];
      int place = 0;
      for (int j = 0; j < groups; ++j) {
        const int other = offsets[j + 1] - offsets[j];
        place += other > rows || (other == rows && j < i);
      }
      units[place] = i;
    }
  } else if (thread < 32) {  // running sum of the groups' units
    const int n_tiles = (params.n + kTileN - 1) / kTileN;
    int carry = 0;
    for (int base = 0; base < groups; base += 32) {
      const int i = base + thread;
      int sum = i < groups ? UnitsOf((offsets[i + 1] - offsets[i] + kTileM - 1) / kTileM, n_tiles) : 0;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, sum, step);
        if (thread >= step) sum += other;
      }
      if (i < groups) units[i + 1] = carry + sum;
      carry += __shfl_sync(~0u, sum, 31);
    }
    if (thread == 0) units[0] = 0;
  }
  __syncthreads();
}

}  // namespace espalier::kernels::cuda::hopper
