// The loops of Loops<T>, for whatever instruction set the including file is compiled: that file
// defines ESPALIER_LOOPS_SET.
//
// No standard library here: an inline function compiled with AVX-512 could be the copy that the
// linker keeps for everyone. Sums may be reordered by the compiler (-fassociative-math); NaN and
// infinity keep their meaning.
#include <math.h>
#include <stdint.h>

#include "kernels/cpu/loops.h"

namespace espalier::kernels {
namespace ESPALIER_LOOPS_SET {
namespace {

#define ESPALIER_INLINE inline __attribute__((always_inline))

// e^x with a relative error below 3e-7: 2^n times a polynomial of degree 6 (the coefficients of
// Cephes). Arguments outside [-87.3, 88.7] are clamped, so exp(-inf) is 1e-38 and nothing
// overflows; NaN stays NaN.
ESPALIER_INLINE float Exp(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.7f ? 88.7f : x;
  const float n = __builtin_rintf(x * 1.44269504088896341f);
  float r = __builtin_fmaf(n, -0.693359375f, x);
  r = __builtin_fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n may be 128, whose exponent does not fit one.
  const int32_t exponent = static_cast<int32_t>(n);
  const int32_t half = exponent >> 1;
  const float a = __builtin_bit_cast(float, (half + 127) << 23);
  const float b = __builtin_bit_cast(float, (exponent - half + 127) << 23);
  return p * a * b;
}
ESPALIER_INLINE double Exp(double x) { return ::exp(x); }

ESPALIER_INLINE float Sqrt(float x) { return __builtin_sqrtf(x); }
ESPALIER_INLINE double Sqrt(double x) { return __builtin_sqrt(x); }
ESPALIER_INLINE float Log(float x) { return ::logf(x); }
ESPALIER_INLINE double Log(double x) { return ::log(x); }

template <typename T>
ESPALIER_INLINE T Sigmoid(T x) {
  return T(1) / (T(1) + Exp(-x));
}

template <typename T>
ESPALIER_INLINE T Dot(const T* __restrict a, const T* __restrict b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
ESPALIER_INLINE T Max(const T* x, int64_t n) {
  T max = x[0];
  for (int64_t i = 1; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

template <typename T>
void RmsNormForward(const T* x, const T* __restrict w, T* y, T* rstd, int64_t rows, int64_t width,
                    T eps) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict xr = x + row * width;
    T* __restrict yr = y + row * width;
    const T scale = T(1) / Sqrt(Dot(xr, xr, width) / T(width) + eps);
    rstd[row] = scale;
    for (int64_t i = 0; i < width; ++i) yr[i] = xr[i] * scale * w[i];
  }
}

template <typename T>
void RmsNormBackward(const T* dy, const T* x, const T* __restrict w, const T* rstd, T* dx,
                     T* __restrict dw, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict dyr = dy + row * width;
    const T* __restrict xr = x + row * width;
    T* __restrict dxr = dx + row * width;
    const T scale = rstd[row];
    T dot = 0;
    for (int64_t i = 0; i < width; ++i) dot += dyr[i] * w[i] * xr[i];
    const T mean = dot * scale * scale * scale / T(width);
    for (int64_t i = 0; i < width; ++i) {
      dw[i] += dyr[i] * xr[i] * scale;
      dxr[i] += dyr[i] * w[i] * scale - xr[i] * mean;
    }
  }
}

template <typename T>
void Rope(T* x, int64_t rows, int64_t heads, int64_t head_dim, const int32_t* position,
          const T* cos, const T* sin, T sign) {
  const int64_t half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict c = cos + position[row] * half;
    const T* __restrict s = sin + position[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      T* __restrict low = x + (row * heads + head) * head_dim;
      T* __restrict high = low + half;
      for (int64_t i = 0; i < half; ++i) {
        const T a = low[i], b = high[i], si = sign * s[i];
        low[i] = a * c[i] - b * si;
        high[i] = b * c[i] + a * si;
      }
    }
  }
}

template <typename T>
void CausalSoftmax(T* scores, int64_t rows, int64_t keys, int64_t first_query, T scale, T* lse,
                   int64_t lse_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict s = scores + row * keys;
    const int64_t seen = first_query + row + 1;
    const T max = Max(s, seen) * scale;
    T sum = 0;
    for (int64_t i = 0; i < seen; ++i) {
      const T e = Exp(s[i] * scale - max);
      s[i] = e;
      sum += e;
    }
    const T inverse = T(1) / sum;
    for (int64_t i = 0; i < seen; ++i) s[i] *= inverse;
    for (int64_t i = seen; i < keys; ++i) s[i] = 0;
    lse[row * lse_stride] = max + Log(sum);
  }
}

template <typename T>
void CausalSoftmaxBackward(T* scores, T* dprob, int64_t rows, int64_t keys, int64_t first_query,
                           T scale, const T* lse, int64_t lse_stride, const T* delta,
                           int64_t delta_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict s = scores + row * keys;
    T* __restrict d = dprob + row * keys;
    const int64_t seen = first_query + row + 1;
    const T l = lse[row * lse_stride], mean = delta[row * delta_stride];
    for (int64_t i = 0; i < seen; ++i) {
      const T p = Exp(s[i] * scale - l);
      s[i] = p;
      d[i] = p * (d[i] - mean) * scale;
    }
    for (int64_t i = seen; i < keys; ++i) s[i] = d[i] = 0;
  }
}

