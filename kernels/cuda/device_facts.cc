// Attributes are kept for the first 64 devices; others (there are none) would be asked for each time.
#include "kernels/cuda/device_facts.h"

#include <array>
#include <mutex>

namespace espalier::kernels::cuda {
namespace {

cudaError_t Ask(int device, DeviceFacts& facts) {
  struct Question {
    cudaDeviceAttr attribute;
    int* answer;
  };
  for (const Question& question :
       {Question{cudaDevAttrMultiProcessorCount, &facts.multiprocessors},
        Question{cudaDevAttrComputeCapabilityMajor, &facts.major},
        Question{cudaDevAttrComputeCapabilityMinor, &facts.minor}}) {
    const cudaError_t error = cudaDeviceGetAttribute(question.answer, question.attribute, device);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t CurrentDeviceFacts(DeviceFacts& facts) {
  static std::mutex mutex;
  static std::array<DeviceFacts, 64> known;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device >= static_cast<int>(known.size())) return Ask(device, facts);
  const std::lock_guard<std::mutex> lock(mutex);
  if (known[device].multiprocessors == 0) {
    DeviceFacts asked;
    if (const cudaError_t error = Ask(device, asked); error != cudaSuccess) return error;
    known[device] = asked;
  }
  facts = known[device];
  return cudaSuccess;
}

}  // namespace espalier::kernels::cuda
