// Causal grouped-query attention over ragged packed sequences, its gradient, and one decode step
// over a KV cache.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/buffer.h"
#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// N tokens, H query heads, G key/value heads (query head h reads key head h / (H/G)), head_dim d.
//   q, out  [N, H*d]     k, v [N, G*d]     positions are already rotated into q and k
//   lse     [N, H]       log of the sum of exponentials of the scaled scores: all that the backward
//   pass needs starts  sequences + 1 offsets into N; a token sees those of its sequence up to
//   itself
// One task is one sequence and one key head, so nothing is shared between threads; `scratch` grows
// to two blocks of scores a thread.
template <typename T>
struct AttentionArgs {
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  T* out = nullptr;
  T* lse = nullptr;
  std::span<const int64_t> starts;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
};
template <typename T>
void Attention(const AttentionArgs<T>& args, Buffer<T>& scratch, base::ThreadPool& pool);

// Writes (not adds) dq [N, H*d], dk and dv [N, G*d]; probabilities are computed again from q, k and
// lse.
//   delta [N, H]  scratch of the caller's: dot(dout, out) a head
template <typename T>
struct AttentionBackwardArgs {
  AttentionArgs<T> forward;  // as it was; `out` and `lse` filled
  const T* dout = nullptr;
  T* dq = nullptr;
  T* dk = nullptr;
  T* dv = nullptr;
  T* delta = nullptr;
};
template <typename T>
void AttentionBackward(const AttentionBackwardArgs<T>& args, Buffer<T>& scratch,
                       base::ThreadPool& pool);

// The keys and values of many sequences of one layer, each with room for `capacity` tokens. Keys
// are stored [d, capacity] so that the scores of a decode step are computed along positions; values
// [capacity, d].
template <typename T>
struct KvCache {
  T* keys = nullptr;    // [sequences, G, d, capacity]
  T* values = nullptr;  // [sequences, G, capacity, d]
  int64_t capacity = 0, kv_heads = 0, head_dim = 0;
};

// Appends rows [begin, end) of k and v [.., G*d] to `sequence` from `position` on.
template <typename T>
void AppendToCache(const KvCache<T>& cache, int64_t sequence, int64_t position, const T* k,
                   const T* v, int64_t rows);

// One new token a sequence: row i attends over lengths[i] cached tokens of sequences[i], its own
// included.
//   q, out [rows, H*d]
template <typename T>
void AttentionDecode(const KvCache<T>& cache, const T* q, std::span<const int32_t> sequences,
                     std::span<const int32_t> lengths, int64_t heads, T* out, Buffer<T>& scratch,
                     base::ThreadPool& pool);

}  // namespace espalier::kernels
