// Every refusal names the entry, what it is and what would be accepted.
#include "libs/model/batch.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"

namespace espalier::model {
namespace {

absl::Status ValidateStarts(const Batch& batch) {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  if (batch.starts.empty() || batch.starts.front() != 0 || batch.starts.back() != tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch.starts must begin with 0 and end with the token count, ", tokens));
  }
  if (!std::is_sorted(batch.starts.begin(), batch.starts.end())) {
    return absl::InvalidArgumentError("batch.starts must not fall");
  }
  return absl::OkStatus();
}

absl::Status ValidateTokens(const ModelConfig& config, const Batch& batch) {
  RETURN_IF_ERROR(ValidateStarts(batch));
  if (batch.targets.size() != batch.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("batch.targets has ", batch.targets.size(),
                                                   " entries for ", batch.tokens.size(),
                                                   " tokens; give one each, -1 for none"));
  }
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    const int32_t token = batch.tokens[i], target = batch.targets[i];
    if (token < 0 || token >= config.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("batch.tokens[", i, "] is ", token,
                                                     "; the vocabulary has ", config.vocabulary,
                                                     " tokens"));
    }
    if (target < -1 || target >= config.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("batch.targets[", i, "] is ", target,
                                                     "; it must be -1 or one of ",
                                                     config.vocabulary, " tokens"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateRoutes(const ModelConfig& config, const ExpertLayout& layout,
                            const Batch& batch) {
  if (batch.routes.empty()) return absl::OkStatus();
  const int64_t top_k = config.top_k, layers = MoeLayers(config);
  const int64_t expected = static_cast<int64_t>(batch.tokens.size()) * layers * top_k;
  if (static_cast<int64_t>(batch.routes.size()) != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "batch.routes has ", batch.routes.size(), " entries for ", batch.tokens.size(),
        " tokens; give ", layers * top_k, " a token (MoE layers times top_k), or none"));
  }
  for (int64_t at = 0; at < expected; at += top_k) {
    const int layer = config.dense_layers + static_cast<int>(at / top_k % layers);
    const auto experts = static_cast<int32_t>(layout.layers[layer].ids.size());
    const int32_t* choice = batch.routes.data() + at;
    for (int64_t k = 0; k < top_k; ++k) {
      if (choice[k] < 0 || choice[k] >= experts) {
        return absl::InvalidArgumentError(absl::StrCat("batch.routes[", at + k, "] is ", choice[k],
                                                       "; layer ", layer, " has ", experts,
                                                       " experts"));
      }
      if (std::find(choice, choice + k, choice[k]) != choice + k) {
        return absl::InvalidArgumentError(
            absl::StrCat("batch.routes[", at + k, "] is ", choice[k],
                         ", which the token is sent to already; its experts must differ"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status AtLeast(const char* field, int value, int least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model.", field, " is ", value, "; it must be at least ", least));
}

}  // namespace

absl::Status ValidateBatch(const ModelConfig& config, const ExpertLayout& layout,
                           const Batch& batch) {
  RETURN_IF_ERROR(ValidateTokens(config, batch));
  return ValidateRoutes(config, layout, batch);
}

absl::Status ValidateSampleRequest(const ModelConfig& config,
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

absl::Status ValidateConfig(const ModelConfig& config) {
  RETURN_IF_ERROR(AtLeast("vocabulary", config.vocabulary, 1));
  RETURN_IF_ERROR(AtLeast("layers", config.layers, 1));
  RETURN_IF_ERROR(AtLeast("width", config.width, 1));
  RETURN_IF_ERROR(AtLeast("heads", config.heads, 1));
  RETURN_IF_ERROR(AtLeast("kv_heads", config.kv_heads, 1));
  RETURN_IF_ERROR(AtLeast("head_dim", config.head_dim, 2));
  RETURN_IF_ERROR(AtLeast("dense_layers", config.dense_layers, 0));
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model.heads is ", config.heads, "; it must be a multiple of kv_heads, ", config.kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.head_dim is ", config.head_dim, "; it must be even"));
  }
  if (config.dense_layers > 0) RETURN_IF_ERROR(AtLeast("dense_width", config.dense_width, 1));
  if (config.dense_layers < config.layers) {
    RETURN_IF_ERROR(AtLeast("expert_width", config.expert_width, 1));
    RETURN_IF_ERROR(AtLeast("top_k", config.top_k, 1));
    RETURN_IF_ERROR(AtLeast("experts", config.experts, config.top_k));
  }
  return absl::OkStatus();
}

absl::Status AgreeOnInput(collective::Communicator& communicator, const absl::Status& mine) {
  if (communicator.size() == 1) return mine;
  int64_t fine = mine.ok() ? 1 : 0;
  RETURN_IF_ERROR(communicator.AllReduceMin(std::span<int64_t>(&fine, 1)));
  if (!mine.ok() || fine == 1) return mine;
  return absl::InvalidArgumentError("another rank refused its input; see its error");
}

}  // namespace espalier::model
