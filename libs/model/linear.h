// The three products of a weight matrix [out, in]: forward, input gradient, weight gradient.
#pragma once

#include "kernels/matmul.h"
#include "libs/model/model.h"

namespace espalier::model {

enum class Write { kReplace, kAdd };

// y [rows, out] = x [rows, in] W^T
template <typename T>
void Linear(const T* x, const Parameter<T>& weight, T* y, int64_t rows, Write write,
            base::ThreadPool& pool) {
  kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kNT,
                                         .a = x,
                                         .b = weight.value.data(),
                                         .c = y,
                                         .m = rows,
                                         .n = weight.shape[0],
                                         .k = weight.shape[1],
                                         .accumulate = write == Write::kAdd},
                  pool);
}

// dx [rows, in] = dy [rows, out] W, and dW += dy^T x
template <typename T>
void LinearBackward(const T* dy, const T* x, Parameter<T>& weight, T* dx, int64_t rows,
                    Write write_dx, base::ThreadPool& pool) {
  const int64_t out = weight.shape[0], in = weight.shape[1];
  kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kNN,
                                         .a = dy,
                                         .b = weight.value.data(),
                                         .c = dx,
                                         .m = rows,
                                         .n = in,
                                         .k = out,
                                         .accumulate = write_dx == Write::kAdd},
                  pool);
  kernels::Matmul(kernels::MatmulArgs<T>{.product = kernels::Product::kTN,
                                         .a = dy,
                                         .b = x,
                                         .c = weight.grad.data(),
                                         .m = out,
                                         .n = in,
                                         .k = rows,
                                         .accumulate = true},
                  pool);
}

}  // namespace espalier::model
