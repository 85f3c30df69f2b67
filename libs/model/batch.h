// What a model accepts as a batch, whatever the device.
#pragma once

#include <algorithm>
#include <span>

#include "absl/status/status.h"
#include "libs/collective/communicator.h"
#include "libs/model/model.h"

namespace espalier::model {

inline int64_t MoeLayers(const ModelConfig& config) {
  return std::max(0, config.layers - config.dense_layers);
}

// InvalidArgument naming the first entry of tokens, targets, starts or routes that does not fit.
absl::Status ValidateBatch(const ModelConfig& config, const ExpertLayout& layout,
                           const Batch& batch);

// The same for the prompts and options of Generate.
absl::Status ValidateSampleRequest(const ModelConfig& config,
                                   std::span<const std::vector<int32_t>> prompts,
                                   std::span<const uint64_t> streams,
                                   const SampleOptions& options);

// InvalidArgument naming the field of a configuration that no model can have.
absl::Status ValidateConfig(const ModelConfig& config);

// OK on all ranks when `mine` is OK on all; else this rank's error, or that another has one. (collective)
absl::Status AgreeOnInput(collective::Communicator& communicator, const absl::Status& mine);

}  // namespace espalier::model
