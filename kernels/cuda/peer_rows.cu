// Token rows to the ranks of their experts and back: a warp a token, each row read once and stored where it is wanted.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/peer.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 4;  // vectors that a lane has in flight

__device__ __forceinline__ int64_t WarpOfGrid() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
}

// f(column, pack) for every vector of a row, some of them loaded ahead.
template <typename T, int kV, typename F>
__device__ __forceinline__ void VisitVectors(const T* row, int64_t width, int lane, F&& f) {
  for (int64_t first = lane * kV; first < width; first += 32 * kV * kUnroll) {
    Pack<T, kV> kept[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = first + u * 32 * kV;
      if (column < width) kept[u] = LoadPack<T, kV>(row + column);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = first + u * 32 * kV;
      if (column < width) f(column, kept[u]);
    }
  }
}

// Entries of one token for every rank and its rows of `table`; returns the ranks that hold its experts, as bits.
template <typename T>
__device__ __forceinline__ uint32_t PlanToken(const PeerView& view, const SendRowsArgs<T>& args,
                                              int64_t token, int lane) {
  const int top_k = view.top_k;
  int home = -1;
  PeerEntry mine{};
  if (lane < top_k) {
    const int64_t at = token * top_k + lane;
    const int32_t expert = args.choice[at];
    home = args.home[expert] >> 16;
    mine = {args.home[expert] & 0xffff, args.slot[at] - args.offsets[args.group_of[expert]],
            args.weight[at]};
  }
  uint32_t ranks = 0;
  for (int rank = 0; rank < view.ranks; ++rank) {
    if (__ballot_sync(kAllLanes, home == rank) != 0) ranks |= 1u << rank;
    if (lane >= top_k) continue;
    PeerEntry entry = mine;
    if (home != rank) entry.expert = -1;
    InWindow<PeerEntry>(view, rank, view.entries)[(view.rank * view.tokens_max + token) * top_k +
                                                  lane] = entry;
  }
  if (args.partial) {
    const int fan = min(top_k, view.ranks);
    // The lane-th rank among those that hold an expert of the token; the zero row behind the last.
    int rank = -1;
    uint32_t left = ranks;
    for (int i = 0; i <= lane && left != 0; ++i, left &= left - 1) {
      if (i == lane) rank = __ffs(left) - 1;
    }
    if (lane < fan) {
      args.table[token * fan + lane] =
          rank < 0 ? 0 : static_cast<int32_t>(1 + rank * view.tokens_max + token);
    }
  } else if (lane < top_k) {
    args.table[token * top_k + lane] = static_cast<int32_t>(1 + token * top_k + lane);
  }
  return ranks;
}

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) SendKernel(PeerView view, SendRowsArgs<T> args) {
  AwaitPrevious();
  const int64_t token = WarpOfGrid();
  const int lane = threadIdx.x % 32;
  if (token >= view.tokens[view.rank] || Failed(view)) return;
  uint32_t ranks = 0;
  if (args.choice != nullptr) {
    ranks = PlanToken(view, args, token, lane);
    if (lane == 0) args.ranks_of[token] = ranks;
  } else {
    ranks = args.ranks_of[token];
  }
  const int64_t to = (view.rank * view.tokens_max + token) * view.width;
  VisitVectors<T, kV>(args.x + token * view.width, view.width, lane,
                      [&](int64_t column, const Pack<T, kV>& pack) {
                        for (uint32_t left = ranks; left != 0; left &= left - 1) {
                          StorePack(InWindow<T>(view, __ffs(left) - 1, view.arrived) + to + column,
                                    pack);
                        }
                      });
}

// Which (source, token) a warp has, in order of sources.
struct Arrival {
  int source = 0;
  int64_t token = 0, index = 0;
  bool valid = false;
};
__device__ __forceinline__ Arrival ArrivalOf(const PeerView& view, int64_t index) {
  Arrival arrival{.index = index};
  for (int source = 0; source < view.ranks; ++source) {
    if (index < view.tokens[source]) {
      arrival.source = source;
      arrival.token = index;
      arrival.valid = true;
      return arrival;
    }
    index -= view.tokens[source];
  }
  return arrival;
}

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) PlaceKernel(PeerView view, PlaceRowsArgs<T> args) {
  AwaitPrevious();
  const Arrival arrival = ArrivalOf(view, WarpOfGrid());
  const int lane = threadIdx.x % 32;
  if (!arrival.valid || Failed(view)) return;
  const int64_t row = arrival.source * view.tokens_max + arrival.token;
  int32_t place = -1;
  if (lane < view.top_k) {
    const int64_t at = arrival.index * view.top_k + lane;
    if (args.base != nullptr) {
      const PeerEntry entry =
          InWindow<const PeerEntry>(view, view.rank, view.entries)[row * view.top_k + lane];
      if (entry.expert >= 0 && entry.expert < args.held) {
        place = args.base[entry.expert * view.ranks + arrival.source] + entry.position;
      }
      // Both hold unless ranks disagree; then no memory that is not ours is touched.
      if (place < 0 || place >= args.rows) place = -1;
      args.place[at] = place;
      if (place >= 0) {
        args.row_weight[place] = entry.gate;
        if (args.expert_of != nullptr) {
          args.expert_of[place] = args.held_ids[entry.expert];
          args.identity[place] = place;
        }
      }
    } else {
      place = args.place[at];
    }
  }
  const uint32_t chosen = __ballot_sync(kAllLanes, place >= 0);
  if (chosen == 0) return;
  const T* from = InWindow<const T>(view, view.rank, view.arrived) + row * view.width;
  // Every lane needs all places; in registers they would take a third of them.
  __shared__ int32_t shared[kWarps][32];
  int32_t* places = shared[threadIdx.x / 32];
  if (place >= 0) places[__popc(chosen & ((1u << lane) - 1))] = place;
  __syncwarp();
  const int count = __popc(chosen);
  VisitVectors<T, kV>(from, view.width, lane, [&](int64_t column, const Pack<T, kV>& pack) {
    for (int i = 0; i < count; ++i) {
      StorePack(args.out + places[i] * view.width + column, pack);
    }
  });
}

