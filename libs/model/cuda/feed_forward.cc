// The second half of a layer on the device: routing, exchange, experts and combination; the dense SwiGLU of dense layers and shared experts.
// A row's gate is applied between the two products of its expert, so that coming back is a plain sum.
#include <algorithm>

#include "kernels/cuda/grouped.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/permute.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/swiglu.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {

template <typename T>
absl::Status CudaModel<T>::DenseForward(int64_t tokens, int layer, CudaActivations<T>& act,
                                        const T* residual, T* x_out) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.experts, tokens));
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t inner = places.dense_width, width = config_.width;
  RETURN_IF_ERROR(act.dense_gate_up.Reserve(tokens * 2 * inner));
  RETURN_IF_ERROR(act.dense_h.Reserve(tokens * inner));
  RETURN_IF_ERROR(Linear(act.h2.data(), places.dense_gate_up, act.dense_gate_up.data(), tokens,
                         2 * inner, width));
  RETURN_IF_CUDA_ERROR(kernels::cuda::Swiglu<T>(act.dense_gate_up.data(), nullptr,
                                                act.dense_h.data(), tokens, inner, stream_));
  if (again_) return absl::OkStatus();
  return Linear(act.dense_h.data(), places.dense_down, x_out, tokens, width, inner, residual);
}

template <typename T>
absl::Status CudaModel<T>::DenseBackward(int64_t tokens, int layer, CudaActivations<T>& act,
                                         const T* dx, T* dh2, bool add) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.experts, tokens));
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t inner = places.dense_width, width = config_.width;
  RETURN_IF_ERROR(scratch_.inner.Reserve(tokens * inner));
  RETURN_IF_ERROR(LinearBackward(dx, act.dense_h.data(), places.dense_down, scratch_.inner.data(),
                                 tokens, width, inner, false));
  RETURN_IF_CUDA_ERROR(kernels::cuda::SwigluBackward<T>({.gate_up = act.dense_gate_up.data(),
                                                         .dh = scratch_.inner.data(),
                                                         .dgate_up = act.dense_gate_up.data(),
                                                         .rows = tokens,
                                                         .inner = inner},
                                                        stream_));
  return LinearBackward(act.dense_gate_up.data(), act.h2.data(), places.dense_gate_up, dh2, tokens,
                        2 * inner, width, add);
}

template <typename T>
kernels::cuda::RouterArgs CudaModel<T>::RouterArgsOf(int layer, const CudaActivations<T>& act,
                                                     int64_t tokens) const {
  const int64_t at = int64_t{layer} * config_.experts;
  return {.score = config_.router == RouterKind::kSoftmax ? kernels::RouterScore::kSoftmax
                                                          : kernels::RouterScore::kSigmoid,
          .normalize = config_.normalize_top_k,
          .scaling = static_cast<float>(config_.routed_scaling),
          .scores = act.scores.data(),
          .bias = bias_.data() + at,
          .masked = masked_.data() + at,
          .choice = act.choice.data(),
          .weight = act.weight.data(),
          .tokens = tokens,
          .experts = experts(layer),
          .top_k = config_.top_k,
          .choice_given = act.choice_given};
}

// Scores, choices, weights and slots of this rank's tokens.
template <typename T>
absl::Status CudaModel<T>::Route(const CudaPass<T>& pass, int layer, CudaActivations<T>& act) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.router));
  const int64_t n = pass.tokens, slots = n * config_.top_k;
  const int alive = experts(layer);
  RETURN_IF_ERROR(act.scores.Reserve(n * alive));
  RETURN_IF_ERROR(act.choice.Reserve(slots));
  RETURN_IF_ERROR(act.weight.Reserve(slots));
  RETURN_IF_ERROR(act.slot.Reserve(slots));
  RETURN_IF_ERROR(act.token_of.Reserve(slots));
  RETURN_IF_ERROR(act.offsets.Reserve(alive + 1));
  RETURN_IF_ERROR(scratch_.plan.Reserve(kernels::cuda::PlanSlotsScratch(n, alive)));
  RETURN_IF_ERROR(scratch_.slot_weight.Reserve(slots));
  if (exchanges_[layer].single()) RETURN_IF_ERROR(act.row_weight.Reserve(slots));
  RETURN_IF_ERROR(matmul_->Run(
      kernels::cuda::MatmulArgs<T, float>{.product = Product::kNT,
                                          .a = act.h2.data(),
                                          .b = weights_.dense.value(weights_.layers[layer].router),
                                          .d = act.scores.data(),
                                          .m = n,
                                          .n = alive,
                                          .k = config_.width},
      stream_));
  RETURN_IF_CUDA_ERROR(kernels::cuda::Router(RouterArgsOf(layer, act, n), stream_));
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::PlanSlots({.choice = act.choice.data(),
                                .group_of = group_of_.data() + int64_t{layer} * config_.experts,
                                .counts = counts(layer),
                                .offsets = act.offsets.data(),
                                .slot = act.slot.data(),
                                .token_of = act.token_of.data(),
                                .scratch = scratch_.plan.data(),
                                .tokens = n,
                                .top_k = config_.top_k,
                                .experts = alive,
                                .weight = act.weight.data(),
                                .row_weight = exchanges_[layer].single()
                                                  ? act.row_weight.data()
                                                  : scratch_.slot_weight.data()},
                               stream_));
  if (config_.aux_loss == 0 || again_) return absl::OkStatus();
  RETURN_IF_ERROR(scratch_.aux_partials.Reserve(int64_t{kernels::cuda::kAuxPartials} * alive));
  RETURN_IF_CUDA_ERROR(kernels::cuda::AddAuxiliaryLoss(RouterArgsOf(layer, act, n), counts(layer),
                                                       scratch_.aux_partials.data(),
                                                       aux_sum_.data(), stream_));
  return absl::OkStatus();
}

