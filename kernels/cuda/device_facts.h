// What launches ask about the current device, asked of the driver once a device.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

namespace espalier::kernels::cuda {

struct DeviceFacts {
  int multiprocessors = 0;
  int major = 0, minor = 0;  // compute capability
};

// Thread-safe.
[[nodiscard]] cudaError_t CurrentDeviceFacts(DeviceFacts& facts);

// Something that must be done once for every device, such as raising a kernel's shared memory. Thread-safe: two threads may
// both do it, so it must do no harm twice. It is done again after a failure.
class OncePerDevice {
 public:
  template <typename Function>
  cudaError_t Do(Function&& function) {
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
    const uint64_t bit = uint64_t{1} << (device % 64);
    if (device < 64 && (done_.load(std::memory_order_acquire) & bit) != 0) return cudaSuccess;
    const cudaError_t error = function();
    if (error == cudaSuccess) done_.fetch_or(bit, std::memory_order_release);
    return error;
  }

 private:
  std::atomic<uint64_t> done_{0};
};

}  // namespace espalier::kernels::cuda
