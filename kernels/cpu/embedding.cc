// Embedding gather and scatter-add.
#include "kernels/embedding.h"

#include <cstring>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {

template <typename T>
void Embed(const T* table, const int32_t* tokens, T* out, int64_t rows, int64_t width,
           base::ThreadPool& pool) {
  pool.ForRanges(rows, 128, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(out + row * width, table + tokens[row] * width, width * sizeof(T));
    }
  });
}

template <typename T>
void EmbedBackward(const T* dout, const int32_t* tokens, T* dtable, int64_t rows, int64_t width,
                   base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  pool.ForRanges(width, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      loops.add(dout + row * width + begin, dtable + tokens[row] * width + begin, end - begin);
    }
  });
}

#define ESPALIER_INSTANTIATE(T)                                                              \
  template void Embed<T>(const T*, const int32_t*, T*, int64_t, int64_t, base::ThreadPool&); \
  template void EmbedBackward<T>(const T*, const int32_t*, T*, int64_t, int64_t, base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
