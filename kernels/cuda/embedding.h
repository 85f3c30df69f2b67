// Token embedding on the device. Twin of kernels/embedding.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace espalier::kernels::cuda {

// out[row] = table[tokens[row]].
template <typename T>
[[nodiscard]] cudaError_t Embed(const T* table, const int32_t* tokens, T* out, int64_t rows, int64_t width,
                                cudaStream_t stream);

// The gradient, with the rows of each distinct token side by side so that no two threads add to one place: token t =
// distinct[i] has the rows order[starts[i] .. starts[i+1]). The host sorts; sums run in fp32 in that order (a token of 64 rows or more: eight stretches, added in order).
//   dout [rows, width]   distinct [n]   starts [n + 1]   order [rows]   dtable [vocabulary, width]: rows of `distinct` are added to
template <typename T>
struct EmbedBackwardArgs {
  const T* dout = nullptr;
  const int32_t* distinct = nullptr;
  const int32_t* starts = nullptr;
  const int32_t* order = nullptr;
  T* dtable = nullptr;
  int64_t distinct_count = 0, width = 0;
};
template <typename T>
[[nodiscard]] cudaError_t EmbedBackward(const EmbedBackwardArgs<T>& args, cudaStream_t stream);

}  // namespace espalier::kernels::cuda
