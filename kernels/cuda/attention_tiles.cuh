// What the attention kernels share: tiles of kTile rows of a head in shared memory as fp32, and
// their products. A block is 16 x 16 threads; thread (tx, ty) has rows ty * kRows.. of a product,
// and of scores the columns tx, tx + 16, ...
#pragma once

#include "kernels/cuda/element.cuh"

namespace espalier::kernels::cuda {

inline constexpr int kAttentionThreads = 256;

// kD: the head size rounded up, filled with zeros.
template <int kD, int kTile>
struct Tile {
  static_assert(kD % 32 == 0 && kTile % 16 == 0);
  static constexpr int kRows = kTile / 16;  // of a thread; columns of scores too
  static constexpr int kColumns = kD / 16;  // of a thread, in a product with a tile
  static constexpr int kSpan = kColumns < 4 ? kColumns : 4;  // of those, how many are neighbours
  static constexpr int kStride = kD + 4;  // odd in 16-byte units: no two rows of eight share a bank
  static constexpr int kScoreStride = kTile + 4;
  static constexpr int kFloats = kTile * kStride;
  static constexpr int kScoreFloats = kTile * kScoreStride;

  // Column in the head of a thread's c-th.
  __device__ static constexpr int Column(int tx, int c) {
    return c / kSpan * 16 * kSpan + tx * kSpan + c % kSpan;
  }

  // Rows [first, first + kTile) of x (a head's first element, `stride` between rows); from `end` on
  // zeros.
  template <typename T, int kV>
  __device__ static void LoadBy(const T* x, int64_t stride, int first, int end, int head_dim,
                                float* tile) {
    constexpr int kPacks = kD / kV;
#pragma unroll 4
    for (int item = threadIdx.x; item < kTile * kPacks; item += kAttentionThreads) {
      const int row = item / kPacks, column = item % kPacks * kV;
      float values[kV] = {};
      if (first + row < end && column < head_dim)
        LoadFloats(x + (first + row) * stride + column, values);
      StoreFloats(tile + row * kStride + column, values);
    }
  }
  template <typename T>
  __device__ static void Load(const T* x, int64_t stride, int first, int end, int head_dim,
                              bool vector, float* tile) {
    if (vector) {
      LoadBy<T, kVector<T>>(x, stride, first, end, head_dim, tile);
    } else {
      LoadBy<T, 1>(x, stride, first, end, head_dim, tile);
    }
  }

  // out[r][c] = dot(row ty * kRows + r of a, row tx + 16 c of b)
  __device__ static void Dots(const float* a, const float* b, int tx, int ty,
                              float (&out)[kRows][kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kRows; ++c) out[r][c] = 0;
    }
#pragma unroll 1
    for (int i = 0; i < kD; i += 4) {
      float4 x[kRows], y[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        x[r] = *reinterpret_cast<const float4*>(a + (ty * kRows + r) * kStride + i);
        y[r] = *reinterpret_cast<const float4*>(b + (tx + 16 * r) * kStride + i);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kRows; ++c) {
          out[r][c] += x[r].x * y[c].x + x[r].y * y[c].y + x[r].z * y[c].z + x[r].w * y[c].w;
        }
      }
    }
  }

  // Scores that a thread has, to shared memory; read by the threads of the same ty, half a warp,
  // after a __syncwarp.
  __device__ static void PutScores(const float (&scores)[kRows][kRows], int tx, int ty, float* to) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kRows; ++c)
        to[(ty * kRows + r) * kScoreStride + tx + 16 * c] = scores[r][c];
    }
  }

  // sum[r][c] += dot(row ty * kRows + r of scores, column Column(tx, c) of b)
  __device__ static void AddProduct(const float* scores, const float* b, int tx, int ty,
                                    float (&sum)[kRows][kColumns]) {
#pragma unroll 1
    for (int j = 0; j < kTile; j += 4) {
      float4 p[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        p[r] = *reinterpret_cast<const float4*>(scores + (ty * kRows + r) * kScoreStride + j);
#pragma unroll
      for (int jj = 0; jj < 4; ++jj) {
        float v[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; c += kSpan) {
          float part[kSpan];
          LoadFloats(b + (j + jj) * kStride + Column(tx, c), part);
#pragma unroll
          for (int s = 0; s < kSpan; ++s) v[c + s] = part[s];
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float weight = jj == 0 ? p[r].x : jj == 1 ? p[r].y : jj == 2 ? p[r].z : p[r].w;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sum[r][c] += weight * v[c];
        }
      }
    }
  }

  // Rows ty * kRows + r below `end` of sum * factor[r], rounded.
  template <typename T>
  __device__ static void Store(const float (&sum)[kRows][kColumns], const float (&factor)[kRows],
                               int tx, int ty, int first, int end, int head_dim, int64_t stride,
                               T* to) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first + ty * kRows + r;
      if (row >= end) continue;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int column = Column(tx, c);
        if (column < head_dim) to[row * stride + column] = FromFloat<T>(sum[r][c] * factor[r]);
      }
    }
  }
};

// Over the 16 threads of one ty.
__device__ __forceinline__ float RowMax(float value) {
#pragma unroll
  for (int step = 8; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}
__device__ __forceinline__ float RowSum(float value) {
#pragma unroll
  for (int step = 8; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Calls f with the smallest (kD, kTile) for a head size, as compile-time constants.
template <typename F>
cudaError_t WithTile(int head_dim, F f) {
  if (head_dim <= 32) return f(Tile<32, 64>());
  if (head_dim <= 64) return f(Tile<64, 64>());
  if (head_dim <= 128) return f(Tile<128, 64>());
  return f(Tile<256, 32>());
}

}  // namespace espalier::kernels::cuda
