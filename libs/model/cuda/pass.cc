// Forward and backward passes over a packed batch, and what a pass needs on the device.
#include <algorithm>
#include <cstring>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"
#include "libs/model/batch.h"
#include "libs/model/cuda/cuda_model.h"

namespace espalier::model {

using kernels::cuda::AttentionShape;

template <typename T>
template <typename U>
absl::Status CudaModel<T>::Upload(std::span<const U> values, Buffer<U>& device) {
  constexpr int64_t kRingBytes = int64_t{64} << 20, kAlign = 256;
  RETURN_IF_ERROR(device.Reserve(static_cast<int64_t>(values.size()) + 1));
  const auto bytes = static_cast<int64_t>(values.size_bytes());
  if (upload_ring_used_ + bytes > upload_ring_bytes_) {
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    upload_ring_used_ = 0;
    if (bytes > upload_ring_bytes_ || upload_ring_bytes_ == 0) {
      upload_ring_bytes_ = std::max(kRingBytes, 2 * bytes);
      RETURN_IF_ERROR(upload_ring_.Reserve(upload_ring_bytes_));
    }
  }
  std::byte* staged = upload_ring_.data() + upload_ring_used_;
  upload_ring_used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  std::memcpy(staged, values.data(), bytes);
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(device.data(), staged, bytes, cudaMemcpyHostToDevice, stream_));
  return absl::OkStatus();
}

// Sequences of one length go to cuDNN as they are; ragged ones are padded to the longest unless that would do more
// than twice the work. A padded row comes after its sequence, so that no token sees it.
template <typename T>
AttentionWay CudaModel<T>::ChooseWay(std::span<const int64_t> starts, AttentionShape* shape) {
  if (attention_ == nullptr || starts.size() < 2) return AttentionWay::kPlain;
  int64_t longest = 0, shortest = starts.back(), sequences = 0;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t length = starts[i + 1] - starts[i];
    longest = std::max(longest, length);
    shortest = std::min(shortest, length);
    ++sequences;
  }
  *shape = AttentionShape{.batch = sequences,
                          .length = longest,
                          .heads = config_.heads,
                          .kv_heads = config_.kv_heads,
                          .head_dim = config_.head_dim};
  if (longest == shortest && longest % 64 == 0 && attention_->Supports(*shape)) {
    return AttentionWay::kEqual;
  }
  // Coarse sizes, so that few plans serve all batches.
  shape->length = (longest + 63) / 64 * 64;
  int64_t batch = 1;
  while (batch < sequences) batch += std::max<int64_t>(1, batch / 4);
  shape->batch = batch;
  if (shape->batch * shape->length > 2 * starts.back() + 4096) return AttentionWay::kPlain;
  return attention_->Supports(*shape) ? AttentionWay::kPadded : AttentionWay::kPlain;
}

template <typename T>
absl::Status CudaModel<T>::PlanPadding(std::span<const int64_t> starts, CudaPass<T>& pass) {
  const int64_t length = pass.shape.length;
  std::vector<int32_t> source(pass.shape.batch * length, -1), place(pass.tokens);
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    for (int64_t row = starts[i]; row < starts[i + 1]; ++row) {
      const int64_t at = static_cast<int64_t>(i) * length + row - starts[i];
      source[at] = static_cast<int32_t>(row);
      place[row] = static_cast<int32_t>(at);
    }
  }
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(source), pad_source_));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(place), pad_place_));
  pass.pad_source = pad_source_.data();
  pass.pad_place = pad_place_.data();
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<CudaPass<T>> CudaModel<T>::PackedPass(const Batch& batch) {
  CudaPass<T> pass;
  pass.tokens = static_cast<int64_t>(batch.tokens.size());
  pass.given_routes = batch.routes;
  std::vector<int32_t> positions(pass.tokens), first(pass.tokens), last(pass.tokens);
  int64_t longest = 1;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    const int64_t start = batch.starts[i], end = batch.starts[i + 1];
    for (int64_t row = start; row < end; ++row) {
      positions[row] = static_cast<int32_t>(row - start);
      first[row] = static_cast<int32_t>(start);
      last[row] = static_cast<int32_t>(end);
    }
    longest = std::max(longest, end - start);
  }
  RETURN_IF_ERROR(ReserveRope(longest));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(batch.tokens), tokens_));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(positions), positions_));
  pass.positions = positions_.data();
  pass.way = ChooseWay(batch.starts, &pass.shape);
  if (pass.way == AttentionWay::kPlain) {
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(first), first_of_));
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(last), last_of_));
    pass.first_of = first_of_.data();
    pass.last_of = last_of_.data();
  }
  if (pass.way == AttentionWay::kPadded) RETURN_IF_ERROR(PlanPadding(batch.starts, pass));
  return pass;
}

