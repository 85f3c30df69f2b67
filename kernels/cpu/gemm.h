// Gemm: one product on the calling thread, through the BLAS, with strides of its own.
#pragma once

#include <cblas.h>

#include <cstdint>
#include <type_traits>

#include "kernels/matmul.h"

namespace espalier::kernels {

template <typename T>
void Gemm(Product product, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
          int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  if (m == 0 || n == 0) return;
  const CBLAS_TRANSPOSE trans_a = product == Product::kTN ? CblasTrans : CblasNoTrans;
  const CBLAS_TRANSPOSE trans_b = product == Product::kNT ? CblasTrans : CblasNoTrans;
  const T beta = accumulate ? T(1) : T(0);
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, trans_a, trans_b, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
  } else {
    cblas_dgemm(CblasRowMajor, trans_a, trans_b, m, n, k, 1.0, a, lda, b, ldb, beta, c, ldc);
  }
}

}  // namespace espalier::kernels
