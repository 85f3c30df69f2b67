// Flags and windows of peers inside kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/peer.h"

namespace espalier::kernels::cuda {

__device__ __forceinline__ void StoreRelease(uint32_t* to, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Of rank `from` in the window of rank `owner`.
__device__ __forceinline__ uint32_t* FlagOf(const PeerView& view, int owner, int from) {
  return reinterpret_cast<uint32_t*>(view.window[owner]) + from * 32;
}
// Set for good once a wait here failed: what lies in the window is then not what it should be.
__device__ __forceinline__ uint32_t* FailedMark(const PeerView& view) {
  return reinterpret_cast<uint32_t*>(view.window[view.rank]) + kPeersMax * 32;
}
__device__ __forceinline__ bool Failed(const PeerView& view) {
  return *reinterpret_cast<const volatile uint32_t*>(FailedMark(view)) != 0;
}

template <typename U>
__device__ __forceinline__ U* InWindow(const PeerView& view, int owner, int64_t offset) {
  return reinterpret_cast<U*>(view.window[owner] + offset);
}

// By all threads of the only block: this block's stores, and those of kernels before it, are seen by who sees the flag.
__device__ __forceinline__ void Raise(const PeerView& view, uint32_t epoch) {
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x < static_cast<unsigned>(view.ranks) && !Failed(view)) {
    StoreRelease(FlagOf(view, threadIdx.x, view.rank), epoch);
  }
}

// By all threads of the only block; false: it was in vain, here or earlier.
__device__ __forceinline__ bool Await(const PeerView& view, uint32_t epoch, uint64_t limit_ns) {
  const uint64_t begin = Nanoseconds();
  if (threadIdx.x < static_cast<unsigned>(view.ranks) && !Failed(view)) {
    const uint32_t* flag = FlagOf(view, view.rank, threadIdx.x);
    const auto reached = [&] { return static_cast<int32_t>(LoadAcquire(flag) - epoch) >= 0; };
    for (uint32_t polls = 1; !reached(); ++polls) {
      // A peer that went away after it raised its flag is no failure: hence the second look.
      if (polls % 64 == 0 && (view.control->abort != 0 || Nanoseconds() - begin > limit_ns) &&
          !reached()) {
        view.control->failed = 1 + threadIdx.x;
        atomicExch(FailedMark(view), 1);
        break;
      }
    }
  }
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) view.control->waited_ns = view.control->waited_ns + (Nanoseconds() - begin);
  return !Failed(view);
}

}  // namespace espalier::kernels::cuda
