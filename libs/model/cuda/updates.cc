// The optimizer's work on the device: dense gradients over ranks, norms, AdamW over whole arenas.
#include <algorithm>

#include "kernels/cuda/adamw.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {

// Through peers' memory, or the host and the run's Communicator; in fp32 and in the order of ranks either way.
template <typename T>
absl::Status CudaModel<T>::ReduceDense() {
  if (communicator_->size() == 1) return absl::OkStatus();
  if (peers_ != nullptr) return peers_->SumDense(weights_.dense.size());
  constexpr int64_t kBucket = int64_t{1} << 22;
  const int64_t total = weights_.dense.size();
  Buffer<float> wide;
  RETURN_IF_ERROR(wide.Reserve(std::min(kBucket, total)));
  kernels::cuda::PinnedBuffer<float> host;
  RETURN_IF_ERROR(host.Reserve(std::min(kBucket, total)));
  for (int64_t begin = 0; begin < total; begin += kBucket) {
    const int64_t count = std::min(kBucket, total - begin);
    T* gradient = weights_.dense.gradient({begin, count});
    RETURN_IF_CUDA_ERROR(kernels::cuda::Widen<T>(gradient, wide.data(), count, stream_));
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host.data(), wide.data(), count * sizeof(float),
                                         cudaMemcpyDeviceToHost, stream_));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    RETURN_IF_ERROR(
        communicator_->AllReduceSum(std::span<float>(host.data(), static_cast<size_t>(count))));
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(wide.data(), host.data(), count * sizeof(float),
                                         cudaMemcpyHostToDevice, stream_));
    RETURN_IF_CUDA_ERROR(kernels::cuda::RoundTo<T>(wide.data(), gradient, count, stream_));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  }
  return absl::OkStatus();
}

// Those of experts were summed by the products that made their gradients.
template <typename T>
absl::Status CudaModel<T>::SquaredNorms(double* dense, double* experts) {
  RETURN_IF_ERROR(norms_.Reserve(2));
  RETURN_IF_ERROR(norm_partials_.Reserve(kernels::cuda::kNormBlocks));
  RETURN_IF_CUDA_ERROR(kernels::cuda::SquaredNorm<T>(weights_.dense.gradient(),
                                                     weights_.dense.size(), norm_partials_.data(),
                                                     norms_.data(), stream_));
  RETURN_IF_CUDA_ERROR(kernels::cuda::Sum(expert_squares_.data(), squares_size(),
                                          norms_.data() + 1, stream_));
  double found[2] = {};
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(found, norms_.data(), sizeof(found), cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (peers_ != nullptr) {
    RETURN_IF_ERROR(peers_->Check());
    seconds_.exposed += peers_->TakeWaitedSeconds();
  }
  *dense = found[0];
  *experts = found[1];
  return timeline_->Collect();
}

template <typename T>
absl::Status CudaModel<T>::Apply(const AdamWStep& step) {
  kernels::cuda::AdamWArgs<T> args{.lr = static_cast<float>(step.lr),
                                   .beta1 = static_cast<float>(step.beta1),
                                   .beta2 = static_cast<float>(step.beta2),
                                   .eps = static_cast<float>(step.eps),
                                   .correction1 = static_cast<float>(step.correction1),
                                   .correction2 = static_cast<float>(step.correction2),
                                   .grad_scale = static_cast<float>(step.grad_scale)};
  const auto update = [&](const Arena<T>& arena, const Slice& slice, bool decay) -> absl::Status {
    if (slice.size == 0) return absl::OkStatus();
    if constexpr (!Arena<T>::kHalves) args.master = arena.value(slice);
    args.low = arena.low(slice);
    args.grad = arena.gradient(slice);
    args.moment1 = arena.moment1(slice);
    args.moment2 = arena.moment2(slice);
    args.value = arena.value(slice);
    args.n = slice.size;
    args.weight_decay = decay ? static_cast<float>(step.weight_decay) : 0.0f;
    RETURN_IF_CUDA_ERROR(kernels::cuda::AdamW<T>(args, stream_));
    return absl::OkStatus();
  };
  const Arena<T>& dense = weights_.dense;
  RETURN_IF_ERROR(update(dense, weights_.embedding, true));
  if (!config_.tie_embeddings) RETURN_IF_ERROR(update(dense, weights_.lm_head, true));
  RETURN_IF_ERROR(update(dense, weights_.norms, false));
  const int64_t matrix = int64_t{config_.expert_width} * config_.width;
  for (int layer = 0; layer < config_.layers; ++layer) {
    const DeviceLayer& places = weights_.layers[layer];
    for (const Slice& matrix_slice :
         {places.qkv, places.o, places.dense_gate_up, places.dense_down}) {
      RETURN_IF_ERROR(update(dense, matrix_slice, true));
    }
    if (!config_.IsMoe(layer)) continue;
    const LayerLayout& layout = layout_.layers[layer];
    // Runs of experts that are not masked, of the router's rows and of the experts held here.
    for (size_t begin = 0; begin < layout.ids.size(); ++begin) {
      size_t end = begin;
      while (end < layout.ids.size() && layout.masked[end] == 0) ++end;
      RETURN_IF_ERROR(update(dense,
                             {places.router.offset + static_cast<int64_t>(begin) * config_.width,
                              static_cast<int64_t>(end - begin) * config_.width},
                             true));
      begin = end;
    }
    const auto& held = host_.layers[layer].experts;
    const auto masked = [&](size_t i) {
      const auto at = std::lower_bound(layout.ids.begin(), layout.ids.end(), held[i]->id);
      return layout.masked[at - layout.ids.begin()] != 0;
    };
    for (size_t begin = 0; begin < held.size(); ++begin) {
      size_t end = begin;
      while (end < held.size() && !masked(end)) ++end;
      const auto first = static_cast<int64_t>(begin), count = static_cast<int64_t>(end - begin);
      const Arena<T>& arena = weights_.experts[layer];
      RETURN_IF_ERROR(update(
          arena, {places.gate_up.offset + first * 2 * matrix, count * 2 * matrix}, true));
      RETURN_IF_ERROR(update(arena, {places.down.offset + first * matrix, count * matrix}, true));
      begin = end;
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::ResetMoments() {
  const auto clear = [&](const Arena<T>& arena, const Slice& slice) -> absl::Status {
    for (float* array : {arena.moment1(slice), arena.moment2(slice)}) {
      RETURN_IF_CUDA_ERROR(cudaMemsetAsync(array, 0, slice.size * sizeof(float), stream_));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(clear(weights_.dense, {0, weights_.dense.size()}));
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    const DeviceLayer& places = weights_.layers[layer];
    for (const Slice& slice : {places.gate_up, places.down})
      RETURN_IF_ERROR(clear(weights_.experts[layer], slice));
  }
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::ReduceDense();                                             \
  template absl::Status CudaModel<T>::SquaredNorms(double*, double*);                            \
  template absl::Status CudaModel<T>::Apply(const AdamWStep&);                                   \
  template absl::Status CudaModel<T>::ResetMoments();
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
