// Hopper's instructions as functions: mbarriers, the tensor copy engine (TMA), wgmma's fences, stmatrix. sm_90a only.
#pragma once

#include <cuda.h>  // CUtensorMap: types only, libcuda is not linked

#include <cstdint>

namespace espalier::kernels::cuda::hopper {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- clusters
__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void ClusterSync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// ---- mbarriers, by shared-memory address
__device__ __forceinline__ void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void BarrierExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Arrives on the barrier at the same offset in CTA `rank` of the cluster. Deliberately without .release.cluster: that compiles
// to a GPU-wide MEMBAR + ERRBAR before every arrive (and .acquire.cluster to CCTL.IVALL after every wait), which serialised
// the main loop. Nothing written by this thread is published here: the arrive only says that wgmma has finished reading.
__device__ __forceinline__ void BarrierArriveAt(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 ra;\nmapa.shared::cluster.u32 ra, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [ra];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
__device__ __forceinline__ bool BarrierTryWait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done;
}
// Waits for the phase with the given parity. A wait of seconds is a bug: a trap is better than a GPU that hangs.
__device__ __forceinline__ void BarrierWait(uint32_t barrier, uint32_t parity) {
  if (BarrierTryWait(barrier, parity)) return;
  const long long start = clock64();
  while (!BarrierTryWait(barrier, parity)) {
    if (clock64() - start > 6'000'000'000ll) __trap();
  }
}
// bar.sync of `threads` threads on one of the sixteen named barriers (0 is __syncthreads).
__device__ __forceinline__ void NamedSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- tensor copies
__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void CopyIn(uint32_t to, const CUtensorMap* map, uint32_t barrier, int x,
                                       int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
// The box lands, and completes on the barrier, at the same offsets in every CTA of `mask`.
__device__ __forceinline__ void CopyInMulticast(uint32_t to, const CUtensorMap* map,
                                                uint32_t barrier, int x, int y, int z,
                                                uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(mask)
      : "memory");
}
__device__ __forceinline__ void CopyOut(const CUtensorMap* map, uint32_t from, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(from), "r"(x), "r"(y), "r"(z)
               : "memory");
}
__device__ __forceinline__ void CopyOutCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most `Left` committed groups still read shared memory.
template <int Left>
__device__ __forceinline__ void CopyOutWaitRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Left) : "memory");
}
template <int Left>
__device__ __forceinline__ void CopyOutWait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Left) : "memory");
}
// Ordinary stores to shared memory become visible to TMA and wgmma.
__device__ __forceinline__ void AsyncProxyFence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- registers
template <int Count>
__device__ __forceinline__ void GiveRegistersDownTo() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ __forceinline__ void TakeRegistersUpTo() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ void StoreMatrix(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                            uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

}  // namespace espalier::kernels::cuda::hopper
