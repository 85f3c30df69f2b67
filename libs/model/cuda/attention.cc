// The attention half of a layer on the device: x_mid = x + o_proj(attention(input_layernorm(x))).
#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/permute.h"
#include "kernels/cuda/qk_norm.h"
#include "kernels/cuda/rope.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {

template <typename T>
absl::Status CudaModel<T>::Linear(const T* x, const Slice& weight, T* y, int64_t rows, int64_t out,
                                  int64_t in, const T* addend) {
  return matmul_->Run(kernels::cuda::MatmulArgs<T>{.product = Product::kNT,
                                                   .a = x,
                                                   .b = weights_.dense.value(weight),
                                                   .c = addend,
                                                   .d = y,
                                                   .m = rows,
                                                   .n = out,
                                                   .k = in},
                      stream_);
}

template <typename T>
absl::Status CudaModel<T>::LinearBackward(const T* dy, const T* x, const Slice& weight, T* dx,
                                          int64_t rows, int64_t out, int64_t in, bool add) {
  RETURN_IF_ERROR(matmul_->Run(kernels::cuda::MatmulArgs<T>{.product = Product::kNN,
                                                            .a = dy,
                                                            .b = weights_.dense.value(weight),
                                                            .c = add ? dx : nullptr,
                                                            .d = dx,
                                                            .m = rows,
                                                            .n = in,
                                                            .k = out},
                               stream_));
  return matmul_->Run(kernels::cuda::MatmulArgs<T>{.product = Product::kTN,
                                                   .a = dy,
                                                   .b = x,
                                                   .d = weights_.dense.gradient(weight),
                                                   .m = out,
                                                   .n = in,
                                                   .k = rows},
                      stream_);
}

template <typename T>
kernels::cuda::AttentionArgs<T> CudaModel<T>::PlainArgs(const CudaPass<T>& pass,
                                                        const CudaActivations<T>& act) const {
  const int64_t kv_width = int64_t{config_.kv_heads} * config_.head_dim;
  const T* qkv = act.qkv.data();
  return {.q = qkv,
          .k = qkv + q_width(),
          .v = qkv + q_width() + kv_width,
          .q_stride = qkv_width(),
          .kv_stride = qkv_width(),
          .out = act.attended.data(),
          .lse = act.lse.data(),
          .first_of = pass.first_of,
          .last_of = pass.last_of,
          .tokens = pass.tokens,
          .heads = config_.heads,
          .kv_heads = config_.kv_heads,
          .head_dim = config_.head_dim};
}

template <typename T>
absl::Status CudaModel<T>::Attend(const CudaPass<T>& pass, int layer, CudaActivations<T>& act) {
  if (pass.decode) {
    RETURN_IF_CUDA_ERROR(kernels::cuda::AttentionDecode<T>(
        pass.caches[layer], act.qkv.data(), qkv_width(), pass.cache_rows, pass.lengths, pass.tokens,
        config_.heads, act.attended.data(), stream_));
    return absl::OkStatus();
  }
  if (pass.way == AttentionWay::kPlain) {
    RETURN_IF_ERROR(act.lse.Reserve(pass.tokens * config_.heads));
    RETURN_IF_CUDA_ERROR(kernels::cuda::Attention<T>(PlainArgs(pass, act), stream_));
    return absl::OkStatus();
  }
  if constexpr (std::is_same_v<T, float>) {
    return absl::InternalError("cuDNN's attention was chosen for fp32");
  } else {
    RETURN_IF_ERROR(act.lse.Reserve(pass.shape.batch * pass.shape.length * config_.heads));
    if (pass.way == AttentionWay::kEqual) {
      return attention_->Forward(pass.shape, act.qkv.data(), act.attended.data(), act.lse.data(),
                                 stream_);
    }
    const int64_t rows = pass.shape.batch * pass.shape.length;
    RETURN_IF_ERROR(scratch_.padded_qkv.Reserve(rows * qkv_width()));
    RETURN_IF_ERROR(scratch_.padded_out.Reserve(rows * q_width()));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(act.qkv.data(), pass.pad_source,
                                                      scratch_.padded_qkv.data(), rows, qkv_width(),
                                                      stream_));
    RETURN_IF_ERROR(attention_->Forward(pass.shape, scratch_.padded_qkv.data(),
                                        scratch_.padded_out.data(), act.lse.data(), stream_));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(scratch_.padded_out.data(), pass.pad_place,
                                                      act.attended.data(), pass.tokens, q_width(),
                                                      stream_));
    return absl::OkStatus();
  }
}

