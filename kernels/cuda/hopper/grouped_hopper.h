// Grouped products on Hopper by wgmma and TMA, bf16: what kernels/cuda/grouped.h's operations call there.
//
// Measured on an H100 with the stand-alone program that this came from (M: 131072 rows, 64 groups, n = k = 2048): 747 / 747 / 645 TFLOP/s for kNT, kNN and the gradient, with
// the chip at 1.3 to 1.5 GHz: power is the limit.
#pragma once

#include "kernels/cuda/grouped.h"

namespace espalier::kernels::cuda::hopper {

// Whether the kernel takes these sizes and addresses: n and k (m and n) multiples of 8 and not 0, 1 to 256 groups, at least
// one row, everything 16-byte aligned.
bool Takes(const GroupedMatmulArgs<__nv_bfloat16>& args);
bool Takes(const GroupedGradientArgs<__nv_bfloat16>& args);

// The current device must be of compute capability 9.0, and the arguments ones that are taken. No host synchronisation.
[[nodiscard]] cudaError_t GroupedMatmul(const GroupedMatmulArgs<__nv_bfloat16>& args, cudaStream_t stream);
[[nodiscard]] cudaError_t GroupedGradient(const GroupedGradientArgs<__nv_bfloat16>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda::hopper
