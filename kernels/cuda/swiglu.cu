// SwiGLU with the weight of the row: forward by vectors, backward a warp a row for the sake of the
// weight's gradient.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/swiglu.h"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const T* gate_up, const float* row_weight, T* h, int64_t inner, RowTiles tiles) {
  AwaitPrevious();
  const uint32_t size = tiles.size();
#pragma unroll 2
  for (uint32_t item = threadIdx.x; item < size; item += kThreads) {
    const int64_t row = tiles.first_row() + item / tiles.vectors;
    const int64_t column = static_cast<int64_t>(item % tiles.vectors) * kV;
    const T* from = gate_up + row * 2 * inner + column;
    float gate[kV], up[kV];
    LoadFloats(from, gate);
    LoadFloats(from + inner, up);
    const float weight = row_weight != nullptr ? row_weight[row] : 1.0f;
#pragma unroll
    for (int i = 0; i < kV; ++i) up[i] *= weight * (gate[i] * Sigmoid<T>(gate[i]));
    StoreFloats(h + row * inner + column, up);
  }
}

constexpr int kUnroll = 2;  // vectors that a lane has in flight

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) BackwardKernel(SwigluBackwardArgs<T> args) {
  AwaitPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= args.rows) return;
  const int64_t inner = args.inner;
  const int vectors = static_cast<int>(inner / kV);
  const T* gate_up = args.gate_up + row * 2 * inner;
  const T* dh = args.dh + row * inner;
  T* dgate_up = args.dgate_up + row * 2 * inner;
  const float weight = args.row_weight != nullptr ? args.row_weight[row] : 1.0f;
  float dweight = 0;
  for (int first = lane; first < vectors; first += 32 * kUnroll) {
    Pack<T, kV> gates[kUnroll], ups[kUnroll], grads[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = static_cast<int64_t>(first + 32 * u) * kV;
      if (first + 32 * u >= vectors) break;
      gates[u] = LoadPack<T, kV>(gate_up + at);
      ups[u] = LoadPack<T, kV>(gate_up + inner + at);
      grads[u] = LoadPack<T, kV>(dh + at);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = static_cast<int64_t>(first + 32 * u) * kV;
      if (first + 32 * u >= vectors) break;
      float gate[kV], up[kV], grad[kV];
      Unpack(gates[u], gate);
      Unpack(ups[u], up);
      Unpack(grads[u], grad);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float sigmoid = Sigmoid<T>(gate[i]);
        const float silu = gate[i] * sigmoid;
        dweight += grad[i] * (silu * up[i]);
        const float weighted = weight * grad[i];
        gate[i] = weighted * up[i] * (sigmoid + silu * (1.0f - sigmoid));
        up[i] = weighted * silu;
      }
      StoreFloats(dgate_up + at, gate);
      StoreFloats(dgate_up + inner + at, up);
    }
  }
  if (args.drow_weight == nullptr) return;
  dweight = WarpSum(dweight);
  if (lane == 0) args.drow_weight[row] = dweight;
}

}  // namespace

template <typename T>
cudaError_t Swiglu(const T* gate_up, const float* row_weight, T* h, int64_t rows, int64_t inner,
                   cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (rows == 0 || inner == 0) return cudaSuccess;
  if (inner % kV == 0 && Aligned16({gate_up, h})) {
    const RowTiles tiles(rows, inner / kV);
    Launch(ForwardKernel<T, kV>, tiles.blocks(), kThreads, 0, stream, gate_up, row_weight, h, inner,
           tiles);
  } else {
    const RowTiles tiles(rows, inner);
    Launch(ForwardKernel<T, 1>, tiles.blocks(), kThreads, 0, stream, gate_up, row_weight, h, inner,
           tiles);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t SwigluBackward(const SwigluBackwardArgs<T>& args, cudaStream_t stream) {
  constexpr int kV = kVector<T>;
  if (args.rows == 0) return cudaSuccess;
  const unsigned blocks = BlocksFor(args.rows, kWarps);
  if (args.inner % kV == 0 && Aligned16({args.gate_up, args.dh, args.dgate_up})) {
    Launch(BackwardKernel<T, kV>, blocks, kThreads, 0, stream, args);
  } else {
    Launch(BackwardKernel<T, 1>, blocks, kThreads, 0, stream, args);
  }
  return cudaGetLastError();
}

#define ESPALIER_INSTANTIATE(T)                                                               \
  template cudaError_t Swiglu<T>(const T*, const float*, T*, int64_t, int64_t, cudaStream_t); \
  template cudaError_t SwigluBackward<T>(const SwigluBackwardArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
