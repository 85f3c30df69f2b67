// The rows of a MoE layer on their way to the experts' ranks and back: nowhere for one rank alone, through peers' device memory, or through
// the host.
#include "kernels/cuda/permute.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {

// Fills act.expert_in and act.row_weight in order of the groups held here.
template <typename T>
absl::Status CudaModel<T>::ToExperts(const CudaPass<T>& pass, int layer, CudaActivations<T>& act) {
  const int64_t n = pass.tokens, width = config_.width, slots = n * config_.top_k;
  CudaExchange& exchange = exchanges_[layer];
  if (peers_ != nullptr) {
    if (layer == config_.dense_layers) RETURN_IF_ERROR(peers_->BeginPass(n));
    RETURN_IF_ERROR(
        peers_->Dispatch(layer, {.x = act.h2.data(),
                                 .choice = act.choice.data(),
                                 .slot = act.slot.data(),
                                 .weight = act.weight.data(),
                                 .offsets = act.offsets.data(),
                                 .group_of = group_of_.data() + int64_t{layer} * config_.experts}));
    exchange.TakePlan(peers_->offsets(layer), peers_->rows(layer));
    RETURN_IF_ERROR(act.expert_in.Reserve(exchange.rows() * width));
    RETURN_IF_ERROR(act.row_weight.Reserve(exchange.rows()));
    return peers_->Arrive(layer, act.expert_in.data(), act.row_weight.data(), measure_norms_);
  }
  RETURN_IF_ERROR(exchange.Plan(act.offsets.data(), slots, stream_));
  RETURN_IF_ERROR(act.expert_in.Reserve(exchange.rows() * width));
  T* spread = act.expert_in.data();
  if (!exchange.single()) {
    RETURN_IF_ERROR(scratch_.more_rows.Reserve(slots * width));
    spread = scratch_.more_rows.data();
  }
  RETURN_IF_CUDA_ERROR(kernels::cuda::SpreadRows<T>(act.h2.data(), act.slot.data(), spread, n,
                                                    config_.top_k, width, stream_));
  if (exchange.single()) return absl::OkStatus();  // row_weight is there
  RETURN_IF_ERROR(act.row_weight.Reserve(exchange.rows()));
  RETURN_IF_ERROR(exchange.ToExperts(spread, act.expert_in.data(),
                                     width * static_cast<int64_t>(sizeof(T)), staging_, stream_));
  return exchange.ToExperts(scratch_.slot_weight.data(), act.row_weight.data(), sizeof(float),
                            staging_, stream_);
}

// `out` has a row for each of the groups'. What each token gets from its experts is in *returned afterwards.
template <typename T>
absl::Status CudaModel<T>::FromExperts(const CudaPass<T>& pass, int layer, CudaActivations<T>& act,
                                       const T* out, ReturnedRows<T>* returned) {
  const int64_t width = config_.width, slots = pass.tokens * config_.top_k;
  if (peers_ != nullptr) {
    // Norms are summed over ranks later: each expert's rank adds what its rows put out, whosever they are.
    if (measure_norms_) {
      RETURN_IF_CUDA_ERROR(kernels::cuda::AddOutputNorms<T>(
          out, peers_->identity(), peers_->expert_of(), peers_->rows(layer), width,
          norm_sums(layer), stream_));
    }
    RETURN_IF_ERROR(peers_->Return(layer, out, nullptr));
    *returned = peers_->returned(layer);
    return absl::OkStatus();
  }
  if (!exchanges_[layer].single()) {
    RETURN_IF_ERROR(exchanges_[layer].FromExperts(out, scratch_.more_rows.data(),
                                                  width * static_cast<int64_t>(sizeof(T)), staging_,
                                                  stream_));
    out = scratch_.more_rows.data();
  }
  if (measure_norms_) {
    RETURN_IF_CUDA_ERROR(kernels::cuda::AddOutputNorms<T>(
        out, act.slot.data(), act.choice.data(), slots, width, norm_sums(layer), stream_));
  }
  *returned = {out, act.slot.data(), config_.top_k};
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::GradientsToExperts(const CudaPass<T>& pass, int layer,
                                              CudaActivations<T>& act, const T* dx, T* dout) {
  const int64_t n = pass.tokens, width = config_.width, slots = n * config_.top_k;
  if (peers_ != nullptr) return peers_->DispatchBack(layer, dx, dout);
  const bool single = exchanges_[layer].single();
  T* spread = dout;
  if (!single) {
    RETURN_IF_ERROR(scratch_.more_rows.Reserve(slots * width));
    RETURN_IF_ERROR(scratch_.slot_weight.Reserve(slots));
    spread = scratch_.more_rows.data();
  }
  RETURN_IF_CUDA_ERROR(kernels::cuda::SpreadRows<T>(dx, act.slot.data(), spread, n, config_.top_k,
                                                    width, stream_));
  if (single) return absl::OkStatus();
  return exchanges_[layer].ToExperts(spread, dout, width * static_cast<int64_t>(sizeof(T)),
                                     staging_, stream_);
}

// din [rows] in order of the groups; gradients of gates are scratch_.drow_weight. *dweight_slot is as RouterBackward wants it.
template <typename T>
absl::Status CudaModel<T>::GradientsFromExperts(int layer, CudaActivations<T>& act, const T* din,
                                                ReturnedRows<T>* returned, const float** dweight,
                                                const int32_t** dweight_slot) {
  const float* drow_weight = scratch_.drow_weight.data();
  if (peers_ != nullptr) {
    RETURN_IF_ERROR(peers_->Return(layer, din, drow_weight));
    *returned = peers_->returned(layer);
    *dweight = peers_->gate_gradients();
    *dweight_slot = nullptr;
    return absl::OkStatus();
  }
  if (!exchanges_[layer].single()) {
    CudaExchange& exchange = exchanges_[layer];
    RETURN_IF_ERROR(exchange.FromExperts(din, scratch_.more_rows.data(),
                                         config_.width * static_cast<int64_t>(sizeof(T)), staging_,
                                         stream_));
    din = scratch_.more_rows.data();
    RETURN_IF_ERROR(exchange.FromExperts(drow_weight, scratch_.slot_weight.data(), sizeof(float),
                                         staging_, stream_));
    drow_weight = scratch_.slot_weight.data();
  }
  *returned = {din, act.slot.data(), config_.top_k};
  *dweight = drow_weight;
  *dweight_slot = act.slot.data();
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                    \
  template absl::Status CudaModel<T>::ToExperts(const CudaPass<T>&, int, CudaActivations<T>&);     \
  template absl::Status CudaModel<T>::FromExperts(const CudaPass<T>&, int, CudaActivations<T>&,    \
                                                  const T*, ReturnedRows<T>*);                     \
  template absl::Status CudaModel<T>::GradientsToExperts(const CudaPass<T>&, int,                  \
                                                         CudaActivations<T>&, const T*, T*);       \
  template absl::Status CudaModel<T>::GradientsFromExperts(int, CudaActivations<T>&, const T*,     \
                                                           ReturnedRows<T>*, const float**,        \
                                                           const int32_t**);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
