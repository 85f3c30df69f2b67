// The host half is ExpertExchange, over bytes.
#include "libs/model/cuda/exchange.h"

#include "libs/base/status_macros.h"

namespace espalier::model {

absl::Status CudaExchange::Plan(const int32_t* slot_offsets, int64_t slots, cudaStream_t stream) {
  slots_ = slots;
  if (single()) {
    rows_ = slots;
    group_offsets_ = slot_offsets;
    return absl::OkStatus();
  }
  std::vector<int32_t> narrow(experts_ + 1);
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(narrow.data(), slot_offsets, narrow.size() * sizeof(int32_t),
                                       cudaMemcpyDeviceToHost, stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  RETURN_IF_ERROR(host_.Plan(std::vector<int64_t>(narrow.begin(), narrow.end())));
  rows_ = host_.group_rows();
  const std::vector<int32_t> groups(host_.group_offsets().begin(), host_.group_offsets().end());
  RETURN_IF_ERROR(offsets_storage_.Reserve(static_cast<int64_t>(groups.size())));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(offsets_storage_.data(), groups.data(),
                                       groups.size() * sizeof(int32_t), cudaMemcpyHostToDevice,
                                       stream));
  group_offsets_ = offsets_storage_.data();
  return absl::OkStatus();
}

absl::Status CudaExchange::ToExperts(const void* slots, void* groups, int64_t bytes,
                                     ExchangeStaging& staging, cudaStream_t stream) {
  RETURN_IF_ERROR(staging.slots.Reserve(slots_ * bytes + 1));
  RETURN_IF_ERROR(staging.groups.Reserve(rows_ * bytes + 1));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(staging.slots.data(), slots, slots_ * bytes,
                                       cudaMemcpyDeviceToHost, stream));
  // Also the last copy out of `groups` of the staging must be done before it is filled again.
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  RETURN_IF_ERROR(host_.ToExperts(staging.slots.data(), staging.groups.data(), bytes, staging.wire));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(groups, staging.groups.data(), rows_ * bytes,
                                       cudaMemcpyHostToDevice, stream));
  return absl::OkStatus();
}

absl::Status CudaExchange::FromExperts(const void* groups, void* slots, int64_t bytes,
                                       ExchangeStaging& staging, cudaStream_t stream) {
  RETURN_IF_ERROR(staging.slots.Reserve(slots_ * bytes + 1));
  RETURN_IF_ERROR(staging.groups.Reserve(rows_ * bytes + 1));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(staging.groups.data(), groups, rows_ * bytes,
                                       cudaMemcpyDeviceToHost, stream));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  RETURN_IF_ERROR(
      host_.FromExperts(staging.groups.data(), staging.slots.data(), bytes, staging.wire));
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(slots, staging.slots.data(), slots_ * bytes,
                                       cudaMemcpyHostToDevice, stream));
  return absl::OkStatus();
}

}  // namespace espalier::model
