// Rotary position embedding in the rotate-half convention of Llama, over the whole head.
#pragma once

#include <cstdint>
#include <vector>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// cos and sin of position * theta^(-2i/head_dim), [positions, head_dim/2]; grows on demand.
template <typename T>
class RopeTable {
 public:
  RopeTable(int64_t head_dim, double theta) : head_dim_(head_dim), theta_(theta) {}
  // Makes positions [0, positions) usable.
  void Reserve(int64_t positions);
  int64_t head_dim() const { return head_dim_; }
  const T* cos() const { return cos_.data(); }
  const T* sin() const { return sin_.data(); }

 private:
  int64_t head_dim_;
  double theta_;
  std::vector<T> cos_, sin_;
};

enum class RopeDirection { kForward, kBackward };

// In place: elements i and i + head_dim/2 of each head turn by the angle of the row's position;
// kBackward turns back, which is the gradient.
//   x [rows, heads * head_dim]   positions [rows], all below what the table has
template <typename T>
void Rope(T* x, int64_t rows, int64_t heads, const int32_t* positions, const RopeTable<T>& table,
          RopeDirection direction, base::ThreadPool& pool);

}  // namespace espalier::kernels
