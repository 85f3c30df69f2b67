// The KV cache and one decode step: a block a row and key head; 16 lanes have a cached position
// between them, with a running maximum of their own, and the block's 16 shares are merged in order
// at the end.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/element.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 16;                 // of a position
constexpr int kParts = kThreads / kLanes;  // positions beside each other
constexpr int kAtOnce = 2;                 // positions that a lane has in flight

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads)
    AppendKernel(KvCache<T> cache, const int32_t* sequences, const int32_t* positions, const T* k,
                 const T* v, int64_t kv_stride, RowTiles tiles) {
  const int64_t width = static_cast<int64_t>(cache.kv_heads) * cache.head_dim;
  for (uint32_t item = threadIdx.x; item < tiles.size(); item += kThreads) {
    const int64_t row = tiles.first_row() + item / tiles.vectors;
    const int64_t column = static_cast<int64_t>(item % tiles.vectors) * kV;
    const int64_t to = (sequences[row] * cache.capacity + positions[row]) * width + column;
    const Pack<T, kV> key = LoadPack<T, kV>(k + row * kv_stride + column);
    const Pack<T, kV> value = LoadPack<T, kV>(v + row * kv_stride + column);
    StorePack(cache.keys + to, key);
    StorePack(cache.values + to, value);
  }
}

template <typename T>
struct DecodeArgs {
  KvCache<T> cache;
  const T* q;
  int64_t q_stride;
  const int32_t* sequences;
  const int32_t* lengths;
  int heads;
  T* out;
  float scale;
};

// A lane's share of kHeads query heads: columns (c * kLanes + lane) * kV.. of each.
template <int kHeads, int kColumns>
struct Share {
  float max[kHeads], sum[kHeads], out[kHeads][kColumns];
};

template <typename T, int kV, int kHeads>
__global__ void __launch_bounds__(kThreads) DecodeKernel(DecodeArgs<T> args) {
  constexpr int kPacks = kHeadDimMax / (kLanes * kV), kColumns = kPacks * kV;
  __shared__ float part_out[kParts][kHeadDimMax];
  __shared__ float part_max[kParts], part_sum[kParts];
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const int64_t row = blockIdx.x;
  const int kv_head = blockIdx.y, d = args.cache.head_dim, group = args.heads / args.cache.kv_heads;
  const int length = args.lengths[row];
  const int64_t position_stride = static_cast<int64_t>(args.cache.kv_heads) * d;
  const int64_t cache_offset = args.sequences[row] * args.cache.capacity * position_stride +
                               static_cast<int64_t>(kv_head) * d;
  const T* keys = args.cache.keys + cache_offset;
  const T* values = args.cache.values + cache_offset;

  for (int head0 = kv_head * group; head0 < (kv_head + 1) * group; head0 += kHeads) {
    const int heads = min(kHeads, (kv_head + 1) * group - head0);
    float query[kHeads][kColumns];
    Share<kHeads, kColumns> share;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      share.max[h] = -INFINITY;
      share.sum[h] = 0;
#pragma unroll
      for (int c = 0; c < kPacks; ++c) {
        const int column = (c * kLanes + lane) * kV;
        float part_of_query[kV] = {};
        if (h < heads && column < d)
          LoadFloats(args.q + row * args.q_stride + static_cast<int64_t>(head0 + h) * d + column,
                     part_of_query);
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          query[h][c * kV + i] = part_of_query[i] * args.scale;
          share.out[h][c * kV + i] = 0;
        }
      }
    }

    for (int first = 0; first < length; first += kParts * kAtOnce) {
      Pack<T, kV> key[kAtOnce][kPacks], value[kAtOnce][kPacks];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int position = first + part * kAtOnce + u;
#pragma unroll
        for (int c = 0; c < kPacks; ++c) {
          const int column = (c * kLanes + lane) * kV;
          const bool there = position < length && column < d;
          const int64_t at = position * position_stride + column;
          key[u][c] = there ? LoadPack<T, kV>(keys + at) : ZeroPack<T, kV>();
          value[u][c] = there ? LoadPack<T, kV>(values + at) : ZeroPack<T, kV>();
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float score[kAtOnce], largest = share.max[h];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          float dot = 0;
#pragma unroll
          for (int c = 0; c < kPacks; ++c) {
            float x[kV];
            Unpack(key[u][c], x);
#pragma unroll
            for (int i = 0; i < kV; ++i) dot += query[h][c * kV + i] * x[i];
          }
#pragma unroll
          for (int step = kLanes / 2; step > 0; step /= 2)
            dot += __shfl_xor_sync(kAllLanes, dot, step);
          score[u] = first + part * kAtOnce + u < length ? dot : -INFINITY;
          largest = fmaxf(largest, score[u]);
        }
        const float base =
            largest == -INFINITY ? 0.0f : largest;  // this part has had no position yet
        const float factor = expf(share.max[h] - base);
        share.max[h] = largest;
        share.sum[h] *= factor;
#pragma unroll
        for (int i = 0; i < kColumns; ++i) share.out[h][i] *= factor;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const float weight = expf(score[u] - base);
          share.sum[h] += weight;
#pragma unroll
          for (int c = 0; c < kPacks; ++c) {
            float x[kV];
            Unpack(value[u][c], x);
#pragma unroll
            for (int i = 0; i < kV; ++i) share.out[h][c * kV + i] += weight * x[i];
          }
        }
      }
    }