template <typename T>
absl::Status CudaModel<T>::ReserveRope(int64_t positions) {
  if (positions <= rope_positions_) return absl::OkStatus();
  const int64_t elements = positions * (config_.head_dim / 2);
  RETURN_IF_ERROR(rope_cos_.Reserve(elements));
  RETURN_IF_ERROR(rope_sin_.Reserve(elements));
  RETURN_IF_CUDA_ERROR(kernels::cuda::FillRopeTable(rope_cos_.data(), rope_sin_.data(), positions,
                                                    config_.head_dim, config_.rope_theta, stream_));
  rope_positions_ = positions;
  return absl::OkStatus();
}

// Selection biases, when somebody changed one, and counters at zero.
template <typename T>
absl::Status CudaModel<T>::UploadTables() {
  const int64_t cells = int64_t{config_.layers} * config_.experts;
  std::vector<float> bias(cells, 0.0f);
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    const std::vector<float>& ours = host_.layers[layer].selection_bias;
    std::copy(ours.begin(), ours.end(), bias.begin() + int64_t{layer} * config_.experts);
  }
  if (bias != bias_sent_) {
    RETURN_IF_ERROR(Upload(std::span<const float>(bias), bias_));
    bias_sent_ = std::move(bias);
  }
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(counts_.data(), 0, cells * sizeof(int32_t), stream_));
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(aux_sum_.data(), 0, sizeof(float), stream_));
  if (measure_norms_) {
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(norm_sums_.data(), 0, cells * sizeof(int64_t), stream_));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::GiveRoutes(const CudaPass<T>& pass, int layer, CudaActivations<T>& act) {
  act.choice_given = !pass.given_routes.empty();
  if (!act.choice_given || !config_.IsMoe(layer)) return absl::OkStatus();
  const int64_t top_k = config_.top_k, stride = MoeLayers(config_) * top_k;
  std::vector<int32_t> choice(pass.tokens * top_k);
  for (int64_t token = 0; token < pass.tokens; ++token) {
    std::copy_n(pass.given_routes.data() + token * stride + (layer - config_.dense_layers) * top_k,
                top_k, choice.data() + token * top_k);
  }
  return Upload(std::span<const int32_t>(choice), act.choice);
}

