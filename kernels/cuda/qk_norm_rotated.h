// Norm and rotation of queries or keys in one pass, at the sizes that models have; kernels/cuda/qk_norm.h takes two passes at others.
#pragma once

#include "kernels/cuda/qk_norm.h"

namespace espalier::kernels::cuda {

// Whether heads and segments divide into whole vectors, few enough to stay in registers.
template <typename T>
bool TakesRotated(const QkNormArgs<T>& args);
template <typename T>
bool TakesRotated(const QkNormBackwardArgs<T>& args);

// As QkNorm and QkNormBackward with angles. Only what TakesRotated; not without rows.
template <typename T>
[[nodiscard]] cudaError_t QkNormRotated(const QkNormArgs<T>& args, cudaStream_t stream);
template <typename T>
[[nodiscard]] cudaError_t QkNormRotatedBackward(const QkNormBackwardArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
