// Launch and AwaitPrevious: kernels whose blocks are brought up while the kernel before them on the stream still drains ("programmatic
// dependent launch"), which saves the gap between the many short kernels of a step.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/device_facts.h"

namespace espalier::kernels::cuda {

// First statement of every kernel that goes through Launch, before any memory of the device is touched or a thread returns: the work
// before it on the stream is then done and its stores are seen. Because every such kernel waits, whatever it waits for has waited for
// all before that. Loads by __restrict__ pointers to const may be moved above it: such kernels take plain pointers.
__device__ __forceinline__ void AwaitPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

// kernel<<<grid, block, shared, stream>>>(args...); errors show in cudaGetLastError. Before Hopper an ordinary launch.
template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            Arguments&&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  DeviceFacts facts;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = CurrentDeviceFacts(facts) == cudaSuccess && facts.major >= 9 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace espalier::kernels::cuda