template <typename T>
absl::Status CudaModel<T>::TakeRoutes(const CudaPass<T>& pass, int layer,
                                      const CudaActivations<T>& act) {
  if (pass.routes.empty() || !config_.IsMoe(layer)) return absl::OkStatus();
  const int64_t top_k = config_.top_k, stride = MoeLayers(config_) * top_k;
  std::vector<int32_t> choice(pass.tokens * top_k);
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(choice.data(), act.choice.data(),
                                       choice.size() * sizeof(int32_t), cudaMemcpyDeviceToHost,
                                       stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  for (int64_t token = 0; token < pass.tokens; ++token) {
    std::copy_n(choice.data() + token * top_k, top_k,
                pass.routes.data() + token * stride + (layer - config_.dense_layers) * top_k);
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<typename CudaModel<T>::NextNorm> CudaModel<T>::NormBefore(int layer, int64_t tokens,
                                                                         Keep keep) {
  if (layer == config_.layers) {
    RETURN_IF_ERROR(hidden_.Reserve(tokens * config_.width));
    RETURN_IF_ERROR(last_rstd_.Reserve(tokens));
    return NextNorm{weights_.dense.value(weights_.final_norm), hidden_.data(), last_rstd_.data()};
  }
  CudaActivations<T>& act = activations(layer, keep);
  RETURN_IF_ERROR(act.h1.Reserve(tokens * config_.width));
  RETURN_IF_ERROR(act.rstd1.Reserve(tokens));
  return NextNorm{weights_.dense.value(weights_.layers[layer].input_norm), act.h1.data(),
                  act.rstd1.data()};
}

template <typename T>
absl::Status CudaModel<T>::Norm(const T* x, const NextNorm& norm, int64_t rows) {
  RETURN_IF_CUDA_ERROR(kernels::cuda::RmsNorm<T>({.x = x,
                                                  .weight = norm.weight,
                                                  .y = norm.y,
                                                  .rstd = norm.rstd,
                                                  .rows = rows,
                                                  .width = config_.width,
                                                  .eps = static_cast<float>(config_.rms_eps)},
                                                 stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::RunLayers(const CudaPass<T>& pass, std::span<const int32_t> tokens,
                                     Keep keep) {
  const int64_t elements = pass.tokens * config_.width;
  again_ = false;  // an error may have ended the last pass anywhere
  timeline_->SetPlace(-1, /*backward=*/false);
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.head, pass.tokens));
  Buffer<T>& first = input(0, keep);
  RETURN_IF_ERROR(first.Reserve(elements));
  RETURN_IF_CUDA_ERROR(kernels::cuda::Embed<T>(weights_.dense.value(weights_.embedding),
                                               tokens_.data(), first.data(), pass.tokens,
                                               config_.width, stream_));
  ASSIGN_OR_RETURN(const NextNorm first_norm, NormBefore(0, pass.tokens, keep));
  RETURN_IF_ERROR(Norm(first.data(), first_norm, pass.tokens));
  RETURN_IF_ERROR(last_x_.Reserve(elements));
  for (int layer = 0; layer < config_.layers; ++layer) {
    CudaActivations<T>& act = activations(layer, keep);
    timeline_->SetPlace(layer, /*backward=*/false);
    SwapInput(layer, keep);
    RETURN_IF_ERROR(GiveRoutes(pass, layer, act));
    RETURN_IF_ERROR(AttentionForward(pass, layer, act));
    // With one set of activations for all layers, x and h1 are free once x_mid is made.
    Buffer<T>& next = layer + 1 < config_.layers ? input(layer + 1, keep) : last_x_;
    RETURN_IF_ERROR(next.Reserve(elements));
    ASSIGN_OR_RETURN(const NextNorm norm, NormBefore(layer + 1, pass.tokens, keep));
    RETURN_IF_ERROR(FeedForwardForward(pass, layer, act, next.data(), norm));
    RETURN_IF_ERROR(TakeRoutes(pass, layer, act));
    SwapInput(layer, keep);
  }
  timeline_->SetPlace(-1, /*backward=*/false);
  return timeline_->Mark(&seconds_.head);
}

template <typename T>
absl::Status CudaModel<T>::ComputeAgain(const CudaPass<T>& pass, int layer,
                                        CudaActivations<T>& act) {
  timeline_->SetPlace(layer, /*backward=*/true);
  again_ = true;
  ASSIGN_OR_RETURN(const NextNorm norm, NormBefore(layer, pass.tokens, Keep::kInputs));
  RETURN_IF_ERROR(Norm(act.x.data(), norm, pass.tokens));
  RETURN_IF_ERROR(GiveRoutes(pass, layer, act));
  RETURN_IF_ERROR(AttentionForward(pass, layer, act));
  RETURN_IF_ERROR(FeedForwardForward(pass, layer, act, /*x_out=*/nullptr, {}));
  again_ = false;
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::RunLayersBackward(const CudaPass<T>& pass,
                                             std::span<const int32_t> tokens, float aux_scale) {
  const int64_t elements = pass.tokens * config_.width;
  RETURN_IF_ERROR(dx_.Reserve(elements));
  for (const int which : {kSharesOfInput, kSharesOfPost}) {
    RETURN_IF_ERROR(scratch_.norm_partials[which].Reserve(int64_t{kernels::cuda::kNormPartials} *
                                                          config_.width));
  }
  RETURN_IF_CUDA_ERROR(kernels::cuda::RmsNormBackward<T>(
      {.dy = dhidden_.data(),
       .x = last_x_.data(),
       .weight = weights_.dense.value(weights_.final_norm),
       .rstd = last_rstd_.data(),
       .dx = dx_.data(),
       .dweight = weights_.dense.gradient(weights_.final_norm),
       .partials = scratch_.norm_partials[kSharesOfInput].data(),
       .rows = pass.tokens,
       .width = config_.width},
      stream_));
  for (int layer = config_.layers - 1; layer >= 0; --layer) {
    const Keep keep = keep_for_training();
    CudaActivations<T>& act = activations(layer, keep);
    SwapInput(layer, keep);
    if (keep == Keep::kInputs) RETURN_IF_ERROR(ComputeAgain(pass, layer, act));
    timeline_->SetPlace(layer, /*backward=*/true);
    RETURN_IF_ERROR(FeedForwardBackward(pass, layer, act, dx_.data(), aux_scale));
    RETURN_IF_ERROR(AttentionBackward(pass, layer, act, dx_.data()));
    SwapInput(layer, keep);
  }
  timeline_->SetPlace(-1, /*backward=*/true);
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.head));
  RETURN_IF_ERROR(EmbeddingGradient(tokens, dx_.data()));
  return timeline_->Mark(nullptr);
}

template <typename T>
absl::Status CudaModel<T>::TellTimeline() {
  if (recorded_ == nullptr || !recorded_->wanted()) return absl::OkStatus();
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  const int64_t now = Timeline::Now();  // the last mark was just passed
  const auto phase_of = [&](const double* total) {
    if (total == &seconds_.attention) return Phase::kAttention;
    if (total == &seconds_.router) return Phase::kRouter;
    if (total == &seconds_.dispatch) return Phase::kDispatch;
    if (total == &seconds_.experts) return Phase::kExperts;
    return total == &seconds_.combine ? Phase::kCombine : Phase::kHead;
  };
  RETURN_IF_ERROR(timeline_->Visit([&](const double* total, int layer, bool backward, int64_t rows,
                                       double begin, double end) {
    recorded_->Add({.start_nanos = now - static_cast<int64_t>(begin * 1e9),
                    .end_nanos = now - static_cast<int64_t>(end * 1e9),
                    .tokens = rows,
                    .layer = layer,
                    .phase = phase_of(total),
                    .backward = backward});
  }));
  return timeline_->Collect();
}

template <typename T>
absl::Status CudaModel<T>::EmbeddingGradient(std::span<const int32_t> tokens, const T* dx) {
  std::vector<int32_t> order(tokens.size());
  // A counting sort by token keeps rows in order; vocabularies are small beside the work of a step.
  std::vector<int32_t> begin(config_.vocabulary + 1, 0), distinct, starts;
  for (const int32_t token : tokens) ++begin[token + 1];
  for (int token = 0; token < config_.vocabulary; ++token) {
    if (begin[token + 1] > 0) {
      distinct.push_back(token);
      starts.push_back(begin[token]);
    }
    begin[token + 1] += begin[token];
  }
  starts.push_back(static_cast<int32_t>(tokens.size()));
  for (size_t row = 0; row < tokens.size(); ++row) {
    order[begin[tokens[row]]++] = static_cast<int32_t>(row);
  }
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(distinct), embed_distinct_));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(starts), embed_starts_));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(order), embed_order_));
  // A head of its own writes elsewhere: then nothing but these rows has a gradient.
  if (!config_.tie_embeddings) {
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(weights_.dense.gradient(weights_.embedding), 0,
                                         weights_.embedding.size * sizeof(T), stream_));
  }
  RETURN_IF_CUDA_ERROR(kernels::cuda::EmbedBackward<T>(
      {.dout = dx,
       .distinct = embed_distinct_.data(),
       .starts = embed_starts_.data(),
       .order = embed_order_.data(),
       .dtable = weights_.dense.gradient(weights_.embedding),
       .distinct_count = static_cast<int64_t>(distinct.size()),
       .width = config_.width},
      stream_));
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::SendCounts() {
  const int64_t cells = int64_t{config_.layers} * config_.experts;
  RETURN_IF_ERROR(host_counts_.Reserve(cells));
  RETURN_IF_ERROR(host_norms_.Reserve(cells));
  RETURN_IF_ERROR(host_aux_.Reserve(1));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host_counts_.data(), counts_.data(), cells * sizeof(int32_t),
                                       cudaMemcpyDeviceToHost, stream_));
  if (measure_norms_) {
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host_norms_.data(), norm_sums_.data(),
                                         cells * sizeof(int64_t), cudaMemcpyDeviceToHost, stream_));
  }
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host_aux_.data(), aux_sum_.data(), sizeof(float),
                                       cudaMemcpyDeviceToHost, stream_));
  return absl::OkStatus();
}

