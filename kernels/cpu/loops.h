// Loops<T>: the inner loops of all kernels, compiled once for each instruction set and chosen when
// the program starts.
//
// The kernels themselves (norm.cc, attention.cc, …) cut the work into rows for the threads and call
// these. All arrays are row-major; `rows` may be 0. Nothing here allocates or synchronizes.
#pragma once

#include <cstdint>

namespace espalier::kernels {

template <typename T>
struct Loops {
  const char* name;  // "avx512", "avx2" or "base"

  // y = x / rms(x) * w; rstd[row] = 1 / rms.
  void (*rmsnorm_forward)(const T* x, const T* w, T* y, T* rstd, int64_t rows, int64_t width,
                          T eps);
  // dx += gradient, dw += sum over rows.
  void (*rmsnorm_backward)(const T* dy, const T* x, const T* w, const T* rstd, T* dx, T* dw,
                           int64_t rows, int64_t width);
  // Rotates pairs (i, i + head_dim/2) by +angle, or -angle with `sign` = -1. cos/sin: [positions,
  // head_dim/2].
  void (*rope)(T* x, int64_t rows, int64_t heads, int64_t head_dim, const int32_t* position,
               const T* cos, const T* sin, T sign);

  // Scores of queries first_query .. + rows over `keys` keys become probabilities (key <= query),
  // in place; lse[row * lse_stride].
  void (*causal_softmax)(T* scores, int64_t rows, int64_t keys, int64_t first_query, T scale,
                         T* lse, int64_t lse_stride);
  // From raw scores, lse and dprob: scores become probabilities, dprob becomes the gradient of the
  // raw scores.
  void (*causal_softmax_backward)(T* scores, T* dprob, int64_t rows, int64_t keys,
                                  int64_t first_query, T scale, const T* lse, int64_t lse_stride,
                                  const T* delta, int64_t delta_stride);
  // out[row * out_stride + head] = dot(a, b) over each head.
  void (*head_dots)(const T* a, const T* b, T* out, int64_t rows, int64_t heads, int64_t head_dim);
  // One query over a cache: keys_t [head_dim, capacity], values [capacity, head_dim]; scores is
  // scratch [length].
  void (*decode_head)(const T* query, const T* keys_t, const T* values, int64_t length,
                      int64_t capacity, int64_t head_dim, T scale, T* scores, T* out);

  // h = silu(gate) * up.
  void (*swiglu_forward)(const T* gate, const T* up, T* h, int64_t n);
  // gate, up, dh become dgate, dup, h.
  void (*swiglu_backward)(T* gate, T* up, T* dh, int64_t n);

  // scores = sigmoid(logits), or the softmax over experts that are not masked (0 for those); in
  // place.
  void (*router_sigmoid)(T* logits, int64_t n);
  void (*router_softmax)(T* logits, const uint8_t* masked, int64_t rows, int64_t experts);

  // out[row] += sum over k of weight[row, k] * expert_rows[slot[row, k]].
  void (*combine)(const T* expert_rows, const T* weight, const int32_t* slot, T* out, int64_t rows,
                  int64_t k, int64_t width);
  // combine, and norms[row, k] = ||expert_rows[slot[row, k]]||_2.
  void (*combine_norms)(const T* expert_rows, const T* weight, const int32_t* slot, T* out,
                        T* norms, int64_t rows, int64_t k, int64_t width);
  // dexpert[slot[row, k]] = weight * dout[row]; dweight[row, k] = dot(dout[row],
  // expert_rows[slot]).
  void (*combine_backward)(const T* dout, const T* expert_rows, const T* weight,
                           const int32_t* slot, T* dexpert, T* dweight, int64_t rows, int64_t k,
                           int64_t width);
  // out[row] += sum over k of expert_rows[slot[row, k]].
  void (*gather_add)(const T* expert_rows, const int32_t* slot, T* out, int64_t rows, int64_t k,
                     int64_t width);
  // y += x.
  void (*add)(const T* x, T* y, int64_t n);

  // One row of logits: log of the sum of exponentials, and the entropy when `entropy` is not null.
  T (*log_sum_exp)(const T* logits, int64_t n, T* entropy);
  // logits become dlogp * (onehot(target) - softmax).
  void (*head_backward)(T* logits, int64_t n, int32_t target, T lse, T dlogp);
  // weights = exp((logits - max) / temperature); returns their sum.
  T (*sampling_weights)(const T* logits, int64_t n, T inverse_temperature, T* weights);

  void (*adamw)(T* value, const T* grad, T* m1, T* m2, int64_t n, T lr, T beta1, T beta2, T eps,
                T decay, T inverse_correction1, T inverse_correction2, T grad_scale);
  double (*squared_norm)(const T* x, int64_t n);
};

// The best set for this processor, chosen once.
template <typename T>
const Loops<T>& BestLoops();

// All sets that this processor can run, best last: for tests.
template <typename T>
int LoopSets(const Loops<T>* sets[3]);

extern template const Loops<float>& BestLoops<float>();
extern template const Loops<double>& BestLoops<double>();

}  // namespace espalier::kernels
