// Sampling: prompts go through the model as one packed batch, then all sequences decode in step
// over a KV cache.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/loops.h"
#include "kernels/matmul.h"
#include "kernels/permute.h"
#include "libs/base/status_macros.h"
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

struct Choice {
  int32_t token;
  double logp;
};

// Draws from one row of logits with the random number `uniform` in (0, 1); `weights` is scratch
// [vocabulary].
template <typename T>
Choice Draw(const T* logits, int64_t vocabulary, double temperature, double uniform, T* weights) {
  const kernels::Loops<T>& loops = kernels::BestLoops<T>();
  int64_t token = 0;
  if (temperature == 0) {
    token = std::max_element(logits, logits + vocabulary) - logits;
  } else {
    double rest = uniform * loops.sampling_weights(logits, vocabulary,
                                                   static_cast<T>(1.0 / temperature), weights);
    // Rounding may leave a little over at the end: the last token with any weight takes it.
    for (int64_t i = 0; i < vocabulary; ++i) {
      if (weights[i] <= 0) continue;
      token = i;
      rest -= weights[i];
      if (rest < 0) break;
    }
  }
  return {static_cast<int32_t>(token),
          static_cast<double>(logits[token]) - loops.log_sum_exp(logits, vocabulary, nullptr)};
}

}  // namespace

template <typename T>
absl::StatusOr<std::vector<Sample>> ModelImpl<T>::Generate(
    std::span<const std::vector<int32_t>> prompts, std::span<const uint64_t> streams,
    const SampleOptions& options) {
  RETURN_IF_ERROR(Agree(ValidateRequest(config_, prompts, streams, options)));
  ClearRouteCounts();
  const int64_t sequences = static_cast<int64_t>(prompts.size()), vocabulary = config_.vocabulary;
  Batch batch{.starts = {0}};
  size_t longest = 1;
  for (const std::vector<int32_t>& prompt : prompts) {
    batch.tokens.insert(batch.tokens.end(), prompt.begin(), prompt.end());
    batch.starts.push_back(static_cast<int64_t>(batch.tokens.size()));
    longest = std::max(longest, prompt.size());
  }
  const int64_t capacity = static_cast<int64_t>(longest) + options.max_new_tokens;
  kernels::Buffer<T> cache_storage;
  const std::vector<kernels::KvCache<T>> caches =
      MakeCaches(config_, sequences, capacity, cache_storage);
  Pass<T> pass = PackedPass(batch);
  pass.caches = caches;
  rope_.Reserve(capacity);
  RETURN_IF_ERROR(RunLayers(pass, batch.tokens, Keep::kNothing));

  // The rows of hidden_ that predict the next token of each active sequence: the last of each
  // prompt, later all.
  std::vector<int32_t> active(sequences), lengths(sequences), rows(sequences), tokens(sequences),
      positions;
  for (int64_t i = 0; i < sequences; ++i) {
    active[i] = static_cast<int32_t>(i);
    lengths[i] = static_cast<int32_t>(prompts[i].size());
    rows[i] = static_cast<int32_t>(batch.starts[i + 1] - 1);
  }
  std::vector<Sample> samples(sequences);
  kernels::Buffer<T> hidden, weights;
  T* weight_rows = weights.Get(vocabulary * pool_.threads());
  for (int step = 0;; ++step) {
    const int64_t count = static_cast<int64_t>(active.size());
    {
      const PhaseTimer timer(&seconds_.head);
      T* last = hidden.Get(count * config_.width);
      kernels::GatherRows(hidden_.data(), rows.data(), last, count, config_.width, pool_);
      T* logits = logits_.Get(count * vocabulary);
      kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kNT,
                                             .a = last,
                                             .b = weights_.head().value.data(),
                                             .c = logits,
                                             .m = count,
                                             .n = vocabulary,
                                             .k = config_.width},
                      pool_);
      pool_.ForTasks(count, [&](int64_t row, int thread) {
        Sample& sample = samples[active[row]];
        const double uniform = CounterRandom(options.seed, streams[active[row]]).Uniform(step);
        const Choice choice = Draw(logits + row * vocabulary, vocabulary, options.temperature,
                                   uniform, weight_rows + thread * vocabulary);
        sample.tokens.push_back(choice.token);
        sample.logps.push_back(static_cast<float>(choice.logp));
      });
    }
    // Those that go on move to the front.
    int64_t going_on = 0;
    for (const int32_t sequence : active) {
      Sample& sample = samples[sequence];
      if (sample.tokens.back() == options.end_token) continue;
      if (step + 1 == options.max_new_tokens) {
        sample.truncated = true;
        continue;
      }
      active[going_on++] = sequence;
    }
    active.resize(going_on);
    // Ranks whose sequences are done still hold experts that the others need.
    int64_t anywhere = going_on;
    if (communicator_->size() > 1)
      RETURN_IF_ERROR(communicator_->AllReduceSum(std::span<int64_t>(&anywhere, 1)));
    if (anywhere == 0) return samples;

    tokens.resize(going_on);
    rows.resize(going_on);
    positions.resize(going_on);
    std::vector<int32_t> cached(going_on);
    for (int64_t i = 0; i < going_on; ++i) {
      const int32_t sequence = active[i];
      tokens[i] = samples[sequence].tokens.back();
      positions[i] = lengths[sequence];
      cached[i] = ++lengths[sequence];
      rows[i] = static_cast<int32_t>(i);
    }
    const Pass<T> decode{.tokens = going_on,
                         .positions = positions,
                         .caches = caches,
                         .cache_rows = active,
                         .lengths = cached};
    RETURN_IF_ERROR(RunLayers(decode, tokens, Keep::kNothing));
  }
}

#define ESPALIER_INSTANTIATE(T)                                        \
  template absl::StatusOr<std::vector<Sample>> ModelImpl<T>::Generate( \
      std::span<const std::vector<int32_t>>, std::span<const uint64_t>, const SampleOptions&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::model
