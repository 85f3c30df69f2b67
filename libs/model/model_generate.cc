// Sampling: prompts go through the model as one packed batch, then all sequences decode in step
// over a KV cache.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/permute.h"
#include "kernels/sampling.h"
#include "libs/base/status_macros.h"
#include "libs/model/linear.h"
#include "libs/model/model_impl.h"
#include "libs/model/random.h"

namespace espalier::model {
namespace {

absl::Status ValidateRequest(const ModelConfig& config,
                             std::span<const std::vector<int32_t>> prompts,
                             std::span<const uint64_t> streams, const SampleOptions& options) {
  if (streams.size() != prompts.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(streams.size(), " streams for ", prompts.size(), " prompts; give one each"));
  }
  if (options.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", options.max_new_tokens, "; it must be at least 1"));
  }
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", options.temperature, "; it must be 0 (greedy) or more"));
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty())
      return absl::InvalidArgumentError(absl::StrCat("prompts[", i, "] is empty"));
    for (const int32_t token : prompts[i]) {
      if (token >= 0 && token < config.vocabulary) continue;
      return absl::InvalidArgumentError(absl::StrCat("prompts[", i, "] has token ", token,
                                                     "; the vocabulary has ", config.vocabulary,
                                                     " tokens"));
    }
  }
  return absl::OkStatus();
}

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

// The sequences of one call: what each has so far, and which still go on.
struct Progress {
  explicit Progress(std::span<const std::vector<int32_t>> prompts) : samples(prompts.size()) {
    for (const std::vector<int32_t>& prompt : prompts) {
      active.push_back(static_cast<int32_t>(active.size()));
      lengths.push_back(static_cast<int32_t>(prompt.size()));
    }
  }

  std::vector<Sample> samples;
  std::vector<int32_t> active;   // sequences that go on, ascending
  std::vector<int32_t> lengths;  // tokens of each sequence that are in the cache
};

// Takes the tokens drawn for the active sequences; those that are done leave `active`.
void TakeTokens(const SampleOptions& options, std::span<const int32_t> tokens,
                std::span<const float> logps, Progress& progress) {
  size_t going_on = 0;
  for (size_t i = 0; i < progress.active.size(); ++i) {
    Sample& sample = progress.samples[progress.active[i]];
    sample.tokens.push_back(tokens[i]);
    sample.logps.push_back(logps[i]);
    if (tokens[i] == options.end_token) continue;
    if (static_cast<int>(sample.tokens.size()) == options.max_new_tokens) {
      sample.truncated = true;
      continue;
    }
    progress.active[going_on++] = progress.active[i];
  }
  progress.active.resize(going_on);
}

// What the decode step of the active sequences reads: their newest token, its position, and the
// cached length with it.
struct DecodeRows {
  std::vector<int32_t> tokens, positions, lengths;
};
DecodeRows NextRows(Progress& progress) {
  DecodeRows rows;
  for (const int32_t sequence : progress.active) {
    rows.tokens.push_back(progress.samples[sequence].tokens.back());
    rows.positions.push_back(progress.lengths[sequence]);
    rows.lengths.push_back(++progress.lengths[sequence]);
  }
  return rows;
}

// Takes the routes of a pass, `per_token` a token: of the prompts that begin at `starts`, or of one
// token of each active sequence when there are none.
void KeepRoutes(std::span<const int32_t> routes, std::span<const int64_t> starts, int64_t per_token,
                Progress& progress) {
  if (per_token == 0) return;
  for (size_t i = 0; i < progress.active.size(); ++i) {
    const int64_t first = starts.empty() ? static_cast<int64_t>(i) : starts[i];
    const int64_t end = starts.empty() ? first + 1 : starts[i + 1];
    std::vector<int32_t>& kept = progress.samples[progress.active[i]].routes;
    kept.insert(kept.end(), routes.begin() + first * per_token, routes.begin() + end * per_token);
  }
}

Batch PackPrompts(std::span<const std::vector<int32_t>> prompts) {
  Batch batch{.starts = {0}};
  for (const std::vector<int32_t>& prompt : prompts) {
    batch.tokens.insert(batch.tokens.end(), prompt.begin(), prompt.end());
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
  }
  return batch;
}

}  // namespace

template <typename T>
void ModelImpl<T>::SampleRows(std::span<const int32_t> rows, std::span<const double> uniform,
                              double temperature, std::span<int32_t> tokens,
                              std::span<float> logps) {
  const PhaseTimer timer(&seconds_.head);
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
  RETURN_IF_ERROR(Agree(ValidateRequest(config_, prompts, streams, options)));
  ClearRouteCounts();
  Progress progress(prompts);
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
