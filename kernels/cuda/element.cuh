// What the kernels share: elements to and from fp32, accesses of up to 16 bytes, sums over warps
// and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace espalier::kernels::cuda {

// Elements in one 16-byte access.
template <typename T>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(T));

inline constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
__device__ __forceinline__ float ToFloat(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __bfloat162float(value);
  }
}

template <typename T>
__device__ __forceinline__ T FromFloat(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __float2bfloat16_rn(value);
  }
}

// e^x as exactly as T deserves: bf16 takes the special function unit's (relative error below 2e-6
// for x in [-30, 0]).
template <typename T>
__device__ __forceinline__ float Exp(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return expf(x);
  } else {
    return __expf(x);
  }
}

template <typename T>
__device__ __forceinline__ float Sigmoid(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return 1.0f / (1.0f + expf(-x));
  } else {
    return __fdividef(1.0f, 1.0f + __expf(-x));  // 1 / infinity is 0, as it should be
  }
}

// kN neighbouring elements as they lie in memory. kN is 1 or a whole number of 8- or 16-byte
// accesses.
template <typename T, int kN>
struct Pack {
  using Word = std::conditional_t<(kN * sizeof(T)) % 4 == 0, uint32_t, uint16_t>;
  static constexpr int kBytes = kN * static_cast<int>(sizeof(T));
  static constexpr int kWords = kBytes / static_cast<int>(sizeof(Word));
  static_assert(kN == 1 || kBytes % 8 == 0);
  Word words[kWords];
};

// `from` is aligned to the access: 16 bytes, or all of a smaller pack.
template <typename T, int kN>
__device__ __forceinline__ Pack<T, kN> LoadPack(const T* from) {
  Pack<T, kN> pack;
  if constexpr (pack.kBytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < pack.kBytes / 16; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(from)[i];
      pack.words[4 * i] = four.x;
      pack.words[4 * i + 1] = four.y;
      pack.words[4 * i + 2] = four.z;
      pack.words[4 * i + 3] = four.w;
    }
  } else if constexpr (pack.kBytes % 8 == 0) {
    static_assert(pack.kBytes == 8);
    const uint2 two = *reinterpret_cast<const uint2*>(from);
    pack.words[0] = two.x;
    pack.words[1] = two.y;
  } else {
    pack.words[0] = *reinterpret_cast<const typename Pack<T, kN>::Word*>(from);
  }
  return pack;
}

template <typename T, int kN>
__device__ __forceinline__ void StorePack(T* to, const Pack<T, kN>& pack) {
  if constexpr (pack.kBytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < pack.kBytes / 16; ++i) {
      reinterpret_cast<uint4*>(to)[i] = make_uint4(pack.words[4 * i], pack.words[4 * i + 1],
                                                   pack.words[4 * i + 2], pack.words[4 * i + 3]);
    }
  } else if constexpr (pack.kBytes % 8 == 0) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack.words[0], pack.words[1]);
  } else {
    *reinterpret_cast<typename Pack<T, kN>::Word*>(to) = pack.words[0];
  }
}

template <typename T, int kN>
__device__ __forceinline__ Pack<T, kN> ZeroPack() {
  Pack<T, kN> pack;
#pragma unroll
  for (int i = 0; i < pack.kWords; ++i) pack.words[i] = 0;
  return pack;
}

template <typename T, int kN>
__device__ __forceinline__ void Unpack(const Pack<T, kN>& pack, float (&out)[kN]) {
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < kN; ++i) out[i] = __uint_as_float(pack.words[i]);
  } else if constexpr (kN == 1) {
    out[0] = __uint_as_float(static_cast<uint32_t>(pack.words[0]) << 16);
  } else {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {  // a bf16 is the upper half of a float
      out[2 * i] = __uint_as_float(pack.words[i] << 16);
      out[2 * i + 1] = __uint_as_float(pack.words[i] & 0xffff0000u);
    }
  }
}

