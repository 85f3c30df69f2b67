// The router's choice on the device, with its gradient. Twin of kernels/router.h: same rules, ties to the lower index.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/router.h"

namespace espalier::kernels::cuda {

// All fp32, whatever the model's element. N tokens, E experts alive (at most kRouterExperts), K chosen (at most
// kRouterTopK); see kernels/router.h for the meaning.
inline constexpr int kRouterExperts = 1024;
inline constexpr int kRouterTopK = 32;
struct RouterArgs {
  RouterScore score = RouterScore::kSigmoid;
  bool normalize = true;
  float scaling = 1.0f;
  float* scores = nullptr;          // [N, E] logits on entry, scores on return
  const float* bias = nullptr;      // [E]
  const uint8_t* masked = nullptr;  // [E]
  int32_t* choice = nullptr;        // [N, K]
  float* weight = nullptr;          // [N, K]
  int64_t tokens = 0;
  int experts = 0, top_k = 0;
  bool choice_given = false;
};
[[nodiscard]] cudaError_t Router(const RouterArgs& args, cudaStream_t stream);

// dlogits [N, E] (T: what the products read) is written. With aux_scale != 0 the gradient of aux_scale * AuxiliaryLoss comes
// with it; route_counts [E] is how often each expert was chosen by these N tokens.
template <typename T>
struct RouterBackwardArgs {
  RouterArgs forward;  // as it was; scores, choice and weight filled
  const float* dweight = nullptr;  // [N, K], or by row of an expert when `slot` [N, K] tells where each stands
  const int32_t* slot = nullptr;
  T* dlogits = nullptr;
  float aux_scale = 0;
  const int32_t* route_counts = nullptr;
};
template <typename T>
[[nodiscard]] cudaError_t RouterBackward(const RouterBackwardArgs<T>& args, cudaStream_t stream);

// Adds AuxiliaryLoss of kernels/router.h to *loss (device). partials [kAuxPartials, E] fp32 scratch; fixed order of sums.
inline constexpr int kAuxPartials = 128;
[[nodiscard]] cudaError_t AddAuxiliaryLoss(const RouterArgs& args, const int32_t* route_counts, float* partials,
                                           float* loss, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
