// Rows moved along the plan of slots, summed back by token, and measured. Slots are planned in
// plan_slots.cu.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/permute.h"
#include "kernels/output_norm.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = kTileVectors / kThreads;  // vectors that a thread has in flight

// kGather: out[row] = x[index[row]], zero for a negative index. Else out[index[row]] = x[row],
// nothing for a negative one.
template <typename T, int kV, bool kGather>
__global__ void __launch_bounds__(kThreads)
    MoveKernel(const T* x, const int32_t* index, T* out, int64_t width, RowTiles tiles) {
  AwaitPrevious();
  const uint32_t size = tiles.size();
  for (uint32_t first = threadIdx.x; first < size; first += kThreads * kUnroll) {
    Pack<T, kV> kept[kUnroll];
    int64_t to[kUnroll];  // -1: nowhere
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t item = first + u * kThreads;
      to[u] = -1;
      if (item >= size) continue;
      const int64_t row = tiles.first_row() + item / tiles.vectors;
      const int64_t column = static_cast<int64_t>(item % tiles.vectors) * kV;
      const int64_t other = index[row];
      if (other >= 0) {
        kept[u] = LoadPack<T, kV>(x + (kGather ? other : row) * width + column);
        to[u] = (kGather ? row : other) * width + column;
      } else if (kGather) {
        kept[u] = ZeroPack<T, kV>();
        to[u] = row * width + column;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (to[u] >= 0) StorePack(out + to[u], kept[u]);
    }
  }
}

template <typename T, bool kGather>
cudaError_t Move(const T* x, const int32_t* index, T* out, int64_t rows, int64_t width,
                 cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (rows == 0 || width == 0) return cudaSuccess;
  if (width % kV == 0 && Aligned16({x, out})) {
    const RowTiles tiles(rows, width / kV);
    Launch(MoveKernel<T, kV, kGather>, tiles.blocks(), kThreads, 0, stream, x, index, out, width,
           tiles);
  } else {
    const RowTiles tiles(rows, width);
    Launch(MoveKernel<T, 1, kGather>, tiles.blocks(), kThreads, 0, stream, x, index, out, width,
           tiles);
  }
  return cudaGetLastError();
}

constexpr int kSpreadSlots = 8;  // stores that a thread has in flight

// A thread takes one vector of a row; its neighbours in the warp take the next ones, so that every
// store of a warp is one stretch of a row.
template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) SpreadKernel(const T* x, const int32_t* slot, T* out,
                                                         int top_k, int64_t width, RowTiles tiles) {
  AwaitPrevious();
  const uint32_t size = tiles.size();
#pragma unroll 2
  for (uint32_t item = threadIdx.x; item < size; item += kThreads) {
    const int64_t token = tiles.first_row() + item / tiles.vectors;
    const int64_t column = static_cast<int64_t>(item % tiles.vectors) * kV;
    const Pack<T, kV> pack = LoadPack<T, kV>(x + token * width + column);
    const int32_t* to = slot + token * top_k;
    for (int first = 0; first < top_k; first += kSpreadSlots) {
      int32_t rows[kSpreadSlots];
#pragma unroll
      for (int k = 0; k < kSpreadSlots; ++k) rows[k] = first + k < top_k ? to[first + k] : -1;
#pragma unroll
      for (int k = 0; k < kSpreadSlots; ++k) {
        if (rows[k] >= 0) StorePack(out + rows[k] * width + column, pack);
      }
    }
  }
}