template <typename T>
absl::Status CudaModel<T>::AttendBackward(const CudaPass<T>& pass, CudaActivations<T>& act,
                                          const T* dattended, T* dqkv) {
  if (pass.way == AttentionWay::kPlain) {
    const int64_t kv_width = int64_t{config_.kv_heads} * config_.head_dim;
    RETURN_IF_ERROR(scratch_.delta.Reserve(pass.tokens * config_.heads));
    RETURN_IF_CUDA_ERROR(
        kernels::cuda::AttentionBackward<T>({.forward = PlainArgs(pass, act),
                                             .dout = dattended,
                                             .dq = dqkv,
                                             .dk = dqkv + q_width(),
                                             .dv = dqkv + q_width() + kv_width,
                                             .delta = scratch_.delta.data()},
                                            stream_));
    return absl::OkStatus();
  }
  if constexpr (std::is_same_v<T, float>) {
    return absl::InternalError("cuDNN's attention was chosen for fp32");
  } else {
    if (pass.way == AttentionWay::kEqual) {
      return attention_->Backward(pass.shape, act.qkv.data(), act.attended.data(), act.lse.data(),
                                  dattended, dqkv, stream_);
    }
    // Rows that are padding have no gradient, so that they add nothing to those of keys and values.
    const int64_t rows = pass.shape.batch * pass.shape.length;
    RETURN_IF_ERROR(scratch_.padded_qkv.Reserve(rows * qkv_width()));
    RETURN_IF_ERROR(scratch_.padded_dqkv.Reserve(rows * qkv_width()));
    RETURN_IF_ERROR(scratch_.padded_out.Reserve(rows * q_width()));
    RETURN_IF_ERROR(scratch_.padded_dout.Reserve(rows * q_width()));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(act.qkv.data(), pass.pad_source,
                                                      scratch_.padded_qkv.data(), rows, qkv_width(),
                                                      stream_));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(act.attended.data(), pass.pad_source,
                                                      scratch_.padded_out.data(), rows, q_width(),
                                                      stream_));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(
        dattended, pass.pad_source, scratch_.padded_dout.data(), rows, q_width(), stream_));
    RETURN_IF_ERROR(attention_->Backward(pass.shape, scratch_.padded_qkv.data(),
                                         scratch_.padded_out.data(), act.lse.data(),
                                         scratch_.padded_dout.data(), scratch_.padded_dqkv.data(),
                                         stream_));
    RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(
        scratch_.padded_dqkv.data(), pass.pad_place, dqkv, pass.tokens, qkv_width(), stream_));
    return absl::OkStatus();
  }
}

template <typename T>
kernels::cuda::RopeAngles CudaModel<T>::Angles(const CudaPass<T>& pass) const {
  return {.positions = pass.positions,
          .cos = rope_cos_.data(),
          .sin = rope_sin_.data(),
          .head_dim = config_.head_dim};
}

