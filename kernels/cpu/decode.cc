// The KV cache and attention of one new token a sequence: matrix-vector work, bound by reading the
// cache.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/cpu/loops.h"

namespace espalier::kernels {

template <typename T>
void AppendToCache(const KvCache<T>& cache, int64_t sequence, int64_t position, const T* k,
                   const T* v, int64_t rows) {
  const int64_t d = cache.head_dim;
  for (int64_t head = 0; head < cache.kv_heads; ++head) {
    const int64_t offset = (sequence * cache.kv_heads + head) * d * cache.capacity;
    T* keys = cache.keys + offset;
    T* values = cache.values + offset;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t source = (row * cache.kv_heads + head) * d;
      for (int64_t i = 0; i < d; ++i) keys[i * cache.capacity + position + row] = k[source + i];
      std::memcpy(values + (position + row) * d, v + source, d * sizeof(T));
    }
  }
}

template <typename T>
void AttentionDecode(const KvCache<T>& cache, const T* q, std::span<const int32_t> sequences,
                     std::span<const int32_t> lengths, int64_t heads, T* out, Buffer<T>& scratch,
                     base::ThreadPool& pool) {
  const Loops<T>& loops = BestLoops<T>();
  const int64_t d = cache.head_dim, group = heads / cache.kv_heads;
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  T* scores = scratch.Get(cache.capacity * pool.threads());
  pool.ForTasks(static_cast<int64_t>(sequences.size()), [&](int64_t row, int thread) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t offset = (sequences[row] * cache.kv_heads + head / group) * d * cache.capacity;
      loops.decode_head(q + (row * heads + head) * d, cache.keys + offset, cache.values + offset,
                        lengths[row], cache.capacity, d, scale, scores + thread * cache.capacity,
                        out + (row * heads + head) * d);
    }
  });
}

#define ESPALIER_INSTANTIATE(T)                                                           \
  template void AppendToCache<T>(const KvCache<T>&, int64_t, int64_t, const T*, const T*, \
                                 int64_t);                                                \
  template void AttentionDecode<T>(const KvCache<T>&, const T*, std::span<const int32_t>, \
                                   std::span<const int32_t>, int64_t, T*, Buffer<T>&,     \
                                   base::ThreadPool&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::kernels
