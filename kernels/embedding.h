// Token embedding: gather of rows, and the scatter-add that is its gradient.
#pragma once

#include <cstdint>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// out[row] = table[tokens[row]].  table [vocabulary, width], out [rows, width], tokens in range.
template <typename T>
void Embed(const T* table, const int32_t* tokens, T* out, int64_t rows, int64_t width,
           base::ThreadPool& pool);

// dtable[tokens[row]] += dout[row], in row order whatever the thread count (threads share the
// columns).
template <typename T>
void EmbedBackward(const T* dout, const int32_t* tokens, T* dtable, int64_t rows, int64_t width,
                   base::ThreadPool& pool);

}  // namespace espalier::kernels
