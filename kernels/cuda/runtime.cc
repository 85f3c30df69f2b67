// The driver is reached through the CUDA runtime, which opens it when the first call is made.
#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"

namespace espalier::kernels::cuda {
namespace {

std::atomic<int64_t> held_bytes{0}, peak_bytes{0};

}  // namespace

absl::Status ToStatus(cudaError_t error, const char* what) {
  const std::string message = absl::StrCat("CUDA: ", cudaGetErrorString(error), " (", what, ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

int DeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

absl::StatusOr<DeviceInfo> UseDevice(int index) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::UnavailableError(
        absl::StrCat("no NVIDIA GPU can be used here (", cudaGetErrorString(error),
                     "): install the driver, expose the device to this process, or train with --device cpu"));
  }
  if (index < 0 || index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("GPU ", index, " was asked for; this machine shows ", count, ", numbered from 0"));
  }
  RETURN_IF_CUDA_ERROR(cudaSetDevice(index));
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, index));
  DeviceInfo info;
  info.name = properties.name;
  info.index = index;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

absl::StatusOr<Stream> MakeStream() {
  cudaStream_t stream;
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

absl::StatusOr<Event> MakeEvent() {
  cudaEvent_t event;
  RETURN_IF_CUDA_ERROR(cudaEventCreate(&event));
  return Event(event);
}

int64_t DeviceBytes() { return held_bytes.load(); }
int64_t DeviceBytesPeak() { return peak_bytes.load(); }

void CountDeviceBytes(int64_t more) {
  const int64_t held = held_bytes.fetch_add(more) + more;
  int64_t peak = peak_bytes.load();
  while (held > peak && !peak_bytes.compare_exchange_weak(peak, held)) {
  }
}

absl::StatusOr<Memory> Memory::Allocate(int64_t bytes) {
  Memory memory;
  if (const cudaError_t error = cudaMalloc(&memory.data_, static_cast<size_t>(bytes));
      error != cudaSuccess) {
    cudaGetLastError();
    memory.data_ = nullptr;
    return ToStatus(error, absl::StrCat("allocation of ", bytes, " bytes; ", DeviceBytes(),
                                        " are held").c_str());
  }
  memory.bytes_ = bytes;
  CountDeviceBytes(bytes);
  return memory;
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  cudaFree(data_);
  CountDeviceBytes(-bytes_);
}

}  // namespace espalier::kernels::cuda
