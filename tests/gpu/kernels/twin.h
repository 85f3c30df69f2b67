// For tests of CUDA operations against their CPU twins: random inputs, device copies, relative errors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"

namespace espalier::kernels::cuda {

#define SKIP_WITHOUT_GPU()                                       \
  do {                                                           \
    if (DeviceCount() == 0) GTEST_SKIP() << "no GPU on this machine"; \
  } while (0)

// Fresh each run; the seed is printed so that a failure can be repeated (ESPALIER_SEED).
inline std::mt19937_64& Random() {
  static std::mt19937_64 engine = [] {
    const char* given = std::getenv("ESPALIER_SEED");
    const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("seed: ESPALIER_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return std::mt19937_64(seed);
  }();
  return engine;
}

// Values that T can hold exactly, so that both twins see the same numbers.
template <typename T>
std::vector<float> RandomValues(int64_t n, double scale = 1.0) {
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> values(n);
  for (float& value : values) {
    value = static_cast<float>(normal(Random()));
    if constexpr (!std::is_same_v<T, float>) value = __bfloat162float(__float2bfloat16(value));
  }
  return values;
}

// Device array of T filled from floats (or from ints of the same type).
template <typename T>
class Device {
 public:
  explicit Device(int64_t n) : n_(n) {
    EXPECT_TRUE(buffer_.Reserve(n > 0 ? n : 1).ok());
    // NaN everywhere: what is not written shows.
    EXPECT_EQ(cudaSuccess, cudaMemset(buffer_.data(), 0xFF, sizeof(T) * (n > 0 ? n : 1)));
  }
  template <typename From>
  explicit Device(const std::vector<From>& values) : Device(static_cast<int64_t>(values.size())) {
    std::vector<T> converted(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, __nv_bfloat16>) converted[i] = __float2bfloat16(values[i]);
      else converted[i] = static_cast<T>(values[i]);
    }
    EXPECT_EQ(cudaSuccess, cudaMemcpy(buffer_.data(), converted.data(), sizeof(T) * n_, cudaMemcpyHostToDevice));
  }
  T* get() const { return buffer_.data(); }
  std::vector<T> Raw() const {
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    std::vector<T> values(n_);
    EXPECT_EQ(cudaSuccess, cudaMemcpy(values.data(), buffer_.data(), sizeof(T) * n_, cudaMemcpyDeviceToHost));
    return values;
  }
  std::vector<float> Floats() const {
    std::vector<float> out(n_);
    const std::vector<T> raw = Raw();
    for (int64_t i = 0; i < n_; ++i) {
      if constexpr (std::is_same_v<T, __nv_bfloat16>) out[i] = __bfloat162float(raw[i]);
      else out[i] = static_cast<float>(raw[i]);
    }
    return out;
  }

 private:
  int64_t n_;
  Buffer<T> buffer_;
};

// ||got - want|| / ||want||; NaN or infinity anywhere gives infinity.
template <typename Got, typename Want>
double RelativeError(const std::vector<Got>& got, const std::vector<Want>& want) {
  EXPECT_EQ(got.size(), want.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = static_cast<double>(got[i]), b = static_cast<double>(want[i]);
    if (!std::isfinite(a)) return std::numeric_limits<double>::infinity();
    difference += (a - b) * (a - b);
    norm += b * b;
  }
  if (norm == 0) return std::sqrt(difference);
  return std::sqrt(difference / norm);
}

// What rounding to T allows: 2^-8 of bf16 with room for a few roundings; fp32 sums in another order.
template <typename T>
constexpr double Tolerance() {
  return std::is_same_v<T, float> ? 2e-5 : 8e-3;
}

}  // namespace espalier::kernels::cuda
