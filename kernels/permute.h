// Tokens grouped by expert and back: permute, weighted combine, and their gradients.
#pragma once

#include <cstdint>
#include <span>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// N tokens, K choices each, S = N * K slots, grouped by group_of[choice]: groups stand in index
// order, tokens within a group in token order.
//   choice    [N, K]          experts, each at most once a token
//   group_of  [E]             the group an expert's rows form
//   offsets   [groups + 1]    written
//   slot      [N, K]          written: the row of each choice
//   token_of  [S]             written: the token of each row
void PlanSlots(const int32_t* choice, int64_t tokens, int64_t top_k,
               std::span<const int32_t> group_of, int64_t* offsets, int32_t* slot,
               int32_t* token_of);

// out[row] = x[source[row]].  x [.., width], out [rows, width]
template <typename T>
void GatherRows(const T* x, const int32_t* source, T* out, int64_t rows, int64_t width,
                base::ThreadPool& pool);

//   expert_rows, dexpert [S, width]   weight, dweight, slot [N, K]   out, dout [N, width]
template <typename T>
struct CombineArgs {
  const T* expert_rows = nullptr;
  const T* weight = nullptr;
  const int32_t* slot = nullptr;
  int64_t tokens = 0, top_k = 0, width = 0;
};
// out[token] += sum over k of weight[token, k] * expert_rows[slot[token, k]], in order of k.
template <typename T>
void Combine(const CombineArgs<T>& args, T* out, base::ThreadPool& pool);
// dexpert[slot] = weight * dout[token] and dweight = dot(dout[token], expert_rows[slot]). dexpert
// may be expert_rows.
template <typename T>
void CombineBackward(const CombineArgs<T>& args, const T* dout, T* dexpert, T* dweight,
                     base::ThreadPool& pool);
// out[token] += sum over k of expert_rows[slot[token, k]]: the gradient of GatherRows. `weight` is
// not read.
template <typename T>
void Unpermute(const CombineArgs<T>& args, T* out, base::ThreadPool& pool);

}  // namespace espalier::kernels
