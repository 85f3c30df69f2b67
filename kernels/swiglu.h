// The gate of an expert: silu(gate) * up, and its gradient.
#pragma once

#include <cstdint>

#include "libs/base/thread_pool.h"

namespace espalier::kernels {

// h = silu(gate) * up over n elements.
template <typename T>
void Swiglu(const T* gate, const T* up, T* h, int64_t n, base::ThreadPool& pool);

// In place: gate becomes d/dgate, up becomes d/dup and dh becomes h, which the gradient of the down
// projection needs; so h need not be kept from the forward pass.
template <typename T>
void SwigluBackward(T* gate, T* up, T* dh, int64_t n, base::ThreadPool& pool);

}  // namespace espalier::kernels
