// Signals between ranks, and the agreement on row counts that travels with the first of a layer.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/peer.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// None of these goes through Launch: what follows must not start before they end, and they hold one block of the device at most.
__global__ void __launch_bounds__(kThreads) RaiseKernel(PeerView view, uint32_t epoch) {
  Raise(view, epoch);
}

__global__ void __launch_bounds__(kThreads)
    AwaitKernel(PeerView view, uint32_t epoch, uint64_t limit_ns) {
  Await(view, epoch, limit_ns);
}

__global__ void __launch_bounds__(kThreads)
    SendCountsKernel(PeerView view, const int32_t* offsets, int experts, uint32_t epoch) {
  const int size = experts + 1;
  if (!Failed(view)) {
    for (int i = threadIdx.x; i < size * view.ranks; i += kThreads) {
      const int to = i / size, at = i % size;
      InWindow<int32_t>(view, to, view.counts)[view.rank * (view.experts_max + 1) + at] =
          offsets[at];
    }
  }
  Raise(view, epoch);
}

// Rows of (expert, source) in that order, summed up by the first warp.
__global__ void __launch_bounds__(kThreads)
    TakeCountsKernel(PeerView view, TakeCountsArgs args, uint32_t epoch, uint64_t limit_ns) {
  extern __shared__ int32_t sizes[];  // [held, ranks]
  const bool good = Await(view, epoch, limit_ns);
  const int cells = args.held * view.ranks;
  const auto* counts = InWindow<const volatile int32_t>(view, view.rank, view.counts);
  for (int i = threadIdx.x; i < cells; i += kThreads) {
    const int expert = i / view.ranks, source = i % view.ranks;
    const auto* from = counts + source * (view.experts_max + 1) + args.first + expert;
    sizes[i] = good ? from[1] - from[0] : 0;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  int32_t before = 0;
  for (int first = 0; first < cells; first += 32) {
    const int i = first + lane;
    const int32_t size = i < cells ? sizes[i] : 0;
    int32_t sum = size;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += other;
    }
    if (i < cells) {
      args.base[i] = before + sum - size;
      if (i % view.ranks == 0) args.group_offsets[i / view.ranks] = before + sum - size;
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  if (lane == 0) {
    args.group_offsets[args.held] = before;
    view.control->rows = before;
    __threadfence_system();
  }
}

}  // namespace

cudaError_t RaisePeers(const PeerView& view, uint32_t epoch, cudaStream_t stream) {
  RaiseKernel<<<1, 32, 0, stream>>>(view, epoch);
  return cudaGetLastError();
}

cudaError_t AwaitPeers(const PeerView& view, uint32_t epoch, uint64_t limit_ns,
                       cudaStream_t stream) {
  AwaitKernel<<<1, 32, 0, stream>>>(view, epoch, limit_ns);
  return cudaGetLastError();
}

cudaError_t SendCounts(const PeerView& view, const int32_t* offsets, int experts, uint32_t epoch,
                       cudaStream_t stream) {
  SendCountsKernel<<<1, kThreads, 0, stream>>>(view, offsets, experts, epoch);
  return cudaGetLastError();
}

cudaError_t TakeCounts(const PeerView& view, const TakeCountsArgs& args, uint32_t epoch,
                       uint64_t limit_ns, cudaStream_t stream) {
  const size_t shared = sizeof(int32_t) * args.held * view.ranks;  // at most 32 KiB
  TakeCountsKernel<<<1, kThreads, shared, stream>>>(view, args, epoch, limit_ns);
  return cudaGetLastError();
}

}  // namespace espalier::kernels::cuda
