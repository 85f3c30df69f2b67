// Arena<T>: the device memory of many weights together: values, gradients, the rest of their fp32 masters, and moments, each array in one
// piece.
#pragma once

#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"
#include "libs/base/status_macros.h"

namespace espalier::model {

// Elements [offset, offset + size) of every array of an arena.
struct Slice {
  int64_t offset = 0, size = 0;
};

// T is what products read: __nv_bfloat16, the upper half of a fp32 master whose lower half stands beside it (kernels/cuda/adamw.h), or
// float, the master itself. Not thread-safe.
template <typename T>
class Arena {
 public:
  static constexpr bool kHalves = !std::is_same_v<T, float>;

  // Before Allocate. Aligned to 256 elements.
  Slice Add(int64_t size) {
    constexpr int64_t kAlign = 256;
    const Slice slice{size_, size};
    size_ += (size + kAlign - 1) / kAlign * kAlign;
    return slice;
  }
  int64_t size() const { return size_; }

  // Everything zero, also between the slices, so that sums over whole arrays are those of the weights.
  absl::Status Allocate(cudaStream_t stream) {
    RETURN_IF_ERROR(Zeroed(values_, stream));
    RETURN_IF_ERROR(Zeroed(gradients_, stream));
    if (kHalves) RETURN_IF_ERROR(Zeroed(lows_, stream));
    RETURN_IF_ERROR(Zeroed(moments1_, stream));
    return Zeroed(moments2_, stream);
  }

  T* value(const Slice& slice = {}) const { return values_.data() + slice.offset; }
  T* gradient(const Slice& slice = {}) const { return gradients_.data() + slice.offset; }
  // Null where values are masters.
  int16_t* low(const Slice& slice = {}) const { return kHalves ? lows_.data() + slice.offset : nullptr; }
  float* moment1(const Slice& slice = {}) const { return moments1_.data() + slice.offset; }
  float* moment2(const Slice& slice = {}) const { return moments2_.data() + slice.offset; }

 private:
  template <typename U>
  absl::Status Zeroed(kernels::cuda::Buffer<U>& buffer, cudaStream_t stream) {
    RETURN_IF_ERROR(buffer.Reserve(size_));
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(buffer.data(), 0, size_ * sizeof(U), stream));
    return absl::OkStatus();
  }

  int64_t size_ = 0;
  kernels::cuda::Buffer<T> values_, gradients_;
  kernels::cuda::Buffer<int16_t> lows_;
  kernels::cuda::Buffer<float> moments1_, moments2_;
};

}  // namespace espalier::model