// Queries and keys of `rows` by themselves, where no norm goes before.
template <typename T>
absl::Status CudaModel<T>::Turn(const CudaPass<T>& pass, T* rows, bool backward) {
  RETURN_IF_CUDA_ERROR(kernels::cuda::Rope<T>({.x = rows,
                                               .rows = pass.tokens,
                                               .row_stride = qkv_width(),
                                               .heads = config_.heads + config_.kv_heads,
                                               .head_dim = config_.head_dim,
                                               .positions = pass.positions,
                                               .cos = rope_cos_.data(),
                                               .sin = rope_sin_.data(),
                                               .backward = backward},
                                              stream_));
  return absl::OkStatus();
}

// Queries and keys of the fused rows are normalised and turned where they stand; training keeps what was projected.
template <typename T>
absl::Status CudaModel<T>::PlaceQueriesAndKeys(const CudaPass<T>& pass, int layer,
                                               CudaActivations<T>& act) {
  if (config_.qk_norm == QkNorm::kNone) return Turn(pass, act.qkv.data(), /*backward=*/false);
  const bool head = config_.qk_norm == QkNorm::kHead;
  const DeviceLayer& places = weights_.layers[layer];
  const auto norm = [&](T* x, const Slice& weight, int heads, Buffer<T>& raw,
                        Buffer<float>& rstd) -> absl::Status {
    const int64_t width = int64_t{heads} * config_.head_dim;
    if (!pass.decode) {
      RETURN_IF_ERROR(raw.Reserve(pass.tokens * width));
      RETURN_IF_ERROR(rstd.Reserve(pass.tokens * heads));
    }
    RETURN_IF_CUDA_ERROR(
        kernels::cuda::QkNorm<T>({.x = x,
                                  .raw = pass.decode ? nullptr : raw.data(),
                                  .rstd = pass.decode ? nullptr : rstd.data(),
                                  .weight = weights_.dense.value(weight),
                                  .rows = pass.tokens,
                                  .row_stride = qkv_width(),
                                  .segments = head ? heads : 1,
                                  .width = head ? config_.head_dim : width,
                                  .eps = static_cast<float>(config_.rms_eps),
                                  .angles = Angles(pass)},
                                 stream_));
    return absl::OkStatus();
  };
  T* qkv = act.qkv.data();
  RETURN_IF_ERROR(norm(qkv, places.q_norm, config_.heads, act.q_raw, act.q_rstd));
  return norm(qkv + q_width(), places.k_norm, config_.kv_heads, act.k_raw, act.k_rstd);
}

template <typename T>
absl::Status CudaModel<T>::PlaceQueriesAndKeysBackward(const CudaPass<T>& pass, int layer,
                                                       CudaActivations<T>& act, T* dqkv) {
  if (config_.qk_norm == QkNorm::kNone) return Turn(pass, dqkv, /*backward=*/true);
  const bool head = config_.qk_norm == QkNorm::kHead;
  const DeviceLayer& places = weights_.layers[layer];
  const auto norm = [&](T* dx, const Slice& weight, int heads, const Buffer<T>& raw,
                        const Buffer<float>& rstd, int which) -> absl::Status {
    const int64_t width = head ? config_.head_dim : int64_t{heads} * config_.head_dim;
    Buffer<float>& partials = scratch_.norm_partials[which];
    RETURN_IF_ERROR(partials.Reserve(kernels::cuda::kQkNormPartials * width));
    RETURN_IF_CUDA_ERROR(
        kernels::cuda::QkNormBackward<T>({.dx = dx,
                                          .raw = raw.data(),
                                          .rstd = rstd.data(),
                                          .weight = weights_.dense.value(weight),
                                          .dweight = weights_.dense.gradient(weight),
                                          .partials = partials.data(),
                                          .rows = pass.tokens,
                                          .row_stride = qkv_width(),
                                          .segments = head ? heads : 1,
                                          .width = width,
                                          .angles = Angles(pass),
                                          .later = &scratch_.norm_shares[which]},
                                         stream_));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(norm(dqkv, places.q_norm, config_.heads, act.q_raw, act.q_rstd, kSharesOfQuery));
  return norm(dqkv + q_width(), places.k_norm, config_.kv_heads, act.k_raw, act.k_rstd, kSharesOfKey);
}

template <typename T>
absl::Status CudaModel<T>::AttentionForward(const CudaPass<T>& pass, int layer,
                                            CudaActivations<T>& act) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.attention, pass.tokens));
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t n = pass.tokens, width = config_.width;
  RETURN_IF_ERROR(act.qkv.Reserve(n * qkv_width()));
  RETURN_IF_ERROR(act.attended.Reserve(n * q_width()));
  RETURN_IF_ERROR(act.x_mid.Reserve(n * width));
  RETURN_IF_ERROR(Linear(act.h1.data(), places.qkv, act.qkv.data(), n, qkv_width(), width));
  RETURN_IF_ERROR(PlaceQueriesAndKeys(pass, layer, act));
  if (!pass.caches.empty()) {
    const int64_t kv_width = int64_t{config_.kv_heads} * config_.head_dim;
    RETURN_IF_CUDA_ERROR(kernels::cuda::AppendToCache<T>(
        pass.caches[layer], pass.cache_rows, pass.cache_positions, act.qkv.data() + q_width(),
        act.qkv.data() + q_width() + kv_width, qkv_width(), n, stream_));
  }
  RETURN_IF_ERROR(Attend(pass, layer, act));
  return Linear(act.attended.data(), places.o, act.x_mid.data(), n, width, q_width(), act.x.data());
}