#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) break;
      __syncthreads();
      if (lane == 0) {
        part_max[part] = share.max[h];
        part_sum[part] = share.sum[h];
      }
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        part_out[part][(i / kV * kLanes + lane) * kV + i % kV] = share.out[h][i];
      __syncthreads();
      if (static_cast<int>(threadIdx.x) >= d) continue;
      float largest = -INFINITY, sum = 0, out = 0;
      for (int other = 0; other < kParts; ++other) largest = fmaxf(largest, part_max[other]);
      for (int other = 0; other < kParts; ++other) {
        const float factor = part_max[other] == -INFINITY ? 0.0f : expf(part_max[other] - largest);
        sum += factor * part_sum[other];
        out += factor * part_out[other][threadIdx.x];
      }
      const int64_t to = (row * args.heads + head0 + h) * d + threadIdx.x;
      args.out[to] = FromFloat<T>(sum > 0 ? out / sum : out);
    }
  }
}

static_assert(kThreads >= kHeadDimMax, "a thread a column when shares are merged");

template <typename T, int kV>
cudaError_t LaunchDecode(const DecodeArgs<T>& args, int64_t rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows), args.cache.kv_heads);
  if (args.heads == args.cache.kv_heads) {
    DecodeKernel<T, kV, 1><<<grid, kThreads, 0, stream>>>(args);
  } else {
    DecodeKernel<T, kV, 4><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

template <typename T>
bool Valid(const KvCache<T>& cache) {
  return cache.head_dim >= 1 && cache.head_dim <= kHeadDimMax && cache.kv_heads >= 1;
}

}  // namespace

template <typename T>
cudaError_t AppendToCache(const KvCache<T>& cache, const int32_t* sequences,
                          const int32_t* positions, const T* k, const T* v, int64_t kv_stride,
                          int64_t rows, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (!Valid(cache)) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const int64_t width = static_cast<int64_t>(cache.kv_heads) * cache.head_dim;
  if (width % kV == 0 && kv_stride % kV == 0 && Aligned16({cache.keys, cache.values, k, v})) {
    const RowTiles tiles(rows, width / kV);
    AppendKernel<T, kV><<<tiles.blocks(), kThreads, 0, stream>>>(cache, sequences, positions, k, v,
                                                                 kv_stride, tiles);
  } else {
    const RowTiles tiles(rows, width);
    AppendKernel<T, 1><<<tiles.blocks(), kThreads, 0, stream>>>(cache, sequences, positions, k, v,
                                                                kv_stride, tiles);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t AttentionDecode(const KvCache<T>& cache, const T* q, int64_t q_stride,
                            const int32_t* sequences, const int32_t* lengths, int64_t rows,
                            int heads, T* out, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (!Valid(cache) || heads < 1 || heads % cache.kv_heads != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const DecodeArgs<T> args{
      cache,   q,     q_stride, sequences,
      lengths, heads, out,      1.0f / sqrtf(static_cast<float>(cache.head_dim))};
  const bool vector =
      cache.head_dim % kV == 0 && q_stride % kV == 0 && Aligned16({cache.keys, cache.values, q});
  return vector ? LaunchDecode<T, kV>(args, rows, stream) : LaunchDecode<T, 1>(args, rows, stream);
}

#define ESPALIER_INSTANTIATE(T)                                                                 \
  template cudaError_t AppendToCache<T>(const KvCache<T>&, const int32_t*, const int32_t*,      \
                                        const T*, const T*, int64_t, int64_t, cudaStream_t);    \
  template cudaError_t AttentionDecode<T>(const KvCache<T>&, const T*, int64_t, const int32_t*, \
                                          const int32_t*, int64_t, int, T*, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