constexpr int kSlotsAtOnce = 4;

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads, 5) SumKernel(SumSlotsArgs<T> args, RowTiles tiles) {
  AwaitPrevious();
  const uint32_t size = tiles.size();
  for (uint32_t item = threadIdx.x; item < size; item += kThreads) {
    const int64_t token = tiles.first_row() + item / tiles.vectors;
    const int64_t column = static_cast<int64_t>(item % tiles.vectors) * kV;
    const int32_t* slot = args.slot + token * args.top_k;
    float sum[kV] = {};
    if (args.residual != nullptr) LoadFloats(args.residual + token * args.width + column, sum);
    for (int first = 0; first < args.top_k; first += kSlotsAtOnce) {
      Pack<T, kV> kept[kSlotsAtOnce];
#pragma unroll
      for (int k = 0; k < kSlotsAtOnce; ++k) {
        if (first + k >= args.top_k) break;
        kept[k] = LoadPack<T, kV>(args.rows + slot[first + k] * args.width + column);
      }
#pragma unroll
      for (int k = 0; k < kSlotsAtOnce; ++k) {
        if (first + k >= args.top_k) break;
        float values[kV];
        Unpack(kept[k], values);
#pragma unroll
        for (int i = 0; i < kV; ++i) sum[i] += values[i];
      }
    }
    StoreFloats(args.out + token * args.width + column, sum);
  }
}

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads)
    NormsKernel(const T* rows, const int32_t* slot, const int32_t* choice, int64_t slots,
                int64_t width, unsigned long long* sums) {
  AwaitPrevious();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (i >= slots) return;
  const int lane = threadIdx.x % 32;
  const int vectors = static_cast<int>(width / kV);
  const T* row = rows + slot[i] * width;
  float sum = 0;
#pragma unroll 4
  for (int at = lane; at < vectors; at += 32) {
    float values[kV];
    LoadFloats(row + static_cast<int64_t>(at) * kV, values);
#pragma unroll
    for (int j = 0; j < kV; ++j) sum += values[j] * values[j];
  }
  const double norm = sqrt(static_cast<double>(WarpSum(sum)));
  if (lane != 0 || !isfinite(norm)) return;
  const double units = fmin(norm, kOutputNormMax) * kOutputNormUnits + 0.5;
  atomicAdd(&sums[choice[i]], static_cast<unsigned long long>(units));
}

}  // namespace

template <typename T>
cudaError_t GatherRows(const T* x, const int32_t* source, T* out, int64_t rows, int64_t width,
                       cudaStream_t stream) {
  return Move<T, true>(x, source, out, rows, width, stream);
}

template <typename T>
cudaError_t ScatterRows(const T* x, const int32_t* target, T* out, int64_t rows, int64_t width,
                        cudaStream_t stream) {
  return Move<T, false>(x, target, out, rows, width, stream);
}

template <typename T>
cudaError_t SpreadRows(const T* x, const int32_t* slot, T* out, int64_t tokens, int top_k,
                       int64_t width, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (tokens == 0 || width == 0) return cudaSuccess;
  if (width % kV == 0 && Aligned16({x, out})) {
    const RowTiles tiles(tokens, width / kV);
    Launch(SpreadKernel<T, kV>, tiles.blocks(), kThreads, 0, stream, x, slot, out, top_k, width,
           tiles);
  } else {
    const RowTiles tiles(tokens, width);
    Launch(SpreadKernel<T, 1>, tiles.blocks(), kThreads, 0, stream, x, slot, out, top_k, width,
           tiles);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t SumSlots(const SumSlotsArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.tokens == 0 || args.width == 0) return cudaSuccess;
  if (args.width % kV == 0 && Aligned16({args.rows, args.residual, args.out})) {
    const RowTiles tiles(args.tokens, args.width / kV);
    Launch(SumKernel<T, kV>, tiles.blocks(), kThreads, 0, stream, args, tiles);
  } else {
    const RowTiles tiles(args.tokens, args.width);
    Launch(SumKernel<T, 1>, tiles.blocks(), kThreads, 0, stream, args, tiles);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t AddOutputNorms(const T* rows, const int32_t* slot, const int32_t* choice, int64_t slots,
                           int64_t width, int64_t* sums, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (slots == 0) return cudaSuccess;
  const unsigned blocks = BlocksFor(slots, kThreads / 32);
  auto* unsigned_sums = reinterpret_cast<unsigned long long*>(sums);
  if (width % kV == 0 && Aligned16({rows})) {
    Launch(NormsKernel<T, kV>, blocks, kThreads, 0, stream, rows, slot, choice, slots, width,
           unsigned_sums);
  } else {
    Launch(NormsKernel<T, 1>, blocks, kThreads, 0, stream, rows, slot, choice, slots, width,
           unsigned_sums);
  }
  return cudaGetLastError();
}

#define ESPALIER_INSTANTIATE(T)                                                             \
  template cudaError_t GatherRows<T>(const T*, const int32_t*, T*, int64_t, int64_t,        \
                                     cudaStream_t);                                         \
  template cudaError_t ScatterRows<T>(const T*, const int32_t*, T*, int64_t, int64_t,       \
                                      cudaStream_t);                                        \
  template cudaError_t SpreadRows<T>(const T*, const int32_t*, T*, int64_t, int, int64_t,   \
                                     cudaStream_t);                                         \
  template cudaError_t SumSlots<T>(const SumSlotsArgs<T>&, cudaStream_t);                   \
  template cudaError_t AddOutputNorms<T>(const T*, const int32_t*, const int32_t*, int64_t, \
                                         int64_t, int64_t*, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
