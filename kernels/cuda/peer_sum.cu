// Sums over ranks where the arrays lie: each rank reads its share of all arrays and writes the sum into all of them.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/peer.cuh"

namespace espalier::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksMax = 1056;  // eight a multiprocessor

template <typename T>
__global__ void __launch_bounds__(kThreads)
    SumKernel(PeerView view, SumPeersArgs<T> args, int64_t begin, int64_t end) {
  AwaitPrevious();
  constexpr int kV = kVector<T>;
  if (Failed(view)) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = begin + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < end;
       i += stride) {
    Pack<T, kV> kept[kPeersMax];
#pragma unroll
    for (int rank = 0; rank < kPeersMax; ++rank) {
      if (rank < view.ranks) kept[rank] = LoadPack<T, kV>(args.arrays[rank] + i * kV);
    }
    float sum[kV];
    Unpack(kept[0], sum);
#pragma unroll
    for (int rank = 1; rank < kPeersMax; ++rank) {
      if (rank >= view.ranks) break;
      float values[kV];
      Unpack(kept[rank], values);
#pragma unroll
      for (int j = 0; j < kV; ++j) sum[j] += values[j];
    }
    const Pack<T, kV> total = MakePack<T, kV>(sum);
#pragma unroll
    for (int rank = 0; rank < kPeersMax; ++rank) {
      if (rank < view.ranks) StorePack(args.arrays[rank] + i * kV, total);
    }
  }
}

}  // namespace

template <typename T>
cudaError_t SumPeers(const PeerView& view, const SumPeersArgs<T>& args, cudaStream_t stream) {
  const int64_t vectors = args.n / kVector<T>;
  const int64_t begin = vectors * view.rank / view.ranks, end = vectors * (view.rank + 1) / view.ranks;
  if (begin == end) return cudaSuccess;
  const unsigned blocks = std::min<unsigned>(kBlocksMax, BlocksFor(end - begin, kThreads));
  Launch(SumKernel<T>, blocks, kThreads, 0, stream, view, args, begin, end);
  return cudaGetLastError();
}

template cudaError_t SumPeers<float>(const PeerView&, const SumPeersArgs<float>&, cudaStream_t);
template cudaError_t SumPeers<__nv_bfloat16>(const PeerView&, const SumPeersArgs<__nv_bfloat16>&,
                                             cudaStream_t);

}  // namespace espalier::kernels::cuda
