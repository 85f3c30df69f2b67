// Forward and backward passes over a packed batch.
#include <algorithm>
#include <cstring>

#include "kernels/embedding.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "libs/base/status_macros.h"
#include "libs/model/attention_block.h"
#include "libs/model/batch.h"
#include "libs/model/model_impl.h"

namespace espalier::model {
template <typename T>
Pass<T> ModelImpl<T>::PackedPass(const Batch& batch) {
  positions_.resize(batch.tokens.size());
  int64_t longest = 1;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    const int64_t start = batch.starts[i], length = batch.starts[i + 1] - start;
    for (int64_t position = 0; position < length; ++position) {
      positions_[start + position] = static_cast<int32_t>(position);
    }
    longest = std::max(longest, length);
  }
  rope_.Reserve(longest);
  return Pass<T>{.tokens = static_cast<int64_t>(batch.tokens.size()),
                 .positions = positions_,
                 .starts = batch.starts,
                 .given_routes = batch.routes};
}

template <typename T>
absl::Status ModelImpl<T>::RunLayers(const Pass<T>& pass, std::span<const int32_t> tokens,
                                     Keep keep) {
  const int64_t elements = pass.tokens * config_.width;
  const Context<T> context = this->context();
  kernels::Embed(weights_.embedding.value.data(), tokens.data(),
                 activations(0, keep).x.Get(elements), pass.tokens, config_.width, pool_);
  clock_.backward = false;
  for (int layer = 0; layer < config_.layers; ++layer) {
    clock_.layer = layer;
    AttentionForward(context, pass, layer, weights_.layers[layer], activations(layer, keep));
    kernels::Buffer<T>& next =
        layer + 1 < config_.layers ? activations(layer + 1, keep).x : last_x_;
    GiveRoutes(pass, layer, activations(layer, keep));
    RETURN_IF_ERROR(FeedForwardForward(context, feed_forward(layer, keep), pass.tokens,
                                       next.Get(elements), route_counts_[layer]));
    TakeRoutes(pass, layer, activations(layer, keep));
  }
  clock_.layer = -1;
  const PhaseTimer timer(clock_, Phase::kHead);
  kernels::RmsNorm(kernels::RmsNormArgs<T>{.x = last_x_.data(),
                                           .weight = weights_.final_norm.value.data(),
                                           .y = hidden_.Get(elements),
                                           .rstd = last_rstd_.Get(pass.tokens),
                                           .rows = pass.tokens,
                                           .width = config_.width,
                                           .eps = config_.rms_eps},
                   pool_);
  return absl::OkStatus();
}

template <typename T>
absl::Status ModelImpl<T>::RunLayersBackward(const Pass<T>& pass, std::span<const int32_t> tokens,
                                             double aux_scale) {
  const int64_t elements = pass.tokens * config_.width;
  const Context<T> context = this->context();
  T* dx = dx_.Get(elements);
  std::memset(dx, 0, elements * sizeof(T));
  {
    const PhaseTimer timer(clock_, Phase::kHead);
    kernels::RmsNormBackward(
        kernels::RmsNormBackwardArgs<T>{.dy = dhidden_.data(),
                                        .x = last_x_.data(),
                                        .weight = weights_.final_norm.value.data(),
                                        .rstd = last_rstd_.data(),
                                        .dx = dx,
                                        .dweight = weights_.final_norm.grad.data(),
                                        .rows = pass.tokens,
                                        .width = config_.width},
        scratch_.norm, pool_);
  }
  for (int layer = config_.layers - 1; layer >= 0; --layer) {
    clock_.layer = layer;
    RETURN_IF_ERROR(FeedForwardBackward(context, feed_forward(layer, Keep::kAllLayers), pass.tokens,
                                        dx, route_counts_[layer], aux_scale, &aux_loss_));
    AttentionBackward(context, pass, weights_.layers[layer], activations(layer, Keep::kAllLayers),
                      dx);
  }
  clock_.layer = -1;
  const PhaseTimer timer(clock_, Phase::kHead);
  kernels::EmbedBackward(dx, tokens.data(), weights_.embedding.grad.data(), pass.tokens,
                         config_.width, pool_);
  return absl::OkStatus();
}