template <typename T>
void CudaModel<T>::TakeCounts() {
  aux_loss_ = *host_aux_.data() * static_cast<float>(config_.aux_loss);
  route_counts_.assign(config_.layers, {});
  output_norms_.assign(measure_norms_ ? config_.layers : 0, {});
  for (int layer = 0; layer < config_.layers; ++layer) {
    const int64_t at = int64_t{layer} * config_.experts;
    const int32_t* counts = host_counts_.data() + at;
    route_counts_[layer].assign(counts, counts + experts(layer));
    if (!measure_norms_) continue;
    const int64_t* norms = host_norms_.data() + at;
    output_norms_[layer].assign(norms, norms + experts(layer));
  }
}

template <typename T>
absl::Status CudaModel<T>::FetchCounts() {
  RETURN_IF_ERROR(SendCounts());
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (peers_ != nullptr) RETURN_IF_ERROR(peers_->Check());
  TakeCounts();
  return absl::OkStatus();
}

template <typename T>
absl::Status CudaModel<T>::Forward(const Batch& batch, std::vector<float>* logps,
                                   std::vector<float>* entropies) {
  RETURN_IF_ERROR(AgreeOnInput(*communicator_, ValidateBatch(config_, layout_, batch)));
  RETURN_IF_ERROR(UploadTables());
  ASSIGN_OR_RETURN(const CudaPass<T> pass, PackedPass(batch));
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, Keep::kNothing));
  logps->resize(batch.tokens.size());
  if (entropies != nullptr) entropies->resize(batch.tokens.size());
  RETURN_IF_ERROR(RunHead(batch, /*keep_logits=*/false, *logps,
                          entropies == nullptr ? std::span<float>() : std::span<float>(*entropies)));
  RETURN_IF_ERROR(timeline_->Mark(nullptr));
  RETURN_IF_ERROR(FetchCounts());
  return timeline_->Collect();
}