template <typename T>
absl::Status CudaModel<T>::AttentionBackward(const CudaPass<T>& pass, int layer,
                                             CudaActivations<T>& act, T* dx) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.attention, pass.tokens));
  const DeviceLayer& places = weights_.layers[layer];
  const int64_t n = pass.tokens, width = config_.width;
  RETURN_IF_ERROR(scratch_.dattended.Reserve(n * q_width()));
  RETURN_IF_ERROR(scratch_.dqkv.Reserve(n * qkv_width()));
  RETURN_IF_ERROR(scratch_.dh.Reserve(n * width));
  T *dattended = scratch_.dattended.data(), *dqkv = scratch_.dqkv.data(), *dh = scratch_.dh.data();
  RETURN_IF_ERROR(
      LinearBackward(dx, act.attended.data(), places.o, dattended, n, width, q_width(), false));
  RETURN_IF_ERROR(AttendBackward(pass, act, dattended, dqkv));
  RETURN_IF_ERROR(PlaceQueriesAndKeysBackward(pass, layer, act, dqkv));
  RETURN_IF_ERROR(LinearBackward(dqkv, act.h1.data(), places.qkv, dh, n, qkv_width(), width, false));
  RETURN_IF_CUDA_ERROR(kernels::cuda::RmsNormBackward<T>(
      {.dy = dh,
       .x = act.x.data(),
       .weight = weights_.dense.value(places.input_norm),
       .rstd = act.rstd1.data(),
       .residual = dx,
       .dx = dx,
       .dweight = weights_.dense.gradient(places.input_norm),
       .partials = scratch_.norm_partials[kSharesOfInput].data(),
       .rows = n,
       .width = width,
       .later = &scratch_.norm_shares[kSharesOfInput]},
      stream_));
  RETURN_IF_CUDA_ERROR(kernels::cuda::AddNormShares<T>(scratch_.norm_shares, stream_));
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::Linear(const T*, const Slice&, T*, int64_t, int64_t,       \
                                             int64_t, const T*);                                 \
  template absl::Status CudaModel<T>::LinearBackward(const T*, const T*, const Slice&, T*,       \
                                                     int64_t, int64_t, int64_t, bool);           \
  template absl::Status CudaModel<T>::AttentionForward(const CudaPass<T>&, int,                  \
                                                       CudaActivations<T>&);                     \
  template absl::Status CudaModel<T>::AttentionBackward(const CudaPass<T>&, int,                 \
                                                        CudaActivations<T>&, T*);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