// c = a W_g^T (kNT) or a W_g (kNN) for the rows of each expert g held here.
template <typename T>
absl::Status CudaModel<T>::ExpertProduct(int layer, Product product, const T* a,
                                         const Slice& weights, T* c, int64_t n, int64_t k) {
  const CudaExchange& exchange = exchanges_[layer];
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::GroupedMatmul<T>({.product = product,
                                       .offsets = exchange.offsets(),
                                       .groups = weights_.layers[layer].held,
                                       .rows_max = exchange.rows(),
                                       .a = a,
                                       .b = weights_.experts[layer].value(weights),
                                       .c = c,
                                       .n = n,
                                       .k = k},
                                      stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::ExpertGradient(int layer, int which, const T* a, const T* b,
                                          const Slice& weights, int64_t m, int64_t n) {
  const CudaExchange& exchange = exchanges_[layer];
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::GroupedGradient<T>({.offsets = exchange.offsets(),
                                         .groups = weights_.layers[layer].held,
                                         .rows_max = exchange.rows(),
                                         .a = a,
                                         .b = b,
                                         .c = weights_.experts[layer].gradient(weights),
                                         .m = m,
                                         .n = n,
                                         .squares = expert_squares_.data() +
                                                    (2 * layer + which) *
                                                        kernels::cuda::kGradientSquares},
                                        stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::MoeForward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act,
                                      const T* residual, T* x_out, const NextNorm& next) {
  const int64_t n = pass.tokens, width = config_.width, inner = config_.expert_width,
                slots = n * config_.top_k;
  const DeviceLayer& places = weights_.layers[layer];
  RETURN_IF_ERROR(Route(pass, layer, act));

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.dispatch));
  RETURN_IF_ERROR(ToExperts(pass, layer, act));
  const int64_t rows = exchanges_[layer].rows();

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.experts, rows));
  RETURN_IF_ERROR(act.gate_up.Reserve(rows * 2 * inner));
  RETURN_IF_ERROR(act.h.Reserve(rows * inner));
  RETURN_IF_ERROR(scratch_.rows.Reserve(std::max(rows, slots) * width));
  RETURN_IF_ERROR(ExpertProduct(layer, Product::kNT, act.expert_in.data(), places.gate_up,
                                act.gate_up.data(), 2 * inner, width));
  RETURN_IF_CUDA_ERROR(kernels::cuda::Swiglu<T>(act.gate_up.data(), act.row_weight.data(),
                                                act.h.data(), rows, inner, stream_));
  if (again_) return absl::OkStatus();
  T* out = scratch_.rows.data();
  RETURN_IF_ERROR(ExpertProduct(layer, Product::kNT, act.h.data(), places.down, out, width, inner));

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.combine));
  ReturnedRows<T> returned;
  RETURN_IF_ERROR(FromExperts(pass, layer, act, out, &returned));
  // The sum over slots is what the next norm reads: both in one pass.
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::RmsNorm<T>({.x = residual,
                                 .weight = next.weight,
                                 .y = next.y,
                                 .rstd = next.rstd,
                                 .rows = n,
                                 .width = width,
                                 .eps = static_cast<float>(config_.rms_eps),
                                 .slot_rows = returned.rows,
                                 .slot = returned.table,
                                 .top_k = returned.fan,
                                 .sum = x_out},
                                stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::MoeBackward(const CudaPass<T>& pass, int layer, CudaActivations<T>& act,
                                       const T* dx, T* dh2, float aux_scale,
                                       ReturnedRows<T>* returned) {
  const int64_t n = pass.tokens, width = config_.width, inner = config_.expert_width,
                slots = n * config_.top_k;
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t rows = exchanges_[layer].rows();
  const int alive = experts(layer);

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.dispatch));
  RETURN_IF_ERROR(scratch_.rows.Reserve(std::max(rows, slots) * width));
  RETURN_IF_ERROR(scratch_.drow_weight.Reserve(std::max(rows, slots)));
  RETURN_IF_ERROR(scratch_.inner.Reserve(rows * inner));
  RETURN_IF_ERROR(scratch_.dlogits.Reserve(n * alive));
  T* dout = scratch_.rows.data();
  RETURN_IF_ERROR(GradientsToExperts(pass, layer, act, dx, dout));

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.experts, rows));
  RETURN_IF_ERROR(ExpertProduct(layer, Product::kNN, dout, places.down, scratch_.inner.data(), inner,
                                width));
  RETURN_IF_ERROR(ExpertGradient(layer, 0, dout, act.h.data(), places.down, width, inner));
  T* dgate_up = act.gate_up.data();
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::SwigluBackward<T>({.gate_up = act.gate_up.data(),
                                        .row_weight = act.row_weight.data(),
                                        .dh = scratch_.inner.data(),
                                        .dgate_up = dgate_up,
                                        .drow_weight = scratch_.drow_weight.data(),
                                        .rows = rows,
                                        .inner = inner},
                                       stream_));
  RETURN_IF_ERROR(
      ExpertGradient(layer, 1, dgate_up, act.expert_in.data(), places.gate_up, 2 * inner, width));
  T* din = scratch_.rows.data();  // dout is used up
  RETURN_IF_ERROR(
      ExpertProduct(layer, Product::kNN, dgate_up, places.gate_up, din, width, 2 * inner));

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.combine));
  const float* dweight = nullptr;
  const int32_t* dweight_slot = nullptr;
  RETURN_IF_ERROR(GradientsFromExperts(layer, act, din, returned, &dweight, &dweight_slot));

  RETURN_IF_ERROR(timeline_->Mark(&seconds_.router));
  RETURN_IF_CUDA_ERROR(
      kernels::cuda::RouterBackward<T>({.forward = RouterArgsOf(layer, act, n),
                                        .dweight = dweight,
                                        .slot = dweight_slot,
                                        .dlogits = scratch_.dlogits.data(),
                                        .aux_scale = aux_scale,
                                        .route_counts = counts(layer)},
                                       stream_));
  return LinearBackward(scratch_.dlogits.data(), act.h2.data(), places.router, dh2, n, alive, width,
                        /*add=*/false);
}

