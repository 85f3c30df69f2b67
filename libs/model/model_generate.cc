// Sampling: prompts go through the model as one packed batch, then all sequences decode in step
// over a KV cache.
#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/permute.h"
#include "kernels/sampling.h"
#include "libs/base/status_macros.h"
#include "libs/model/batch.h"
#include "libs/model/generation.h"
#include "libs/model/linear.h"
#include "libs/model/model_impl.h"
#include "libs/model/random.h"

namespace espalier::model {
namespace {

// The KV caches of all layers in one allocation.
template <typename T>
std::vector<kernels::KvCache<T>> MakeCaches(const ModelConfig& config, int64_t sequences,
                                            int64_t capacity, kernels::Buffer<T>& storage) {
  const int64_t elements = sequences * config.kv_heads * config.head_dim * capacity;
  T* at = storage.Get(2 * elements * config.layers);
  std::vector<kernels::KvCache<T>> caches;
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
void ModelImpl<T>::SampleRows(std::span<const int32_t> rows, std::span<const double> uniform,
                              double temperature, std::span<int32_t> tokens,
                              std::span<float> logps) {
  const PhaseTimer timer(clock_, Phase::kHead);
  const int64_t count = static_cast<int64_t>(rows.size());
  T* hidden = head_hidden_.Get(count * config_.width);
  kernels::GatherRows(hidden_.data(), rows.data(), hidden, count, config_.width, pool_);
  T* logits = logits_.Get(count * config_.vocabulary);
  Linear(hidden, weights_.head(), logits, count, Write::kReplace, pool_);
  kernels::SampleTokens(kernels::SampleArgs<T>{.logits = logits,
                                               .uniform = uniform.data(),
                                               .token = tokens.data(),
                                               .logp = logps.data(),
                                               .rows = count,
                                               .vocabulary = config_.vocabulary,
                                               .temperature = temperature},
                        scratch_.wide, pool_);
}

template <typename T>
absl::StatusOr<std::vector<Sample>> ModelImpl<T>::Generate(
    std::span<const std::vector<int32_t>> prompts, std::span<const uint64_t> streams,
    const SampleOptions& options) {
  RETURN_IF_ERROR(Agree(ValidateSampleRequest(config_, prompts, streams, options)));
  ClearRouteCounts();
  SampleProgress progress(prompts);
  const Batch batch = PackPrompts(prompts);
  Pass<T> prefill = PackedPass(batch);
  int64_t longest = 1;
  for (const int32_t length : progress.lengths) longest = std::max<int64_t>(longest, length);
  const int64_t capacity = longest + options.max_new_tokens;
  rope_.Reserve(capacity);
  kernels::Buffer<T> cache_storage;
  const std::vector<kernels::KvCache<T>> caches =
      MakeCaches(config_, static_cast<int64_t>(prompts.size()), capacity, cache_storage);
  prefill.caches = caches;
  const int64_t routes_a_token = options.record_routes ? moe_layers() * config_.top_k : 0;
  std::vector<int32_t> routes(batch.tokens.size() * routes_a_token);
  prefill.routes = routes;
  RETURN_IF_ERROR(RunLayers(prefill, batch.tokens, Keep::kNothing));
  KeepRoutes(routes, batch.starts, routes_a_token, progress);

  // The rows of hidden_ that predict the next token of each active sequence: the last of each
  // prompt, later all.
  std::vector<int32_t> rows(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    rows[i] = static_cast<int32_t>(batch.starts[i + 1] - 1);
  for (uint64_t step = 0;; ++step) {
    const size_t count = progress.active.size();
    std::vector<double> uniform(count);
    for (size_t i = 0; i < count; ++i) {
      uniform[i] = CounterRandom(options.seed, streams[progress.active[i]]).Uniform(step);
    }
    std::vector<int32_t> tokens(count);
    std::vector<float> logps(count);
    SampleRows(rows, uniform, options.temperature, std::span<int32_t>(tokens),
               std::span<float>(logps));
    TakeTokens(options, tokens, logps, progress);
    // Ranks whose sequences are done still hold experts that the others need.
    int64_t anywhere = static_cast<int64_t>(progress.active.size());
    if (communicator_->size() > 1)
      RETURN_IF_ERROR(communicator_->AllReduceSum(std::span<int64_t>(&anywhere, 1)));
    if (anywhere == 0) return std::move(progress.samples);

    const DecodeRows next = NextRows(progress);
    const Pass<T> decode{.tokens = static_cast<int64_t>(next.tokens.size()),
                         .positions = next.positions,
                         .caches = caches,
                         .cache_rows = progress.active,
                         .lengths = next.lengths,
                         .routes = std::span(routes).first(next.tokens.size() * routes_a_token)};
    RETURN_IF_ERROR(RunLayers(decode, next.tokens, Keep::kNothing));
    KeepRoutes(routes, {}, routes_a_token, progress);
    rows.resize(next.tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
  }
}

#define ESPALIER_INSTANTIATE(T)                                        \
  template absl::StatusOr<std::vector<Sample>> ModelImpl<T>::Generate( \
      std::span<const std::vector<int32_t>>, std::span<const uint64_t>, const SampleOptions&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
