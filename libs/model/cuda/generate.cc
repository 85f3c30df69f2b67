// Sampling on the device: prompts go through the model as one packed batch, then all sequences decode in step over a KV cache.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/permute.h"
#include "kernels/cuda/sampling.h"
#include "libs/model/batch.h"
#include "libs/model/cuda/cuda_model.h"
#include "libs/model/generation.h"
#include "libs/model/random.h"

namespace espalier::model {
namespace {

// The KV caches of all layers in one allocation.
template <typename T>
absl::StatusOr<std::vector<kernels::cuda::KvCache<T>>> MakeCaches(const ModelConfig& config,
                                                                  int64_t sequences,
                                                                  int64_t capacity,
                                                                  Buffer<T>& storage) {
  const int64_t elements = sequences * config.kv_heads * config.head_dim * capacity;
  RETURN_IF_ERROR(storage.Reserve(2 * elements * config.layers + 1));
  T* at = storage.data();
  std::vector<kernels::cuda::KvCache<T>> caches;
  for (int layer = 0; layer < config.layers; ++layer) {
    caches.push_back({.keys = at,
                      .values = at + elements,
                      .capacity = capacity,
                      .kv_heads = config.kv_heads,
                      .head_dim = config.head_dim});
    at += 2 * elements;
  }
  return caches;
}

}  // namespace

template <typename T>
absl::Status CudaModel<T>::SampleRows(std::span<const int32_t> rows,
                                      std::span<const double> uniform, double temperature,
                                      std::span<int32_t> tokens, std::span<float> logps) {
  RETURN_IF_ERROR(timeline_->Mark(&seconds_.head));
  const int64_t count = static_cast<int64_t>(rows.size());
  RETURN_IF_ERROR(Upload(rows, head_index_));
  RETURN_IF_ERROR(Upload(uniform, uniform_));
  RETURN_IF_ERROR(head_hidden_.Reserve(count * config_.width + 1));
  RETURN_IF_ERROR(drawn_.Reserve(count + 1));
  RETURN_IF_ERROR(drawn_logp_.Reserve(count + 1));
  RETURN_IF_CUDA_ERROR(kernels::cuda::GatherRows<T>(hidden_.data(), head_index_.data(),
                                                    head_hidden_.data(), count, config_.width,
                                                    stream_));
  RETURN_IF_ERROR(LogitsOf(head_hidden_.data(), count));
  RETURN_IF_CUDA_ERROR(kernels::cuda::SampleTokens<T>({.logits = logits_.data(),
                                                       .uniform = uniform_.data(),
                                                       .token = drawn_.data(),
                                                       .logp = drawn_logp_.data(),
                                                       .rows = count,
                                                       .vocabulary = config_.vocabulary,
                                                       .temperature = temperature},
                                                      stream_));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(tokens.data(), drawn_.data(), tokens.size_bytes(),
                                       cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(logps.data(), drawn_logp_.data(), logps.size_bytes(),
                                       cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_ERROR(timeline_->Mark(nullptr));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  return timeline_->Collect();
}

template <typename T>
absl::StatusOr<std::vector<Sample>> CudaModel<T>::Generate(
    std::span<const std::vector<int32_t>> prompts, std::span<const uint64_t> streams,
    const SampleOptions& options) {
  RETURN_IF_ERROR(AgreeOnInput(*communicator_,
                               ValidateSampleRequest(config_, prompts, streams, options)));
  RETURN_IF_ERROR(UploadTables());
  SampleProgress progress(prompts);
  const Batch batch = PackPrompts(prompts);
  ASSIGN_OR_RETURN(CudaPass<T> prefill, PackedPass(batch));
  int64_t longest = 1;
  for (const int32_t length : progress.lengths) longest = std::max<int64_t>(longest, length);
  const int64_t capacity = longest + options.max_new_tokens;
  RETURN_IF_ERROR(ReserveRope(capacity));
  Buffer<T> cache_storage;
  ASSIGN_OR_RETURN(
      const std::vector<kernels::cuda::KvCache<T>> caches,
      MakeCaches(config_, static_cast<int64_t>(prompts.size()), capacity, cache_storage));
  std::vector<int32_t> cache_rows, cache_positions;
  for (size_t i = 0; i < prompts.size(); ++i) {
    cache_rows.insert(cache_rows.end(), prompts[i].size(), static_cast<int32_t>(i));
    for (size_t at = 0; at < prompts[i].size(); ++at) {
      cache_positions.push_back(static_cast<int32_t>(at));
    }
  }
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(cache_rows), cache_rows_));
  RETURN_IF_ERROR(Upload(std::span<const int32_t>(cache_positions), cache_positions_));
  prefill.caches = caches;
  prefill.cache_rows = cache_rows_.data();
  prefill.cache_positions = cache_positions_.data();
  const int64_t routes_a_token = options.record_routes ? MoeLayers(config_) * config_.top_k : 0;
  std::vector<int32_t> routes(batch.tokens.size() * routes_a_token);
  prefill.routes = routes;
  RETURN_IF_ERROR(RunLayers(prefill, batch.tokens, Keep::kNothing));
  KeepRoutes(routes, batch.starts, routes_a_token, progress);

  std::vector<int32_t> rows(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    rows[i] = static_cast<int32_t>(batch.starts[i + 1] - 1);
  // Route counts of each pass add up.
  std::vector<LayerRouteCounts> total_counts;
  std::vector<LayerOutputNorms> total_norms;
  const auto add_counts = [&]() -> absl::Status {
    RETURN_IF_ERROR(FetchCounts());
    if (total_counts.empty()) {
      total_counts = route_counts_;
      total_norms = output_norms_;
    } else {
      for (size_t layer = 0; layer < total_counts.size(); ++layer) {
        for (size_t i = 0; i < total_counts[layer].size(); ++i) {
          total_counts[layer][i] += route_counts_[layer][i];
          if (measure_norms_) total_norms[layer][i] = output_norms_[layer][i];  // added up there
        }
      }
    }
    return absl::OkStatus();
  };
  for (uint64_t step = 0;; ++step) {
    const size_t count = progress.active.size();
    std::vector<double> uniform(count);
    for (size_t i = 0; i < count; ++i) {
      uniform[i] = CounterRandom(options.seed, streams[progress.active[i]]).Uniform(step);
    }
    std::vector<int32_t> tokens(count);
    std::vector<float> logps(count);
    RETURN_IF_ERROR(SampleRows(rows, uniform, options.temperature, std::span<int32_t>(tokens),
                               std::span<float>(logps)));
    RETURN_IF_ERROR(add_counts());
    TakeTokens(options, tokens, logps, progress);
    // Ranks whose sequences are done still hold experts that the others need.
    int64_t anywhere = static_cast<int64_t>(progress.active.size());
    if (communicator_->size() > 1)
      RETURN_IF_ERROR(communicator_->AllReduceSum(std::span<int64_t>(&anywhere, 1)));
    if (anywhere == 0) break;

    const std::vector<int32_t> sequences = progress.active;
    const DecodeRows next = NextRows(progress);
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(next.tokens), tokens_));
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(next.positions), positions_));
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(next.lengths), lengths_));
    RETURN_IF_ERROR(Upload(std::span<const int32_t>(sequences), cache_rows_));
    CudaPass<T> decode;
    decode.tokens = static_cast<int64_t>(next.tokens.size());
    decode.positions = positions_.data();
    decode.caches = caches;
    decode.cache_rows = cache_rows_.data();
    decode.cache_positions = positions_.data();
    decode.lengths = lengths_.data();
    decode.decode = true;
    decode.routes = std::span(routes).first(next.tokens.size() * routes_a_token);
    RETURN_IF_ERROR(RunLayers(decode, next.tokens, Keep::kNothing));
    KeepRoutes(routes, {}, routes_a_token, progress);
    rows.resize(next.tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
  }
  if (!total_counts.empty()) {
    route_counts_ = std::move(total_counts);
    output_norms_ = std::move(total_norms);
  }
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  return std::move(progress.samples);
}

#define ESPALIER_INSTANTIATE(T)                                         \
  template absl::StatusOr<std::vector<Sample>> CudaModel<T>::Generate( \
      std::span<const std::vector<int32_t>>, std::span<const uint64_t>, const SampleOptions&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
