// The way out of a finished tile: fp32 sums in registers become bf16 boxes in shared memory, which the copy engine stores. Each
// warp has a ring of two boxes of its own, so no barrier is wider than a warp.
#pragma once

#include "kernels/cuda/hopper/grouped_schedule.cuh"
#include "kernels/cuda/hopper/ptx.cuh"

namespace espalier::kernels::cuda::hopper {

struct BoxRing {
  uint32_t base;      // shared-memory address of the warp's two boxes
  uint32_t next = 0;  // 0 or kBoxBytes
};

__device__ __forceinline__ uint32_t BoxBegin(BoxRing& ring, int lane) {
  const uint32_t box = ring.base + ring.next;
  ring.next ^= kBoxBytes;
  if (lane == 0) CopyOutWaitRead<1>();  // the store that used this box last has read it
  __syncwarp();
  return box;
}

// 16 packed registers (64 columns of the warp's 16 rows) into a box. For stmatrix a lane addresses row `row8` of matrix `matrix`.
__device__ __forceinline__ void BoxFill(uint32_t box, const uint32_t* packed, int lane) {
  const int row8 = lane & 7, matrix = lane >> 3;
  const uint32_t row = box + ((matrix & 1) * 8 + row8) * 128;
#pragma unroll
  for (int chunk = 0; chunk < 8; chunk += 2, packed += 4) {  // 16 columns are two chunks of 16 bytes
    StoreMatrix(row + (((chunk + (matrix >> 1)) ^ row8) << 4), packed[0], packed[1], packed[2], packed[3]);
  }
}

// Stores the box at (row, column) of plane z. Of its 16 rows `valid` exist; fewer than 16 are stored one by one, because a
// TMA box would overwrite the next group's rows (z is 0 then).
__device__ __forceinline__ void BoxEnd(uint32_t box, const CUtensorMap* map, __nv_bfloat16* out, int columns,
                                       int column, int row, int z, int valid, int lane) {
  AsyncProxyFence();
  __syncwarp();
  if (valid >= kBoxRows) {
    if (lane == 0) {
      CopyOut(map, box, column, row, z);
      CopyOutCommit();
    }
    return;
  }
  __nv_bfloat16* corner = out + static_cast<int64_t>(row) * columns + column;
#pragma unroll 1
  for (int i = lane; i < valid * 8; i += 32) {
    const int r = i >> 3, chunk = i & 7;
    uint4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(box + r * 128 + ((chunk ^ (r & 7)) << 4))
                 : "memory");
    if (column + chunk * 8 < columns) {
      *reinterpret_cast<uint4*>(corner + static_cast<int64_t>(r) * columns + chunk * 8) = value;
    }
  }
  if (lane == 0) CopyOutCommit();  // an empty group keeps the ring's count
}

// Sums of a lane: sums[4j .. 4j+3] are rows lane/4 and lane/4 + 8, columns 8j + 2 (lane % 4) and the next. m: the warp's first
// row within the group (within the group's matrix for the gradient, where the copy engine clips rows past m).
template <class Config>
__device__ __forceinline__ void StoreTile(const float (&sums)[128], const Tile& tile, int m, BoxRing& ring,
                                          const GroupedParams& params, const CUtensorMap* map, int lane) {
  const int valid = Config::kGradient ? kBoxRows : min(kBoxRows, tile.rows - m);
  if (valid <= 0) return;
  const int row = Config::kGradient ? m : tile.row0 + m, z = Config::kGradient ? tile.group : 0;
#pragma unroll
  for (int part = 0; part < 4; ++part) {  // 64 columns
    const int column = tile.n0 + part * 64;
    if (column >= params.n) return;
    uint32_t packed[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) packed[i] = PackBf16(sums[part * 32 + 2 * i], sums[part * 32 + 2 * i + 1]);
    const uint32_t box = BoxBegin(ring, lane);
    BoxFill(box, packed, lane);
    BoxEnd(box, map, params.out, params.n, column, row, z, valid, lane);
  }
}

}  // namespace espalier::kernels::cuda::hopper