template <typename T>
absl::StatusOr<CudaPass<T>> CudaModel<T>::BeginTraining(const Batch& batch) {
  RETURN_IF_ERROR(AgreeOnInput(*communicator_, ValidateBatch(config_, layout_, batch)));
  if (!gradients_clear_) {
    return absl::FailedPreconditionError(
        "a model on a GPU writes its gradients: call ZeroGradients before each ForwardBackward");
  }
  gradients_clear_ = false;
  if (recorded_ != nullptr && recorded_->wanted()) timeline_->WantDetail();
  RETURN_IF_ERROR(UploadTables());
  ASSIGN_OR_RETURN(const CudaPass<T> pass, PackedPass(batch));
  if (pass.tokens == 0) RETURN_IF_ERROR(ClearGradients());
  return pass;
}

template <typename T>
absl::Status CudaModel<T>::ForwardBackward(const Batch& batch, const LossFunction& loss,
                                           float aux_scale) {
  ASSIGN_OR_RETURN(const CudaPass<T> pass, BeginTraining(batch));
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, keep_for_training()));
  std::vector<float> logps(batch.tokens.size()), dlogps(batch.tokens.size(), 0.0f);
  RETURN_IF_ERROR(SendCounts());
  RETURN_IF_ERROR(RunHead(batch, /*keep_logits=*/true, logps, {}));
  TakeCounts();
  loss(logps, dlogps);
  RETURN_IF_ERROR(RunHeadBackward(batch, dlogps));
  RETURN_IF_ERROR(
      RunLayersBackward(pass, batch.tokens, aux_scale * static_cast<float>(config_.aux_loss)));
  return TellTimeline();
}

