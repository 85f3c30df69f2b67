// Norm, projections, rotation, attention and the output projection; packed or one step of decoding.
#include "libs/model/attention_block.h"

#include <cstring>

#include "kernels/norm.h"
#include "libs/model/linear.h"

namespace espalier::model {
namespace {

template <typename T>
kernels::AttentionArgs<T> PackedArgs(const ModelConfig& config, const Pass<T>& pass,
                                     const LayerActivations<T>& act) {
  return {.q = act.q.data(),
          .k = act.k.data(),
          .v = act.v.data(),
          .out = act.attended.data(),
          .lse = act.lse.data(),
          .starts = pass.starts,
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim};
}

template <typename T>
void AppendNewKeys(const Pass<T>& pass, const kernels::KvCache<T>& cache, const T* k, const T* v) {
  const int64_t kv_width = cache.kv_heads * cache.head_dim;
  if (pass.decode()) {
    for (int64_t row = 0; row < pass.tokens; ++row) {
      kernels::AppendToCache(cache, pass.cache_rows[row], pass.lengths[row] - 1, k + row * kv_width,
                             v + row * kv_width, 1);
    }
    return;
  }
  for (size_t i = 0; i + 1 < pass.starts.size(); ++i) {
    const int64_t start = pass.starts[i];
    kernels::AppendToCache(cache, static_cast<int64_t>(i), 0, k + start * kv_width,
                           v + start * kv_width, pass.starts[i + 1] - start);
  }
}

// Rows of `width` elements that the norm of queries or keys works on: heads, or whole tokens.
struct NormRows {
  int64_t rows, width;
};
NormRows NormRowsOf(const ModelConfig& config, int64_t tokens, int heads) {
  if (config.qk_norm == QkNorm::kHead) return {tokens * heads, config.head_dim};
  return {tokens, int64_t{heads} * config.head_dim};
}

// y = the projection of queries or keys, normalised; what was projected stays in `raw` for the way back.
template <typename T>
void ProjectAndNorm(const Context<T>& context, const T* h, const Parameter<T>& projection,
                    const Parameter<T>& norm, int heads, int64_t tokens, kernels::Buffer<T>& raw,
                    kernels::Buffer<T>& rstd, T* y) {
  const NormRows shape = NormRowsOf(context.config, tokens, heads);
  T* x = raw.Get(shape.rows * shape.width);
  Linear(h, projection, x, tokens, Write::kReplace, context.pool);
  kernels::RmsNorm(kernels::RmsNormArgs<T>{.x = x,
                                           .weight = norm.value.data(),
                                           .y = y,
                                           .rstd = rstd.Get(shape.rows),
                                           .rows = shape.rows,
                                           .width = shape.width,
                                           .eps = context.config.rms_eps},
                   context.pool);
}

// The gradient of what ProjectAndNorm projected, in `draw`.
template <typename T>
const T* NormBackward(const Context<T>& context, const T* dy, const kernels::Buffer<T>& raw,
                      const kernels::Buffer<T>& rstd, Parameter<T>& norm, int heads, int64_t tokens,
                      kernels::Buffer<T>& draw) {
  const NormRows shape = NormRowsOf(context.config, tokens, heads);
  T* dx = draw.Get(shape.rows * shape.width);
  std::memset(dx, 0, shape.rows * shape.width * sizeof(T));
  kernels::RmsNormBackward(kernels::RmsNormBackwardArgs<T>{.dy = dy,
                                                           .x = raw.data(),
                                                           .weight = norm.value.data(),
                                                           .rstd = rstd.data(),
                                                           .dx = dx,
                                                           .dweight = norm.grad.data(),
                                                           .rows = shape.rows,
                                                           .width = shape.width},
                           context.scratch.norm, context.pool);
  return dx;
}

}  // namespace

template <typename T>
void AttentionForward(const Context<T>& context, const Pass<T>& pass, int layer,
                      const LayerWeights<T>& weights, LayerActivations<T>& act) {
  const PhaseTimer timer(context.clock, Phase::kAttention);
  const ModelConfig& config = context.config;
  const int64_t n = pass.tokens, width = config.width;
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  const T* x = act.x.Get(n * width);
  T* h = act.h1.Get(n * width);
  kernels::RmsNorm(kernels::RmsNormArgs<T>{.x = x,
                                           .weight = weights.input_norm.value.data(),
                                           .y = h,
                                           .rstd = act.rstd1.Get(n),
                                           .rows = n,
                                           .width = width,
                                           .eps = config.rms_eps},
                   context.pool);
  T* q = act.q.Get(n * q_width);
  T* k = act.k.Get(n * kv_width);
  T* v = act.v.Get(n * kv_width);
  if (config.qk_norm == QkNorm::kNone) {
    Linear(h, weights.q, q, n, Write::kReplace, context.pool);
    Linear(h, weights.k, k, n, Write::kReplace, context.pool);
  } else {
    ProjectAndNorm(context, h, weights.q, weights.q_norm, config.heads, n, act.q_raw, act.q_rstd,
                   q);
    ProjectAndNorm(context, h, weights.k, weights.k_norm, config.kv_heads, n, act.k_raw, act.k_rstd,
                   k);
  }
  Linear(h, weights.v, v, n, Write::kReplace, context.pool);
  const int32_t* positions = pass.positions.data();
  kernels::Rope(q, n, config.heads, positions, context.rope, kernels::RopeDirection::kForward,
                context.pool);
  kernels::Rope(k, n, config.kv_heads, positions, context.rope, kernels::RopeDirection::kForward,
                context.pool);

  T* attended = act.attended.Get(n * q_width);
  act.lse.Get(n * config.heads);
  if (!pass.caches.empty()) AppendNewKeys(pass, pass.caches[layer], k, v);
  if (pass.decode()) {
    kernels::AttentionDecode(pass.caches[layer], q, pass.cache_rows, pass.lengths, config.heads,
                             attended, context.scratch.attention, context.pool);
  } else {
    kernels::Attention(PackedArgs(config, pass, act), context.scratch.attention, context.pool);
  }
  T* x_mid = act.x_mid.Get(n * width);
  std::memcpy(x_mid, x, n * width * sizeof(T));
  Linear(attended, weights.o, x_mid, n, Write::kAdd, context.pool);
}

template <typename T>
void AttentionBackward(const Context<T>& context, const Pass<T>& pass, LayerWeights<T>& weights,
                       LayerActivations<T>& act, T* dx) {
  const PhaseTimer timer(context.clock, Phase::kAttention);
  const ModelConfig& config = context.config;
  Scratch<T>& scratch = context.scratch;
  const int64_t n = pass.tokens, width = config.width;
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  T* dattended = scratch.dattended.Get(n * q_width);
  LinearBackward(dx, act.attended.data(), weights.o, dattended, n, Write::kReplace, context.pool);

  T* dq = scratch.dq.Get(n * q_width);
  T* dk = scratch.dk.Get(n * kv_width);
  T* dv = scratch.dv.Get(n * kv_width);
  kernels::AttentionBackward(
      kernels::AttentionBackwardArgs<T>{.forward = PackedArgs(config, pass, act),
                                        .dout = dattended,
                                        .dq = dq,
                                        .dk = dk,
                                        .dv = dv,
                                        .delta = scratch.delta.Get(n * config.heads)},
      scratch.attention, context.pool);
  const int32_t* positions = pass.positions.data();
  kernels::Rope(dq, n, config.heads, positions, context.rope, kernels::RopeDirection::kBackward,
                context.pool);
  kernels::Rope(dk, n, config.kv_heads, positions, context.rope, kernels::RopeDirection::kBackward,
                context.pool);

  T* dh = scratch.dh.Get(n * width);
  const T* h = act.h1.data();
  const T *dq_raw = dq, *dk_raw = dk;
  if (config.qk_norm != QkNorm::kNone) {
    dq_raw = NormBackward(context, dq, act.q_raw, act.q_rstd, weights.q_norm, config.heads, n,
                          scratch.dq_raw);
    dk_raw = NormBackward(context, dk, act.k_raw, act.k_rstd, weights.k_norm, config.kv_heads, n,
                          scratch.dk_raw);
  }
  LinearBackward(dq_raw, h, weights.q, dh, n, Write::kReplace, context.pool);
  LinearBackward(dk_raw, h, weights.k, dh, n, Write::kAdd, context.pool);
  LinearBackward(dv, h, weights.v, dh, n, Write::kAdd, context.pool);
  kernels::RmsNormBackward(
      kernels::RmsNormBackwardArgs<T>{.dy = dh,
                                      .x = act.x.data(),
                                      .weight = weights.input_norm.value.data(),
                                      .rstd = act.rstd1.data(),
                                      .dx = dx,
                                      .dweight = weights.input_norm.grad.data(),
                                      .rows = n,
                                      .width = width},
      scratch.norm, context.pool);
}

#define ESPALIER_INSTANTIATE(T)                                                           \
  template void AttentionForward<T>(const Context<T>&, const Pass<T>&, int,               \
                                    const LayerWeights<T>&, LayerActivations<T>&);        \
  template void AttentionBackward<T>(const Context<T>&, const Pass<T>&, LayerWeights<T>&, \
                                     LayerActivations<T>&, T*);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
