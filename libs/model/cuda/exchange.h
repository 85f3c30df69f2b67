// CudaExchange: token rows of one MoE layer to the ranks that hold their experts, and back, from device memory. Rows go through
// page-locked host memory and the run's Communicator; one rank alone copies nothing. Where ranks can map each other's device memory,
// PeerExchange carries them instead, and this keeps what it planned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"
#include "libs/model/expert_exchange.h"

namespace espalier::model {

// Page-locked rows on their way, shared by the layers of a model.
struct ExchangeStaging {
  kernels::cuda::PinnedBuffer<std::byte> slots, groups;
  kernels::Buffer<std::byte> wire;
};

// Orders of rows as in ExpertExchange. Not thread-safe; all methods but the constructor are collective.
class CudaExchange {
 public:
  CudaExchange(const LayerLayout& layout, collective::Communicator* communicator)
      : host_(layout, communicator), experts_(static_cast<int64_t>(layout.ids.size())) {}

  bool single() const { return host_.single(); }
  std::span<const int32_t> group_of() const { return host_.group_of(); }

  // Agrees on row counts from this rank's slot offsets on the device [experts + 1]. Waits for the stream unless single().
  absl::Status Plan(const int32_t* slot_offsets, int64_t slots, cudaStream_t stream);

  // What PeerExchange agreed on, instead of Plan.
  void TakePlan(const int32_t* group_offsets, int64_t rows) {
    group_offsets_ = group_offsets;
    rows_ = rows;
  }

  int64_t rows() const { return rows_; }                     // of the experts held here
  const int32_t* offsets() const { return group_offsets_; }  // device; of the groups held here

  // Rows of `bytes` from slot order here to group order at their experts, and back. Only when !single().
  absl::Status ToExperts(const void* slots, void* groups, int64_t bytes, ExchangeStaging& staging, cudaStream_t stream);
  absl::Status FromExperts(const void* groups, void* slots, int64_t bytes, ExchangeStaging& staging, cudaStream_t stream);

 private:
  ExpertExchange<std::byte> host_;
  int64_t experts_, slots_ = 0, rows_ = 0;
  const int32_t* group_offsets_ = nullptr;
  kernels::cuda::Buffer<int32_t> offsets_storage_;
};

}  // namespace espalier::model
