// Arena<T>: the device memory of many weights together: values, gradients, the rest of their fp32 masters, and moments, each array in one
// piece of addresses. Of one size for good, or with parts that grow and shrink where they are.
#pragma once

#include <cstdint>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/reserved_memory.h"
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
  // Before AllocateRoom: addresses for `room` elements, of which none is there yet. Returns their offset.
  int64_t AddRoom(int64_t room) {
    constexpr int64_t kAlign = kernels::cuda::kReservedGranule;  // elements, so that every array's part begins with a granule
    const int64_t offset = size_;
    size_ += (room + kAlign - 1) / kAlign * kAlign;
    return offset;
  }
  // Of the addresses, where parts are resized.
  int64_t size() const { return size_; }

  // Everything zero, also between the slices, so that sums over whole arrays are those of the weights.
  absl::Status Allocate(cudaStream_t stream) {
    return Each([&](auto* array) -> absl::Status {
      using U = std::remove_reference_t<decltype(*array->data)>;
      RETURN_IF_ERROR(array->fixed.Reserve(size_));
      array->data = array->fixed.data();
      RETURN_IF_CUDA_ERROR(cudaMemsetAsync(array->data, 0, size_ * sizeof(U), stream));
      return absl::OkStatus();
    });
  }
  absl::Status AllocateRoom() {
    return Each([&](auto* array) -> absl::Status {
      using U = std::remove_reference_t<decltype(*array->data)>;
      ASSIGN_OR_RETURN(array->reserved, kernels::cuda::ReservedMemory::Reserve(
                                            size_ * static_cast<int64_t>(sizeof(U))));
      array->data = reinterpret_cast<U*>(array->reserved.data());
      return absl::OkStatus();
    });
  }
  // The part that AddRoom placed at `part.offset` has part.size elements from now on. What stays is where it was, what is new is undefined.
  // Nothing may be at work on what goes. On kResourceExhausted some arrays may be larger than before; what they held is untouched.
  absl::Status Resize(const Slice& part) {
    return Each([&](auto* array) -> absl::Status {
      using U = std::remove_reference_t<decltype(*array->data)>;
      return array->reserved.Resize(part.offset * static_cast<int64_t>(sizeof(U)),
                                    part.size * static_cast<int64_t>(sizeof(U)));
    });
  }

  // Resize to less, a piece at a time: `pause` is called after each.
  template <typename F>
  void Shrink(const Slice& part, F&& pause) {
    (void)Each([&](auto* array) -> absl::Status {
      using U = std::remove_reference_t<decltype(*array->data)>;
      while (array->reserved.ShrinkOnce(part.offset * static_cast<int64_t>(sizeof(U)),
                                        part.size * static_cast<int64_t>(sizeof(U)))) {
        pause();
      }
      return absl::OkStatus();
    });
  }

  T* value(const Slice& slice = {}) const { return values_.data + slice.offset; }
  T* gradient(const Slice& slice = {}) const { return gradients_.data + slice.offset; }
  // Null where values are masters.
  int16_t* low(const Slice& slice = {}) const { return kHalves ? lows_.data + slice.offset : nullptr; }
  float* moment1(const Slice& slice = {}) const { return moments1_.data + slice.offset; }
  float* moment2(const Slice& slice = {}) const { return moments2_.data + slice.offset; }

 private:
  // Its memory is one of the two.
  template <typename U>
  struct Array {
    kernels::cuda::Buffer<U> fixed;
    kernels::cuda::ReservedMemory reserved;
    U* data = nullptr;
  };

  template <typename F>
  absl::Status Each(F&& f) {
    RETURN_IF_ERROR(f(&values_));
    RETURN_IF_ERROR(f(&gradients_));
    if (kHalves) RETURN_IF_ERROR(f(&lows_));
    RETURN_IF_ERROR(f(&moments1_));
    return f(&moments2_);
  }

  int64_t size_ = 0;
  Array<T> values_, gradients_;
  Array<int16_t> lows_;
  Array<float> moments1_, moments2_;
};

}  // namespace espalier::model