template <typename T, int kN>
__device__ __forceinline__ Pack<T, kN> MakePack(const float (&in)[kN]) {
  Pack<T, kN> pack;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < kN; ++i) pack.words[i] = __float_as_uint(in[i]);
  } else if constexpr (kN == 1) {
    pack.words[0] = __bfloat16_as_ushort(__float2bfloat16_rn(in[0]));
  } else {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(in[2 * i], in[2 * i + 1]);
      pack.words[i] = static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) |
                      static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
    }
  }
  return pack;
}

template <typename T, int kN>
__device__ __forceinline__ void LoadFloats(const T* from, float (&out)[kN]) {
  Unpack(LoadPack<T, kN>(from), out);
}

template <typename T, int kN>
__device__ __forceinline__ void StoreFloats(T* to, const float (&in)[kN]) {
  StorePack(to, MakePack<T, kN>(in));
}

// Elements [begin, end) of x shared out over `threads` threads, each in rising order: f(index,
// values) gets one element or a 16-byte pack. x is aligned to T alone; kUnroll packs a thread are
// read before the first is used.
template <int kUnroll, typename T, typename F>
__device__ __forceinline__ void VisitRow(const T* x, int begin, int end, int thread, int threads,
                                         F&& f) {
  constexpr int kV = kVector<T>;
  const int unaligned = static_cast<int>(reinterpret_cast<uintptr_t>(x + begin) % 16);
  const int head = min(end - begin, (16 - unaligned) % 16 / static_cast<int>(sizeof(T)));
  const int body = begin + head;
  const int packs = (end - body) / kV;
  float one[1];
  for (int i = begin + thread; i < body; i += threads) {
    one[0] = ToFloat(x[i]);
    f(i, one);
  }
  for (int first = thread; first < packs; first += threads * kUnroll) {
    Pack<T, kV> kept[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * threads < packs)
        kept[u] = LoadPack<T, kV>(x + body + (first + u * threads) * kV);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * threads >= packs) break;
      float values[kV];
      Unpack(kept[u], values);
      f(body + (first + u * threads) * kV, values);
    }
  }
  for (int i = body + packs * kV + thread; i < end; i += threads) {
    one[0] = ToFloat(x[i]);
    f(i, one);
  }
}

// Over all lanes, the same value in each; the order is fixed.
template <typename Number>
__device__ __forceinline__ Number WarpSum(Number value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// Over a one-dimensional block of kThreads, the same value in each thread. `shared` has room for a
// number a warp; every thread calls, and calls that follow each other on the same memory are safe.
template <int kThreads, typename Number>
__device__ __forceinline__ Number BlockSum(Number value, Number* shared) {
  constexpr int kWarps = kThreads / 32;
  value = WarpSum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  Number sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}

// ---- for launches

inline bool Aligned16(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  return true;
}

inline unsigned BlocksFor(int64_t items, int64_t items_per_block) {
  return static_cast<unsigned>((items + items_per_block - 1) / items_per_block);
}

// Rows cut into tiles of about kTileVectors vectors, one a block: the row of a vector then takes a
// 32-bit division.
inline constexpr int kTileVectors = 1024;
struct RowTiles {
  int64_t rows;
  uint32_t vectors;    // of one row
  uint32_t tile_rows;  // of one block
  RowTiles(int64_t row_count, int64_t vectors_per_row)
      : rows(row_count),
        vectors(static_cast<uint32_t>(vectors_per_row)),
        tile_rows(vectors < kTileVectors ? kTileVectors / vectors : 1) {}
  unsigned blocks() const { return BlocksFor(rows, tile_rows); }
  __device__ int64_t first_row() const { return static_cast<int64_t>(blockIdx.x) * tile_rows; }
  // Vectors of this block's tile.
  __device__ uint32_t size() const {
    const int64_t left = rows - first_row();
    return static_cast<uint32_t>(left < tile_rows ? left : tile_rows) * vectors;
  }
};

}  // namespace espalier::kernels::cuda
