// Grouped products by shared-memory tiles, for any type, size and GPU: 64 x 64 of the output a block, bf16 on the tensor cores
// (wmma), fp32 by FMA. Tiles are padded with zeros, so odd sizes need no way of their own; only the loads differ.
#include <mma.h>

#include <cstdint>

#include "kernels/cuda/grouped.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kTile = 64, kStep = 32, kThreads = 128;
constexpr int kOutWidth = kTile + 4;

// An operand tile: 64 of the outer side (m or n) x 32 of k, as it lies in memory. The padding keeps rows 16-byte aligned, and
// bf16 tiles aligned as wmma wants.
template <typename T, bool KMajor>
struct OperandTile {
  static constexpr int kRows = KMajor ? kTile : kStep, kColumns = KMajor ? kStep : kTile;
  static constexpr int kWidth = kColumns + 16 / sizeof(T);
  static constexpr int kOuterStride = KMajor ? kWidth : 1, kKStride = KMajor ? 1 : kWidth;
  alignas(32) T values[kRows * kWidth];
};

// A matrix in memory whose rows are `stride` apart, with the part of it that belongs to the product.
template <typename T>
struct Source {
  const T* data;
  int64_t stride, rows, columns;
  bool vectors;  // rows begin at 16-byte addresses and columns == stride
};

// Fills the tile with source[row.., column..] and zeros outside.
template <typename T, bool KMajor>
__device__ void Load(OperandTile<T, KMajor>& tile, const Source<T>& source, int64_t row, int64_t column) {
  using Tile = OperandTile<T, KMajor>;
  constexpr int kVector = 16 / sizeof(T), kPerRow = Tile::kColumns / kVector;
  for (int i = threadIdx.x; i < Tile::kRows * kPerRow; i += kThreads) {
    const int r = i / kPerRow, c = i % kPerRow * kVector;
    T* to = tile.values + r * Tile::kWidth + c;
    const int64_t left = row + r < source.rows ? source.columns - (column + c) : 0;
    const T* from = source.data + (row + r) * source.stride + column + c;
    if (source.vectors && left >= kVector) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int j = 0; j < kVector; ++j) to[j] = j < left ? from[j] : T(0.0f);
    }
  }
}

// Sums of a block's tile over the steps of k. Four warps: bf16 in quarters of 32 x 32.
template <typename T>
class Sums;

template <>
class Sums<__nv_bfloat16> {
 public:
  __device__ Sums() {
    for (auto& row : sums_) {
      for (auto& sum : row) nvcuda::wmma::fill_fragment(sum, 0.0f);
    }
  }
  template <bool KMajorA, bool KMajorB>
  __device__ void Add(const OperandTile<__nv_bfloat16, KMajorA>& a, const OperandTile<__nv_bfloat16, KMajorB>& b) {
    namespace wmma = nvcuda::wmma;
    using A = OperandTile<__nv_bfloat16, KMajorA>;
    using B = OperandTile<__nv_bfloat16, KMajorB>;
    using LayoutA = std::conditional_t<KMajorA, wmma::row_major, wmma::col_major>;
    using LayoutB = std::conditional_t<KMajorB, wmma::col_major, wmma::row_major>;
#pragma unroll
    for (int k = 0; k < kStep; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, LayoutA> left[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, LayoutB> right[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(left[i], a.values + (Row() + 16 * i) * A::kOuterStride + k * A::kKStride, A::kWidth);
        wmma::load_matrix_sync(right[i], b.values + (Column() + 16 * i) * B::kOuterStride + k * B::kKStride, B::kWidth);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) wmma::mma_sync(sums_[i][j], left[i], right[j], sums_[i][j]);
      }
    }
  }
  __device__ void Put(float* out) const {
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        nvcuda::wmma::store_matrix_sync(out + (Row() + 16 * i) * kOutWidth + Column() + 16 * j, sums_[i][j], kOutWidth,
                                        nvcuda::wmma::mem_row_major);
      }
    }
  }

 private:
  static __device__ int Row() { return static_cast<int>(threadIdx.x) / 64 * 32; }
  static __device__ int Column() { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums_[2][2];
};

// A thread owns rows y + 8 i and columns x + 16 j.
template <>
class Sums<float> {
 public:
  template <bool KMajorA, bool KMajorB>
  __device__ void Add(const OperandTile<float, KMajorA>& a, const OperandTile<float, KMajorB>& b) {
    using A = OperandTile<float, KMajorA>;
    using B = OperandTile<float, KMajorB>;
#pragma unroll 8
    for (int k = 0; k < kStep; ++k) {
      float left[8], right[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) left[i] = a.values[(Y() + 8 * i) * A::kOuterStride + k * A::kKStride];
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = b.values[(X() + 16 * j) * B::kOuterStride + k * B::kKStride];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums_[i][j] = fmaf(left[i], right[j], sums_[i][j]);
      }
    }
  }
  __device__ void Put(float* out) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) out[(Y() + 8 * i) * kOutWidth + X() + 16 * j] = sums_[i][j];
    }
  }

 private:
  static __device__ int Y() { return static_cast<int>(threadIdx.x) / 16; }
  static __device__ int X() { return static_cast<int>(threadIdx.x) % 16; }
  float sums_[8][4] = {};
};

