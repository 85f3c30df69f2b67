// The language-model head: log-probability of each target (and entropy) from the last hidden
// states, with its gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// R rows (only those with a target, or all of them for entropies), D width, V vocabulary.
//   hidden   [R, D]   weight [V, D]
//   targets  [R]      in [0, V), or -1: logp is 0
//   logp     [R]      written      entropy [R]: written unless null      lse [R]: written, for the
//   backward pass
// The logits go through `logits` in chunks of rows. When all of them fit in kLogitsKept elements
// and `keep` is set, they stay there for HeadBackward; otherwise it computes them again, chunk by
// chunk.
inline constexpr int64_t kLogitsKept = int64_t{1} << 24;
template <typename T>
struct HeadArgs {
  const T* hidden = nullptr;
  const T* weight = nullptr;
  const int32_t* targets = nullptr;
  T* logp = nullptr;
  T* entropy = nullptr;
  T* lse = nullptr;
  int64_t rows = 0, width = 0, vocabulary = 0;
  bool keep = false;
};
template <typename T>
void Head(const HeadArgs<T>& args, Buffer<T>& logits, base::ThreadPool& pool);

// From dlogp [R]: writes dhidden [R, D] and adds to dweight [V, D]. Call once after Head with keep
// set, `logits` untouched.
template <typename T>
void HeadBackward(const HeadArgs<T>& args, const T* dlogp, T* dhidden, T* dweight,
                  Buffer<T>& logits, base::ThreadPool& pool);

}  // namespace espalier::kernels