template <typename T>
kernels::HeadArgs<T> ModelImpl<T>::HeadArgsOf(int64_t rows) {
  return {.hidden = head_all_rows_ ? hidden_.data() : head_hidden_.data(),
          .weight = weights_.head().value.data(),
          .targets = head_targets_.data(),
          .logp = head_logp_.Get(rows),
          .lse = head_lse_.Get(rows),
          .rows = rows,
          .width = config_.width,
          .vocabulary = config_.vocabulary};
}

template <typename T>
void ModelImpl<T>::RunHead(const Batch& batch, bool keep_logits, T* logps, T* entropies) {
  const PhaseTimer timer(clock_, Phase::kHead);
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  head_rows_.clear();
  head_targets_.clear();
  for (int64_t row = 0; row < tokens; ++row) {
    if (batch.targets[row] < 0 && entropies == nullptr) continue;
    head_rows_.push_back(static_cast<int32_t>(row));
    head_targets_.push_back(batch.targets[row]);
  }
  const int64_t rows = static_cast<int64_t>(head_rows_.size());
  head_all_rows_ = rows == tokens;
  if (!head_all_rows_) {
    kernels::GatherRows(hidden_.data(), head_rows_.data(), head_hidden_.Get(rows * config_.width),
                        rows, config_.width, pool_);
  }
  kernels::HeadArgs<T> args = HeadArgsOf(rows);
  args.entropy = entropies;
  args.keep = keep_logits;
  kernels::Head(args, logits_, pool_);
  std::fill(logps, logps + tokens, T(0));
  for (int64_t i = 0; i < rows; ++i) logps[head_rows_[i]] = args.logp[i];
}

template <typename T>
void ModelImpl<T>::RunHeadBackward(const Batch& batch, std::span<const T> dlogps) {
  const PhaseTimer timer(clock_, Phase::kHead);
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size()),
                rows = static_cast<int64_t>(head_rows_.size());
  const int64_t width = config_.width;
  T* dlogp = head_dlogp_.Get(rows);
  for (int64_t i = 0; i < rows; ++i) dlogp[i] = dlogps[head_rows_[i]];
  kernels::HeadArgs<T> args = HeadArgsOf(rows);
  args.keep = true;
  T* dhidden = dhidden_.Get(tokens * width);
  T* dhead = head_all_rows_ ? dhidden : head_dhidden_.Get(rows * width);
  kernels::HeadBackward(args, dlogp, dhead, weights_.head().grad.data(), logits_, pool_);
  if (head_all_rows_) return;
  std::memset(dhidden, 0, tokens * width * sizeof(T));
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(dhidden + head_rows_[i] * width, dhead + i * width, width * sizeof(T));
  }
}

template <typename T>
absl::Status ModelImpl<T>::Forward(const Batch& batch, std::vector<T>* logps,
                                   std::vector<T>* entropies) {
  RETURN_IF_ERROR(Agree(ValidateBatch(config_, layout_, batch)));
  ClearRouteCounts();
  const Pass<T> pass = PackedPass(batch);
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, Keep::kNothing));
  logps->resize(batch.tokens.size());
  if (entropies != nullptr) entropies->resize(batch.tokens.size());
  RunHead(batch, /*keep_logits=*/false, logps->data(),
          entropies == nullptr ? nullptr : entropies->data());
  return absl::OkStatus();
}

template <typename T>
absl::Status ModelImpl<T>::ForwardBackward(const Batch& batch, const LossFunction& loss,
                                           T aux_scale) {
  RETURN_IF_ERROR(Agree(ValidateBatch(config_, layout_, batch)));
  ClearRouteCounts();
  aux_loss_ = 0;
  const Pass<T> pass = PackedPass(batch);
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, Keep::kAllLayers));
  std::vector<T> logps(batch.tokens.size()), dlogps(batch.tokens.size(), T(0));
  RunHead(batch, /*keep_logits=*/true, logps.data(), nullptr);
  loss(logps, dlogps);
  clock_.backward = true;
  RunHeadBackward(batch, dlogps);
  return RunLayersBackward(pass, batch.tokens,
                           config_.aux_loss == 0 ? 0.0 : static_cast<double>(aux_scale));
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template Pass<T> ModelImpl<T>::PackedPass(const Batch&);                                       \
  template absl::Status ModelImpl<T>::RunLayers(const Pass<T>&, std::span<const int32_t>, Keep); \
  template absl::Status ModelImpl<T>::Forward(const Batch&, std::vector<T>*, std::vector<T>*);   \
  template absl::Status ModelImpl<T>::ForwardBackward(const Batch&, const LossFunction&, T);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
