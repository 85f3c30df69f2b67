// The combination of experts' rows together with how much each expert contributes: its gate times
// the norm of its output, summed over tokens.
#pragma once

#include <cstdint>

#include "kernels/permute.h"
#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// Sums are whole numbers of a millionth: they do not depend on who adds what in which order.
inline constexpr double kOutputNormUnits = 1e6;
// One token counts at most this much, so that 9 million of them fit a sum. Far above what a model
// that still learns puts out.
inline constexpr double kOutputNormMax = 1e6;

// N tokens, K choices each, E experts alive.
//   choice  [N, K]  expert of each choice
//   sums    [E]     added to: weight * ||row||_2 of each choice, in millionths, rounded; what is
//                   not finite counts nothing
template <typename T>
struct OutputNormArgs {
  CombineArgs<T> combine;
  const int32_t* choice = nullptr;
  int64_t* sums = nullptr;
  int64_t experts = 0;
};
// Combine(args.combine, out, pool), bit for bit, and the sums from the same reading of the rows.
template <typename T>
void CombineWithNorms(const OutputNormArgs<T>& args, T* out, base::ThreadPool& pool);

}  // namespace espalier::kernels
