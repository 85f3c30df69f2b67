// Draws one token a row from logits.
#pragma once

#include <cstdint>

#include "kernels/buffer.h"
#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// From rows of logits [rows, vocabulary] (not changed):
//   token [rows]  the likeliest (lowest index of equals) when temperature is 0; else the first
//   whose cumulative
//                 probability at `temperature` exceeds uniform[row], a random number in (0, 1)
//   logp  [rows]  its log-probability at temperature 1
template <typename T>
struct SampleArgs {
  const T* logits = nullptr;
  const double* uniform = nullptr;
  int32_t* token = nullptr;
  float* logp = nullptr;
  int64_t rows = 0, vocabulary = 0;
  double temperature = 1.0;
};
template <typename T>
void SampleTokens(const SampleArgs<T>& args, Buffer<T>& scratch, base::ThreadPool& pool);

}  // namespace espalier::kernels