template <typename T>
void HeadDots(const T* a, const T* b, T* out, int64_t rows, int64_t heads, int64_t head_dim) {
  for (int64_t i = 0; i < rows * heads; ++i)
    out[i] = Dot(a + i * head_dim, b + i * head_dim, head_dim);
}

template <typename T>
void DecodeHead(const T* query, const T* keys_t, const T* values, int64_t length, int64_t capacity,
                int64_t head_dim, T scale, T* __restrict scores, T* __restrict out) {
  for (int64_t i = 0; i < length; ++i) scores[i] = 0;
  for (int64_t d = 0; d < head_dim; ++d) {
    const T* __restrict key = keys_t + d * capacity;
    const T q = query[d] * scale;
    for (int64_t i = 0; i < length; ++i) scores[i] += q * key[i];
  }
  const T max = Max(scores, length);
  T sum = 0;
  for (int64_t i = 0; i < length; ++i) {
    const T e = Exp(scores[i] - max);
    scores[i] = e;
    sum += e;
  }
  const T inverse = T(1) / sum;
  for (int64_t d = 0; d < head_dim; ++d) out[d] = 0;
  for (int64_t i = 0; i < length; ++i) {
    const T p = scores[i] * inverse;
    const T* __restrict value = values + i * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) out[d] += p * value[d];
  }
}

template <typename T>
void SwigluForward(const T* __restrict gate, const T* __restrict up, T* __restrict h, int64_t n) {
  for (int64_t i = 0; i < n; ++i) h[i] = gate[i] * Sigmoid(gate[i]) * up[i];
}

template <typename T>
void SwigluBackward(T* __restrict gate, T* __restrict up, T* __restrict dh, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T g = gate[i], u = up[i], d = dh[i];
    const T s = Sigmoid(g);
    const T silu = g * s;
    gate[i] = d * u * (s + silu * (T(1) - s));
    up[i] = d * silu;
    dh[i] = silu * u;
  }
}

template <typename T>
void RouterSigmoid(T* __restrict logits, int64_t n) {
  for (int64_t i = 0; i < n; ++i) logits[i] = Sigmoid(logits[i]);
}

template <typename T>
void RouterSoftmax(T* logits, const uint8_t* __restrict masked, int64_t rows, int64_t experts) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict x = logits + row * experts;
    T max = -__builtin_huge_val();
    for (int64_t i = 0; i < experts; ++i) {
      const T alive = masked[i] ? T(-__builtin_huge_val()) : x[i];
      max = alive > max ? alive : max;
    }
    T sum = 0;
    for (int64_t i = 0; i < experts; ++i) {
      const T e = Exp(x[i] - max);
      x[i] = masked[i] ? T(0) : e;
      sum += x[i];
    }
    const T inverse = T(1) / sum;
    for (int64_t i = 0; i < experts; ++i) x[i] *= inverse;
  }
}

template <typename T>
void Combine(const T* expert_rows, const T* weight, const int32_t* slot, T* out, int64_t rows,
             int64_t k, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict o = out + row * width;
    for (int64_t j = 0; j < k; ++j) {
      const T w = weight[row * k + j];
      const T* __restrict y = expert_rows + slot[row * k + j] * width;
      for (int64_t i = 0; i < width; ++i) o[i] += w * y[i];
    }
  }
}

