// The loading warpgroup's part: TMA loads of one step of k, and the clean end of a group's rows in a gradient.
#pragma once

#include "kernels/cuda/hopper/grouped_schedule.cuh"
#include "kernels/cuda/hopper/ptx.cuh"

namespace espalier::kernels::cuda::hopper {

// An operand tile of Rows rows (its m or n side) x 64 k, in boxes of Box rows. `z` is the group's plane of b (0 for
// activations). shared: each CTA of the cluster loads one half for both.
template <bool MnMajor, int Rows, int Box>
__device__ __forceinline__ void LoadOperand(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                            int row, int k, int z, bool shared, uint32_t rank) {
  if (shared) {
    to += rank * (Rows / 2 * 128);
    row += rank * (Rows / 2);
#pragma unroll
    for (int i = 0; i < Rows / 2; i += Box) {
      CopyInMulticast(to + i * 128, map, barrier, MnMajor ? row + i : k, MnMajor ? k : row + i, z, 3);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Rows; i += Box) {
      CopyIn(to + i * 128, map, barrier, MnMajor ? row + i : k, MnMajor ? k : row + i, z);
    }
  }
}

// One thread: fills `stage` (a shared-memory address) with step `k` of the tile and completes on `full`.
template <class Config>
__device__ __forceinline__ void LoadStep(uint32_t stage, uint32_t full, const CUtensorMap* map_a,
                                         const CUtensorMap* map_b, const Tile& tile, int k,
                                         uint32_t rank) {
  const uint32_t a = stage, b = stage + kBytesA;
  BarrierExpect(full, kStageBytes);
  if constexpr (Config::kGradient) {
    LoadOperand<true, kTileM, Config::kLoadRowsA>(a, map_a, full, tile.m0, tile.row0 + k, 0, tile.beside, rank);
    LoadOperand<true, kTileN, Config::kLoadRowsB>(b, map_b, full, tile.n0, tile.row0 + k, 0, !tile.beside, rank);
  } else {
    LoadOperand<false, kTileM, Config::kLoadRowsA>(a, map_a, full, tile.row0 + tile.m0, k, 0, tile.beside, rank);
    LoadOperand<Config::kMnMajorB, kTileN, Config::kLoadRowsB>(b, map_b, full, tile.n0, k, tile.group, !tile.beside, rank);
  }
}

// MN-major tiles of a group's last step: the rows of k from `valid` on belong to the next group and become zero. 128 threads.
__device__ __forceinline__ void ZeroTail(uint32_t tile, int chunks, int valid, int thread) {
  for (int chunk = 0; chunk < chunks; ++chunk) {
    for (int at = valid * 128 + thread * 16; at < 8192; at += 128 * 16) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(tile + chunk * 8192 + at), "r"(0)
                   : "memory");
    }
  }
}

}  // namespace espalier::kernels::cuda::hopper
