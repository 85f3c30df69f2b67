// Inputs and comparisons for the tests of the small operations: the CPU twins run in double on the
// very numbers that the device gets, so that what differs is the device's arithmetic and its last
// rounding.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>

#include "libs/base/thread_pool.h"
#include "tests/gpu/kernels/twin.h"

namespace espalier::kernels::cuda {

using Elements = ::testing::Types<float, __nv_bfloat16>;

// Sums in fp32 and one rounding to T: bf16 keeps 8 bits, so an element is off by at most 2^-8 of
// itself (3.91e-3); fp32 sums of a few thousand terms are off by far less than 1e-5.
template <typename T>
constexpr double OneRounding() {
  return std::is_same_v<T, float> ? 1e-5 : 4e-3;
}

inline base::ThreadPool& Pool() {
  static base::ThreadPool pool(2);
  return pool;
}

template <typename From>
std::vector<double> Doubles(const std::vector<From>& values) {
  return std::vector<double>(values.begin(), values.end());
}

// In [low, high).
inline std::vector<int32_t> RandomInts(int64_t n, int32_t low, int32_t high) {
  std::uniform_int_distribution<int32_t> pick(low, high - 1);
  std::vector<int32_t> values(n);
  for (int32_t& value : values) value = pick(Random());
  return values;
}

inline std::vector<int32_t> RandomOrder(int64_t n) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), Random());
  return order;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// ||got - want|| over a scale of the caller's, for results that cancel; NaN or infinity gives
// infinity.
template <typename Got, typename Want>
double ErrorOver(const std::vector<Got>& got, const std::vector<Want>& want, double scale) {
  EXPECT_EQ(got.size(), want.size());
  double sum = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    sum += difference * difference;
  }
  return std::sqrt(sum) / scale;
}

template <typename Number>
double Norm(const std::vector<Number>& values) {
  double sum = 0;
  for (const Number value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

}  // namespace espalier::kernels::cuda
