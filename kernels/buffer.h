// Buffer<T>: memory for activations that is reused from step to step: it grows and never shrinks.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace espalier::kernels {

// Not thread-safe. Contents are undefined after a Get that grows.
template <typename T>
class Buffer {
 public:
  // At least n elements, 64-byte aligned; never null.
  T* Get(int64_t n) {
    if (n > capacity_ || data_ == nullptr) {
      const int64_t wanted = n + n / 8 + 1;  // ragged batches differ a little from step to step
      const size_t bytes =
          (static_cast<size_t>(wanted) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
      data_.reset();
      data_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = wanted;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace espalier::kernels
