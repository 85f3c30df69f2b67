// Tokens grouped by expert and back, on the device. Twin of kernels/permute.h; group sizes never visit the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// N tokens, K choices each, E experts alive, S = N * K slots. Slots are grouped by group_of[choice] (a permutation of [0, E)):
// groups in index order, tokens within a group in token order.
//   choice [N, K]   group_of [E]
//   counts [E]      written: slots of each expert (by expert, not by group)
//   offsets [E + 1] written: first slot of each group
//   slot [N, K], token_of [S]   written: the row of each choice, the token of each row
//   weight [N, K], row_weight [S]: unless null, each row's weight is written beside its token
//   scratch [PlanSlotsScratch(N, E)] int32
// Deterministic. Enqueues a few small kernels.
struct PlanSlotsArgs {
  const int32_t* choice = nullptr;
  const int32_t* group_of = nullptr;
  int32_t* counts = nullptr;
  int32_t* offsets = nullptr;
  int32_t* slot = nullptr;
  int32_t* token_of = nullptr;
  int32_t* scratch = nullptr;
  int64_t tokens = 0;
  int top_k = 0, experts = 0;
  const float* weight = nullptr;
  float* row_weight = nullptr;
};
int64_t PlanSlotsScratch(int64_t tokens, int experts);
[[nodiscard]] cudaError_t PlanSlots(const PlanSlotsArgs& args, cudaStream_t stream);

// out[row] = x[source[row]]; a negative source writes a zero row.   x [.., width], out [rows, width]
template <typename T>
[[nodiscard]] cudaError_t GatherRows(const T* x, const int32_t* source, T* out, int64_t rows, int64_t width,
                                     cudaStream_t stream);
// out[target[row]] = x[row] for targets >= 0, all different.
template <typename T>
[[nodiscard]] cudaError_t ScatterRows(const T* x, const int32_t* target, T* out, int64_t rows, int64_t width,
                                      cudaStream_t stream);

// out[slot[token, k]] = x[token] for every k: what GatherRows by token_of does, with each row read once instead of K times.
//   x [tokens, width]   slot [tokens, top_k], all different   out [tokens * top_k, width]
template <typename T>
[[nodiscard]] cudaError_t SpreadRows(const T* x, const int32_t* slot, T* out, int64_t tokens, int top_k, int64_t width,
                                     cudaStream_t stream);

// out[token] = residual[token] (zero when null) + sum over k of rows[slot[token, k]], summed in fp32 in order of k.
//   rows [S, width]   residual, out [N, width]; out may be residual
template <typename T>
struct SumSlotsArgs {
  const T* rows = nullptr;
  const int32_t* slot = nullptr;
  const T* residual = nullptr;
  T* out = nullptr;
  int64_t tokens = 0, width = 0;
  int top_k = 0;
};
template <typename T>
[[nodiscard]] cudaError_t SumSlots(const SumSlotsArgs<T>& args, cudaStream_t stream);

// sums[expert] += ||rows[slot]||_2 of every choice, in whole millionths (kernels/output_norm.h), by integer atomics: the
// order does not matter. rows are already scaled by their gates. What is not finite counts nothing; at most kOutputNormMax a row.
template <typename T>
[[nodiscard]] cudaError_t AddOutputNorms(const T* rows, const int32_t* slot, const int32_t* choice, int64_t slots,
                                         int64_t width, int64_t* sums, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
