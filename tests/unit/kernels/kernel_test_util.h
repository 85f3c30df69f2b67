// What the kernel tests share: random arrays, finite differences, comparison by norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace espalier::kernels {

template <typename T>
std::vector<T> RandomVector(int64_t n, uint32_t seed, double scale = 1.0) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(normal(random));
  return values;
}

template <typename T>
double DotOf(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// `analytic` must be the gradient of `loss()` with respect to x, which loss reads. Every element of
// small arrays is probed, every few of larger ones.
inline void ExpectGradient(std::vector<double>& x, const std::vector<double>& analytic,
                           const std::function<double()>& loss, const std::string& what) {
  ASSERT_EQ(x.size(), analytic.size()) << what;
  const size_t stride = std::max<size_t>(1, x.size() / 97);
  for (size_t i = 0; i < x.size(); i += stride) {
    const double before = x[i], step = 1e-5;
    x[i] = before + step;
    const double above = loss();
    x[i] = before - step;
    const double below = loss();
    x[i] = before;
    const double numeric = (above - below) / (2 * step);
    EXPECT_NEAR(analytic[i], numeric, 1e-7 + 1e-6 * std::abs(numeric)) << what << "[" << i << "]";
  }
}

// |a - b| <= tolerance * |b| in the Euclidean norm.
template <typename A, typename B>
void ExpectCloseNorm(const std::vector<A>& a, const std::vector<B>& b, double tolerance,
                     const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << what;
}

}  // namespace espalier::kernels
