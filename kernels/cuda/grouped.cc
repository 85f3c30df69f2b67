// Which grouped product runs: Hopper's kernel where it can, the plain one everywhere else.
#include "kernels/cuda/grouped.h"

#include <type_traits>

#include "kernels/cuda/adamw.h"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/hopper/grouped_hopper.h"

namespace espalier::kernels::cuda {
namespace {

// Only 9.0 runs sm_90a code; other generations take the plain way.
cudaError_t OnHopper(bool& hopper) {
  DeviceFacts facts;
  const cudaError_t error = CurrentDeviceFacts(facts);
  hopper = facts.major == 9 && facts.minor == 0;
  return error;
}

}  // namespace

template <typename T>
cudaError_t GroupedMatmul(const GroupedMatmulArgs<T>& args, cudaStream_t stream) {
  if (args.product == Product::kTN) return cudaErrorInvalidValue;  // that is GroupedGradient
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    bool use_hopper = false;
    if (const cudaError_t error = OnHopper(use_hopper); error != cudaSuccess) return error;
    if (use_hopper && hopper::Takes(args)) return hopper::GroupedMatmul(args, stream);
  }
  return GroupedMatmulPlain(args, stream);
}

template <typename T>
cudaError_t GroupedGradient(const GroupedGradientArgs<T>& args, cudaStream_t stream) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    bool use_hopper = false;
    if (const cudaError_t error = OnHopper(use_hopper); error != cudaSuccess) return error;
    if (use_hopper && hopper::Takes(args)) return hopper::GroupedGradient(args, stream);
  }
  if (const cudaError_t error = GroupedGradientPlain(args, stream); error != cudaSuccess || args.squares == nullptr) {
    return error;
  }
  static_assert(kGradientSquares > kNormBlocks);
  if (const cudaError_t error = SquaredNorm<T>(args.c, args.groups * args.m * args.n, args.squares + 1, args.squares, stream);
      error != cudaSuccess) {
    return error;
  }
  return cudaMemsetAsync(args.squares + 1, 0, kNormBlocks * sizeof(double), stream);
}

#define ESPALIER_INSTANTIATE(T)                                                         \
  template cudaError_t GroupedMatmul<T>(const GroupedMatmulArgs<T>&, cudaStream_t);     \
  template cudaError_t GroupedGradient<T>(const GroupedGradientArgs<T>&, cudaStream_t);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(__nv_bfloat16)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels::cuda