template <typename T>
void CombineNorms(const T* expert_rows, const T* weight, const int32_t* slot, T* out,
                  T* __restrict norms, int64_t rows, int64_t k, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict o = out + row * width;
    for (int64_t j = 0; j < k; ++j) {
      const T w = weight[row * k + j];
      const T* __restrict y = expert_rows + slot[row * k + j] * width;
      T sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        o[i] += w * y[i];
        sum += y[i] * y[i];
      }
      norms[row * k + j] = Sqrt(sum);
    }
  }
}

template <typename T>
void CombineBackward(const T* dout, const T* expert_rows, const T* weight, const int32_t* slot,
                     T* dexpert, T* dweight, int64_t rows, int64_t k, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict d = dout + row * width;
    for (int64_t j = 0; j < k; ++j) {
      const T w = weight[row * k + j];
      const int64_t offset = slot[row * k + j] * width;
      dweight[row * k + j] = Dot(d, expert_rows + offset, width);
      T* __restrict dy = dexpert + offset;  // may be the row just read
      for (int64_t i = 0; i < width; ++i) dy[i] = w * d[i];
    }
  }
}

template <typename T>
void GatherAdd(const T* expert_rows, const int32_t* slot, T* out, int64_t rows, int64_t k,
               int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    T* __restrict o = out + row * width;
    for (int64_t j = 0; j < k; ++j) {
      const T* __restrict x = expert_rows + slot[row * k + j] * width;
      for (int64_t i = 0; i < width; ++i) o[i] += x[i];
    }
  }
}

template <typename T>
void Add(const T* __restrict x, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

template <typename T>
T LogSumExp(const T* __restrict logits, int64_t n, T* entropy) {
  const T max = Max(logits, n);
  T sum = 0, weighted = 0;
  if (entropy == nullptr) {
    for (int64_t i = 0; i < n; ++i) sum += Exp(logits[i] - max);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const T shifted = logits[i] - max;
      const T e = Exp(shifted);
      sum += e;
      weighted += e * shifted;
    }
    *entropy = Log(sum) - weighted / sum;
  }
  return max + Log(sum);
}

template <typename T>
void HeadBackward(T* __restrict logits, int64_t n, int32_t target, T lse, T dlogp) {
  for (int64_t i = 0; i < n; ++i) logits[i] = -dlogp * Exp(logits[i] - lse);
  logits[target] += dlogp;
}

template <typename T>
T SamplingWeights(const T* __restrict logits, int64_t n, T inverse_temperature,
                  T* __restrict weights) {
  const T max = Max(logits, n);
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T e = Exp((logits[i] - max) * inverse_temperature);
    weights[i] = e;
    sum += e;
  }
  return sum;
}

template <typename T>
void AdamWLoop(T* __restrict value, const T* __restrict grad, T* __restrict m1, T* __restrict m2,
               int64_t n, T lr, T beta1, T beta2, T eps, T decay, T inverse_correction1,
               T inverse_correction2, T grad_scale) {
  for (int64_t i = 0; i < n; ++i) {
    const T g = grad[i] * grad_scale;
    const T a = beta1 * m1[i] + (T(1) - beta1) * g;
    const T b = beta2 * m2[i] + (T(1) - beta2) * g * g;
    m1[i] = a;
    m2[i] = b;
    value[i] -=
        lr * (a * inverse_correction1 / (Sqrt(b * inverse_correction2) + eps) + decay * value[i]);
  }
}

template <typename T>
double SquaredNormLoop(const T* __restrict x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

template <typename T>
constexpr Loops<T> Table(const char* name) {
  return Loops<T>{name,
                  RmsNormForward<T>,
                  RmsNormBackward<T>,
                  Rope<T>,
                  CausalSoftmax<T>,
                  CausalSoftmaxBackward<T>,
                  HeadDots<T>,
                  DecodeHead<T>,
                  SwigluForward<T>,
                  SwigluBackward<T>,
                  RouterSigmoid<T>,
                  RouterSoftmax<T>,
                  Combine<T>,
                  CombineNorms<T>,
                  CombineBackward<T>,
                  GatherAdd<T>,
                  Add<T>,
                  LogSumExp<T>,
                  HeadBackward<T>,
                  SamplingWeights<T>,
                  AdamWLoop<T>,
                  SquaredNormLoop<T>};
}

}  // namespace

extern const Loops<float> kFloat;
extern const Loops<double> kDouble;
const Loops<float> kFloat = Table<float>(ESPALIER_LOOPS_NAME);
const Loops<double> kDouble = Table<double>(ESPALIER_LOOPS_NAME);

}  // namespace ESPALIER_LOOPS_SET
}  // namespace espalier::kernels