// out[0..rows, 0..columns] (of a matrix with `stride`) = the tile at (row, column) of a b^T in the outer-times-k sense.
template <typename T, bool KMajorA, bool KMajorB>
__device__ void ComputeTile(const Source<T>& a, const Source<T>& b, int64_t row, int64_t column, int64_t k, T* out,
                            int64_t stride, int rows, int columns) {
  __shared__ OperandTile<T, KMajorA> tile_a;
  __shared__ OperandTile<T, KMajorB> tile_b;
  __shared__ alignas(32) float staged[kTile * kOutWidth];
  Sums<T> sums;
  for (int64_t at = 0; at < k; at += kStep) {
    Load(tile_a, a, KMajorA ? row : at, KMajorA ? at : row);
    Load(tile_b, b, KMajorB ? column : at, KMajorB ? at : column);
    __syncthreads();
    sums.Add(tile_a, tile_b);
    __syncthreads();
  }
  sums.Put(staged);
  __syncthreads();
  for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
    const int r = i / kTile, c = i % kTile;
    if (r < rows && c < columns) out[r * stride + c] = T(staged[r * kOutWidth + c]);
  }
}

__device__ __forceinline__ int Least(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// Block: m-tile blockIdx.x / n_tiles over all groups, counted by walking the offsets; n-tile the rest.
template <typename T, bool KMajorB>
__global__ void __launch_bounds__(kThreads) MatmulKernel(GroupedMatmulArgs<T> args, int64_t n_tiles, bool vectors) {
  int64_t m_tile = blockIdx.x / n_tiles;
  const int64_t column = blockIdx.x % n_tiles * kTile;
  int group = 0;
  int64_t begin = 0, rows = 0;
  for (; group < args.groups; ++group) {
    begin = args.offsets[group];
    rows = args.offsets[group + 1] - begin;
    const int64_t tiles = (rows + kTile - 1) / kTile;
    if (m_tile < tiles) break;
    m_tile -= tiles;
  }
  if (group == args.groups) return;  // the grid has room for the worst cut
  const int64_t row = m_tile * kTile;
  const Source<T> a = {args.a + begin * args.k, args.k, rows, args.k, vectors};
  const T* data = args.b + group * args.n * args.k;
  const Source<T> b = KMajorB ? Source<T>{data, args.k, args.n, args.k, vectors}
                              : Source<T>{data, args.n, args.k, args.n, vectors};
  ComputeTile<T, true, KMajorB>(a, b, row, column, args.k, args.c + (begin + row) * args.n + column, args.n,
                                Least(rows - row, kTile), Least(args.n - column, kTile));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GradientKernel(GroupedGradientArgs<T> args, int64_t m_tiles, int64_t n_tiles, bool vectors) {
  const int64_t column = blockIdx.x % n_tiles * kTile, row = blockIdx.x / n_tiles % m_tiles * kTile;
  const int64_t group = blockIdx.x / n_tiles / m_tiles;
  const int64_t begin = args.offsets[group], rows = args.offsets[group + 1] - begin;
  const Source<T> a = {args.a + begin * args.m, args.m, rows, args.m, vectors};
  const Source<T> b = {args.b + begin * args.n, args.n, rows, args.n, vectors};
  ComputeTile<T, false, false>(a, b, row, column, rows, args.c + (group * args.m + row) * args.n + column, args.n,
                               Least(args.m - row, kTile), Least(args.n - column, kTile));
}

int64_t TilesOf(int64_t size) { return (size + kTile - 1) / kTile; }

constexpr int64_t kBlocksMax = (int64_t{1} << 31) - 1;

// Rows of both operands begin at 16-byte addresses when the matrices do and their widths are whole vectors.
template <typename T>
bool Vectors(const T* a, const T* b, int64_t width_a, int64_t width_b) {
  constexpr int64_t kVector = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(a) % 16 == 0 && reinterpret_cast<uintptr_t>(b) % 16 == 0 &&
         width_a % kVector == 0 && width_b % kVector == 0;
}

}  // namespace

template <typename T>
cudaError_t GroupedMatmulPlain(const GroupedMatmulArgs<T>& args, cudaStream_t stream) {
  if (args.groups == 0 || args.rows_max == 0 || args.n == 0) return cudaSuccess;
  const int64_t n_tiles = TilesOf(args.n);
  // Each group wastes less than one tile.
  const int64_t blocks = (args.rows_max / kTile + args.groups) * n_tiles;
  if (blocks > kBlocksMax) return cudaErrorInvalidConfiguration;
  const bool nt = args.product == Product::kNT;
  const bool vectors = Vectors(args.a, args.b, args.k, nt ? args.k : args.n);
  const auto kernel = nt ? MatmulKernel<T, true> : MatmulKernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args, n_tiles, vectors);
  return cudaGetLastError();
}

template <typename T>
cudaError_t GroupedGradientPlain(const GroupedGradientArgs<T>& args, cudaStream_t stream) {
  if (args.groups == 0 || args.m == 0 || args.n == 0) return cudaSuccess;
  const int64_t m_tiles = TilesOf(args.m), n_tiles = TilesOf(args.n), blocks = m_tiles * n_tiles * args.groups;
  if (blocks > kBlocksMax) return cudaErrorInvalidConfiguration;
  GradientKernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      args, m_tiles, n_tiles, Vectors(args.a, args.b, args.m, args.n));
  return cudaGetLastError();
}

#define ESPALIER_INSTANTIATE(T)                                                              \
  template cudaError_t GroupedMatmulPlain<T>(const GroupedMatmulArgs<T>&, cudaStream_t);     \
  template cudaError_t GroupedGradientPlain<T>(const GroupedGradientArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