template <typename T>
absl::Status CudaModel<T>::FeedForwardForward(const CudaPass<T>& pass, int layer,
                                              CudaActivations<T>& act, T* x_out,
                                              const NextNorm& next) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.combine));
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t n = pass.tokens, width = config_.width;
  RETURN_IF_ERROR(act.h2.Reserve(n * width));
  RETURN_IF_ERROR(act.rstd2.Reserve(n));
  RETURN_IF_ERROR(Norm(act.x_mid.data(),
                       {weights_.dense.value(places.post_norm), act.h2.data(), act.rstd2.data()}, n));
  const T* residual = act.x_mid.data();
  if (places.dense_width > 0) {
    RETURN_IF_ERROR(DenseForward(n, layer, act, residual, x_out));
    residual = x_out;
  }
  if (config_.IsMoe(layer)) return MoeForward(pass, layer, act, residual, x_out, next);
  return again_ ? absl::OkStatus() : Norm(x_out, next, n);
}

template <typename T>
absl::Status CudaModel<T>::FeedForwardBackward(const CudaPass<T>& pass, int layer,
                                               CudaActivations<T>& act, T* dx, float aux_scale) {
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t n = pass.tokens, width = config_.width;
  RETURN_IF_ERROR(scratch_.dh.Reserve(n * width));
  T* dh2 = scratch_.dh.data();
  const bool moe = config_.IsMoe(layer);
  ReturnedRows<T> returned;
  if (moe) RETURN_IF_ERROR(MoeBackward(pass, layer, act, dx, dh2, aux_scale, &returned));
  if (places.dense_width > 0) RETURN_IF_ERROR(DenseBackward(n, layer, act, dx, dh2, /*add=*/moe));
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.combine));
  RETURN_IF_CUDA_ERROR(kernels::cuda::RmsNormBackward<T>(
      {.dy = dh2,
       .x = act.x_mid.data(),
       .weight = weights_.dense.value(places.post_norm),
       .rstd = act.rstd2.data(),
       .residual = dx,
       .dx = dx,
       .dweight = weights_.dense.gradient(places.post_norm),
       .partials = scratch_.norm_partials[kSharesOfPost].data(),
       .rows = n,
       .width = width,
       .slot_rows = returned.rows,
       .slot = returned.table,
       .top_k = returned.fan,
       .later = &scratch_.norm_shares[kSharesOfPost]},
      stream_));
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::FeedForwardForward(const CudaPass<T>&, int,                \
                                                         CudaActivations<T>&, T*,                \
                                                         const NextNorm&);                       \
  template absl::Status CudaModel<T>::FeedForwardBackward(const CudaPass<T>&, int,               \
                                                          CudaActivations<T>&, T*, float);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
