// Dense and grouped matrix products, row-major. Every other operation of the model is cheap beside
// these.
#pragma once

#include <cstdint>
#include <span>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// Where the operands lie: kNT is activations times a weight [out, in], kNN a gradient times it, kTN
// a weight's gradient.
enum class Product {
  kNN,  // C[m,n] = A[m,k]   B[k,n]
  kNT,  // C[m,n] = A[m,k]   B[n,k]^T
  kTN,  // C[m,n] = A[k,m]^T B[k,n]
};

template <typename T>
struct MatmulArgs {
  Product product = Product::kNT;
  const T* a = nullptr;
  const T* b = nullptr;
  T* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  bool accumulate = false;  // C += instead of C =
};

// Rows without gaps. C is cut among threads along its longer side; m == 0 or k == 0 is fine (k == 0
// writes zeros).
template <typename T>
void Matmul(const MatmulArgs<T>& args, base::ThreadPool& pool);

// One product per expert over ragged groups of rows: group g is rows [offsets[g], offsets[g+1]) of
// `a` and `c`.
//   kNT: C[rows, n] = A[rows, k] B_g[n, k]^T      kNN: C[rows, n] = A[rows, k] B_g[k, n]
template <typename T>
struct GroupedMatmulArgs {
  Product product = Product::kNT;    // kNT or kNN
  std::span<const int64_t> offsets;  // groups + 1
  const T* a = nullptr;
  std::span<const T* const> b;  // one matrix a group
  T* c = nullptr;
  int64_t n = 0, k = 0;
  bool accumulate = false;
};
template <typename T>
void GroupedMatmul(const GroupedMatmulArgs<T>& args, base::ThreadPool& pool);

// The gradients of the groups' weights: C_g[m, n] += A[rows, m]^T B[rows, n]. An empty group's is
// left alone.
template <typename T>
struct GroupedGradientArgs {
  std::span<const int64_t> offsets;
  const T* a = nullptr;
  const T* b = nullptr;
  std::span<T* const> c;
  int64_t m = 0, n = 0;
};
template <typename T>
void GroupedGradient(const GroupedGradientArgs<T>& args, base::ThreadPool& pool);

// Tells the BLAS to use one thread a call: the ThreadPool is what runs several. Call once before the first product.
void LimitBlasThreads();

#define ESPALIER_EXTERN_MATMUL(T)                                                        \
  extern template void Matmul<T>(const MatmulArgs<T>&, base::ThreadPool&);               \
  extern template void GroupedMatmul<T>(const GroupedMatmulArgs<T>&, base::ThreadPool&); \
  extern template void GroupedGradient<T>(const GroupedGradientArgs<T>&, base::ThreadPool&);
ESPALIER_EXTERN_MATMUL(float)
ESPALIER_EXTERN_MATMUL(double)
#undef ESPALIER_EXTERN_MATMUL

}  // namespace espalier::kernels