template <typename T>
absl::Status CudaModel<T>::ForwardBackwardLinear(const Batch& batch, std::span<const float> dlogps,
                                                 float aux_scale, std::vector<float>* logps) {
  if (dlogps.size() != batch.tokens.size()) {
    return absl::InvalidArgumentError("dlogps must have an entry for each token of the batch");
  }
  ASSIGN_OR_RETURN(const CudaPass<T> pass, BeginTraining(batch));
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, keep_for_training()));
  RETURN_IF_ERROR(SendCounts());
  RETURN_IF_ERROR(RunHeadLinear(batch, dlogps));
  RETURN_IF_CUDA_ERROR(cudaEventRecord(sent_.get(), stream_));
  RETURN_IF_ERROR(
      RunLayersBackward(pass, batch.tokens, aux_scale * static_cast<float>(config_.aux_loss)));
  // The device is in its backward pass while the host takes over what it sent before.
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(sent_.get()));
  TakeCounts();
  logps->assign(batch.tokens.size(), 0.0f);
  for (size_t i = 0; i < head_rows_.size(); ++i) (*logps)[head_rows_[i]] = host_logp_.data()[i];
  return TellTimeline();
}

// A rank without tokens still takes part in the exchange, but some products write nothing.
template <typename T>
absl::Status CudaModel<T>::ClearGradients() {
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(weights_.dense.gradient(), 0,
                                       weights_.dense.size() * sizeof(T), stream_));
  for (int layer = config_.dense_layers; layer < config_.layers; ++layer) {
    const DeviceLayer& places = weights_.layers[layer];
    for (const Slice& slice : {places.gate_up, places.down}) {
      RETURN_IF_CUDA_ERROR(cudaMemsetAsync(weights_.experts[layer].gradient(slice), 0,
                                           slice.size * sizeof(T), stream_));
    }
  }
  RETURN_IF_CUDA_ERROR(
      cudaMemsetAsync(expert_squares_.data(), 0, squares_size() * sizeof(double), stream_));
  return absl::OkStatus();
}

#define ESPALIER_INSTANTIATE(T)                                                                  \
  template absl::Status CudaModel<T>::Upload(std::span<const int32_t>, Buffer<int32_t>&);        \
  template absl::Status CudaModel<T>::Upload(std::span<const float>, Buffer<float>&);            \
  template absl::Status CudaModel<T>::Upload(std::span<const double>, Buffer<double>&);          \
  template absl::StatusOr<CudaPass<T>> CudaModel<T>::PackedPass(const Batch&);                   \
  template absl::Status CudaModel<T>::ReserveRope(int64_t);                                      \
  template absl::Status CudaModel<T>::UploadTables();                                            \
  template absl::Status CudaModel<T>::Norm(const T*, const NextNorm&, int64_t);                  \
  template absl::Status CudaModel<T>::RunLayers(const CudaPass<T>&, std::span<const int32_t>,    \
                                                Keep);                                           \
  template absl::Status CudaModel<T>::FetchCounts();                                             \
  template absl::Status CudaModel<T>::Forward(const Batch&, std::vector<float>*,                 \
                                              std::vector<float>*);                              \
  template absl::Status CudaModel<T>::ForwardBackward(const Batch&, const LossFunction&, float); \
  template absl::Status CudaModel<T>::ForwardBackwardLinear(                                     \
      const Batch&, std::span<const float>, float, std::vector<float>*);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
