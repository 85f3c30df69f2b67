// AdamW over one flat array, and the squared norm for gradient clipping.
#pragma once

#include <cstdint>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// One AdamW step on n elements, in one pass over memory:
//   g = grad * grad_scale
//   moment1 = beta1 * moment1 + (1 - beta1) * g,   moment2 = beta2 * moment2 + (1 - beta2) * g * g
//   value -= lr * (moment1 / correction1 / (sqrt(moment2 / correction2) + eps) + weight_decay *
//   value)
// with correction1 = 1 - beta1^step and correction2 = 1 - beta2^step given by the caller (step
// counts from 1).
template <typename T>
struct AdamWArgs {
  T* value = nullptr;       // [n]
  const T* grad = nullptr;  // [n]
  T* moment1 = nullptr;     // [n]
  T* moment2 = nullptr;     // [n]
  int64_t n = 0;
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double correction1 = 1, correction2 = 1;
  double grad_scale = 1;  // clipping and loss scaling, applied on the fly
};

// Elements are independent: the result does not depend on the number of threads. n == 0 is fine.
template <typename T>
void AdamW(const AdamWArgs<T>& args, base::ThreadPool& pool);

// Sum of squares of x[0..n), summed in double over fixed blocks in index order: the same bits for
// any thread count.
template <typename T>
double SquaredNorm(const T* x, int64_t n, base::ThreadPool& pool);

extern template void AdamW<float>(const AdamWArgs<float>&, base::ThreadPool&);
extern template void AdamW<double>(const AdamWArgs<double>&, base::ThreadPool&);
extern template double SquaredNorm<float>(const float*, int64_t, base::ThreadPool&);
extern template double SquaredNorm<double>(const double*, int64_t, base::ThreadPool&);

}  // namespace espalier::kernels
