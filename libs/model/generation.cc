// Bookkeeping of sequences between two decode steps.
#include "libs/model/generation.h"

namespace espalier::model {

void TakeTokens(const SampleOptions& options, std::span<const int32_t> tokens,
                std::span<const float> logps, SampleProgress& progress) {
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

DecodeRows NextRows(SampleProgress& progress) {
  DecodeRows rows;
  for (const int32_t sequence : progress.active) {
    rows.tokens.push_back(progress.samples[sequence].tokens.back());
    rows.positions.push_back(progress.lengths[sequence]);
    rows.lengths.push_back(++progress.lengths[sequence]);
  }
  return rows;
}

void KeepRoutes(std::span<const int32_t> routes, std::span<const int64_t> starts, int64_t per_token,
                SampleProgress& progress) {
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

}  // namespace espalier::model
