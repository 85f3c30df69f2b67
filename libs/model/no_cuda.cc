// CreateModel of a build without CUDA.
#include "libs/model/model.h"

namespace espalier::model {
namespace {

absl::Status NoCuda() {
  return absl::UnavailableError(
      "this build has no CUDA: build where nvcc is found (cmake says \"CUDA: TRUE\"), or train with --device cpu");
}

}  // namespace

absl::StatusOr<std::string> DescribeDevice(Device device, int) {
  if (device == Device::kCuda) return NoCuda();
  return "cpu";
}

absl::StatusOr<std::unique_ptr<Model<float>>> CreateModel(const ModelConfig& config,
                                                          const ExpertLayout& layout,
                                                          collective::Communicator* communicator,
                                                          uint64_t seed,
                                                          const ModelOptions& options) {
  if (options.device == Device::kCuda) return NoCuda();
  if (options.precision != Precision::kFp32) {
    return absl::InvalidArgumentError("precision bf16 needs --device cuda; CPUs train in fp32");
  }
  if (options.recompute) {
    return absl::InvalidArgumentError("workers.recompute needs --device cuda; on CPUs leave it out");
  }
  return Model<float>::Create(config, layout, communicator, seed, options.threads);
}

}  // namespace espalier::model