template <typename T, int kV>
__global__ void __launch_bounds__(kThreads) ReturnKernel(PeerView view, ReturnRowsArgs<T> args) {
  AwaitPrevious();
  const Arrival arrival = ArrivalOf(view, WarpOfGrid());
  const int lane = threadIdx.x % 32;
  if (!arrival.valid || Failed(view)) return;
  const int top_k = view.top_k;
  int32_t place = lane < top_k ? args.place[arrival.index * top_k + lane] : -1;
  if (place >= args.rows_count) place = -1;
  const uint32_t chosen = __ballot_sync(kAllLanes, place >= 0);
  if (chosen == 0) return;
  if (args.drow_weight != nullptr && place >= 0) {
    InWindow<float>(view, arrival.source, view.gates)[arrival.token * top_k + lane] =
        args.drow_weight[place];
  }
  T* out = InWindow<T>(view, arrival.source, view.returned);
  if (!args.partial) {
    for (uint32_t left = chosen; left != 0; left &= left - 1) {
      const int k = __ffs(left) - 1;
      const int64_t from = __shfl_sync(kAllLanes, place, k);
      T* to = out + (1 + arrival.token * top_k + k) * view.width;
      VisitVectors<T, kV>(
          args.rows + from * view.width, view.width, lane,
          [&](int64_t column, const Pack<T, kV>& pack) { StorePack(to + column, pack); });
    }
    return;
  }
  T* to = out + (1 + view.rank * view.tokens_max + arrival.token) * view.width;
  // The bound is the same for all lanes: they meet in the shuffles.
  for (int64_t first = 0; first < view.width; first += 32 * kV) {
    const int64_t column = first + lane * kV;
    float sum[kV] = {};
    for (uint32_t left = chosen; left != 0; left &= left - 1) {
      const int64_t from = __shfl_sync(kAllLanes, place, __ffs(left) - 1);
      if (column >= view.width) continue;
      float values[kV];
      LoadFloats(args.rows + from * view.width + column, values);
#pragma unroll
      for (int i = 0; i < kV; ++i) sum[i] += values[i];
    }
    if (column < view.width) StoreFloats(to + column, sum);
  }
}

int64_t AllTokens(const PeerView& view) {
  int64_t sum = 0;
  for (int rank = 0; rank < view.ranks; ++rank) sum += view.tokens[rank];
  return sum;
}

// kernel(view, args) over `items` warps, by vectors where rows allow it.
template <typename T, typename Args>
cudaError_t LaunchRows(void (*wide)(PeerView, Args), void (*narrow)(PeerView, Args),
                       const PeerView& view, const Args& args, const void* rows, int64_t items,
                       cudaStream_t stream) {
  if (items == 0) return cudaSuccess;
  const bool vectors = view.width % kVector<T> == 0 && Aligned16({rows});
  Launch(vectors ? wide : narrow, BlocksFor(items, kWarps), kThreads, 0, stream, view, args);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t SendRows(const PeerView& view, const SendRowsArgs<T>& args, cudaStream_t stream) {
  return LaunchRows<T>(SendKernel<T, kVector<T>>, SendKernel<T, 1>, view, args, args.x,
                       view.tokens[view.rank], stream);
}

template <typename T>
cudaError_t PlaceRows(const PeerView& view, const PlaceRowsArgs<T>& args, cudaStream_t stream) {
  return LaunchRows<T>(PlaceKernel<T, kVector<T>>, PlaceKernel<T, 1>, view, args, args.out,
                       AllTokens(view), stream);
}

template <typename T>
cudaError_t ReturnRows(const PeerView& view, const ReturnRowsArgs<T>& args, cudaStream_t stream) {
  return LaunchRows<T>(ReturnKernel<T, kVector<T>>, ReturnKernel<T, 1>, view, args, args.rows,
                       AllTokens(view), stream);
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template cudaError_t SendRows<T>(const PeerView&, const SendRowsArgs<T>&, cudaStream_t);       \
  template cudaError_t PlaceRows<T>(const PeerView&, const PlaceRowsArgs<T>&, cudaStream_t);     \
  template cudaError_t ReturnRows<T>(const PeerView&, const ReturnRowsArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
