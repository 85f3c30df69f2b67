// What every CUDA file of ours stands on: errors, streams, events and device memory. Plain C++: no kernel is in here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::kernels::cuda {

// kResourceExhausted when memory ran out, kUnavailable when there is no device or driver, else kInternal; `what` says what was tried.
absl::Status ToStatus(cudaError_t error, const char* what);

#define RETURN_IF_CUDA_ERROR(expression)                                                      \
  do {                                                                                        \
    if (const cudaError_t cuda_error_ = (expression); cuda_error_ != cudaSuccess) {           \
      return ::espalier::kernels::cuda::ToStatus(cuda_error_, #expression);                   \
    }                                                                                         \
  } while (0)

struct DeviceInfo {
  std::string name;
  int index = 0;
  int major = 0, minor = 0;   // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  bool hopper() const { return major == 9; }
};

// Makes `index` the current device of the calling thread. kUnavailable says what is missing (driver, device) and what
// to do. A build with CUDA starts on a machine without any: only this call fails there.
absl::StatusOr<DeviceInfo> UseDevice(int index);
// Devices that the driver shows; 0 without driver.
int DeviceCount();

// Move-only handle of the C kind.
template <typename Handle, auto Destroy>
class UniqueHandle {
 public:
  UniqueHandle() = default;
  explicit UniqueHandle(Handle handle) : handle_(handle) {}
  UniqueHandle(UniqueHandle&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~UniqueHandle() {
    if (handle_ != Handle{}) Destroy(handle_);
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_{};
};

using Stream = UniqueHandle<cudaStream_t, cudaStreamDestroy>;
using Event = UniqueHandle<cudaEvent_t, cudaEventDestroy>;
absl::StatusOr<Stream> MakeStream();  // non-blocking
absl::StatusOr<Event> MakeEvent();    // with timing

// Bytes of device memory that this process's Memory and ReservedMemory hold now, and the most they ever held. Thread-safe.
int64_t DeviceBytes();
int64_t DeviceBytesPeak();
// For whoever takes memory from the driver: so much more is held.
void CountDeviceBytes(int64_t more);

// Raw device memory; freed with the object. Not thread-safe.
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();
  static absl::StatusOr<Memory> Allocate(int64_t bytes);
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Device memory for activations that is reused from step to step: it grows (an eighth more than asked for) and never
// shrinks. Contents are undefined after a Reserve that grows. Growing synchronises the device. Not thread-safe.
template <typename T>
class Buffer {
 public:
  absl::Status Reserve(int64_t n) {
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    if (memory_.data() != nullptr && bytes <= memory_.bytes()) return absl::OkStatus();
    const int64_t wanted = memory_.data() == nullptr ? bytes : bytes + bytes / 8;
    memory_ = Memory();
    absl::StatusOr<Memory> memory = Memory::Allocate(wanted < 256 ? 256 : wanted);
    if (!memory.ok()) return memory.status();
    memory_ = *std::move(memory);
    return absl::OkStatus();
  }
  T* data() const { return static_cast<T*>(memory_.data()); }
  int64_t capacity() const { return memory_.bytes() / static_cast<int64_t>(sizeof(T)); }
  void Free() { memory_ = Memory(); }

 private:
  Memory memory_;
};

// Page-locked host memory of n elements, for copies that do not block. Grows like Buffer.
template <typename T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() {
    if (data_ != nullptr) cudaFreeHost(data_);
  }
  absl::Status Reserve(int64_t n) {
    if (data_ != nullptr && n <= capacity_) return absl::OkStatus();
    if (data_ != nullptr) cudaFreeHost(data_);
    data_ = nullptr;
    const int64_t wanted = n + n / 8 + 1;
    RETURN_IF_CUDA_ERROR(cudaMallocHost(reinterpret_cast<void**>(&data_), wanted * sizeof(T)));
    capacity_ = wanted;
    return absl::OkStatus();
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace espalier::kernels::cuda
